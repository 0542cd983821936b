"""featcache: run the frozen network once, keep the features, train classifiers of images and texts in seconds.

The public names are listed in `__init__.pyi`. A name is imported when it is first used, so that `import featcache` is
cheap and a cache is read without PyTorch.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

_DEPRECATED = {
    "Diagnosis": ("analysis.doctor.findings.DoctorReport", "analysis.doctor.findings.DoctorReport"),
    "Finding": ("analysis.doctor.findings.Issue", "analysis.doctor.findings.Issue"),
    "Recipe": ("TrainConfig", "training.config.TrainConfig"),
    "compare": ("benchmark", "analysis.benchmark.compare.benchmark"),
    "examine": ("doctor", "analysis.doctor.doctor.doctor"),
    "label_curve": ('curve(over="labels")', "analysis.curves.label_curve"),
    "measure_rates": ("plan", "analysis.planning.rates.measure_rates"),
    "plan_capacity": ("plan", "analysis.planning.capacity.plan_capacity"),
    "view_curve": ('curve(over="views")', "analysis.curves.view_curve"),
}
"""Former public names: the new name, and the object that the former name still gives."""

_RESULTS = {
    "CapacityPlan": "analysis.planning.capacity",
    "Comparison": "analysis.benchmark.outcomes",
    "Curve": "analysis.curves",
    "Difference": "cache.verify",
    "DoctorReport": "analysis.doctor.findings",
    "Estimate": "extraction.estimate",
    "Evaluation": "models.evaluation",
    "Exported": "models.export.export",
    "Extraction": "extraction.results",
    "FineTune": "finetuning.result",
    "HeadComparison": "metrics.predictions",
    "HeadFit": "heads.fit_head",
    "Issue": "analysis.doctor.findings",
    "Transfer": "cache.transfer",
    "Trial": "reports.trial",
    "Update": "extraction.results",
    "Verdict": "analysis.benchmark.verdict",
    "Verification": "cache.verify",
}
"""Classes of results that were public names: the module of each. Users get them from functions and rarely name them."""


_REMOVED = {
    "forecast": "it was not better than always answering that fine-tuning brings no gain. "
    "featcache.benchmark(data, budget_s=...) measures the gain, featcache.curve(cache) estimates the gain from "
    "more labels",
}
"""Former public names without a new one: why, and what to use."""


@functools.cache
def _stub() -> tuple[Any, list[str]]:
    """What imports a public name, and all public names. It reads `__init__.pyi`, so it waits for the first name."""
    import lazy_loader

    public_attribute, _, names = lazy_loader.attach_stub(__name__, __file__)
    return public_attribute, names


def __dir__() -> list[str]:
    return [*_stub()[1]]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("featcache")
    if name in _DEPRECATED:
        new, path = _DEPRECATED[name]
        return _deprecated(name, f"featcache.{new}", path)
    if name in _RESULTS:
        module = _RESULTS[name]
        return _deprecated(name, f"featcache.{module}.{name}", f"{module}.{name}")
    public_attribute, names = _stub()
    if name == "__all__":
        return names
    if name in _REMOVED:
        raise AttributeError(f"featcache.{name} was removed: {_REMOVED[name]}", name=name)
    if name not in names:
        raise AttributeError(f"module 'featcache' has no attribute {name!r}")
    return public_attribute(name)


def _deprecated(name: str, new: str, path: str) -> Any:
    from featcache._utils.deprecation import warn_renamed

    warn_renamed(f"featcache.{name}", new, stacklevel=3)
    module, _, attribute = path.rpartition(".")
    return getattr(importlib.import_module(f"featcache.{module}"), attribute)
