"""featcache: run the frozen network once, keep the features, train image classifiers in seconds.

Names are imported on first use, so that `import featcache` is cheap and reading a cache needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from featcache._utils.remote import allow_scheme
    from featcache.analysis.benchmark.compare import benchmark
    from featcache.analysis.benchmark.outcomes import Comparison
    from featcache.analysis.benchmark.verdict import Verdict, reach_verdict
    from featcache.analysis.curves import Curve, curve
    from featcache.analysis.doctor.doctor import doctor
    from featcache.analysis.doctor.findings import DoctorReport, Issue
    from featcache.analysis.forecast.forecast import Forecast, forecast
    from featcache.analysis.planning.capacity import CapacityPlan, Prices, Rates
    from featcache.analysis.planning.plan import plan
    from featcache.backbones.backbone import Backbone
    from featcache.backbones.load import load_backbone
    from featcache.cache.feature_cache import FeatureCache
    from featcache.cache.features import Features
    from featcache.cache.transfer import Transfer, pull, push
    from featcache.cache.verify import Difference, Verification, diff, verify
    from featcache.core.ray_cluster import Cluster
    from featcache.core.specs import ExtractSpec, ViewSpec
    from featcache.data.manifest import Manifest, read_manifest
    from featcache.errors import FeatcacheError
    from featcache.extraction.estimate import Estimate, estimate
    from featcache.extraction.extract import extract
    from featcache.extraction.results import Extraction, Update
    from featcache.extraction.update import repair, update
    from featcache.finetuning.finetune import finetune
    from featcache.finetuning.result import FineTune
    from featcache.heads.fit_head import HeadFit, fit_head
    from featcache.heads.linear import LinearHead
    from featcache.metrics.predictions import HeadComparison, compare_heads
    from featcache.models.classifier import Classifier
    from featcache.models.evaluate import evaluate
    from featcache.models.evaluation import Evaluation
    from featcache.models.export.export import Exported, export
    from featcache.models.prediction import Prediction
    from featcache.models.serving.app import serve
    from featcache.reports.figures import (
        plot_confusion,
        plot_curve,
        plot_history,
        plot_map,
        plot_predictions,
        plot_reliability,
        plot_views,
    )
    from featcache.reports.try_out import Trial, try_out
    from featcache.training.config import TrainConfig

_HOME = {
    "Backbone": "backbones.backbone",
    "CapacityPlan": "analysis.planning.capacity",
    "Classifier": "models.classifier",
    "Cluster": "core.ray_cluster",
    "Comparison": "analysis.benchmark.outcomes",
    "Curve": "analysis.curves",
    "Difference": "cache.verify",
    "DoctorReport": "analysis.doctor.findings",
    "Estimate": "extraction.estimate",
    "Evaluation": "models.evaluation",
    "Exported": "models.export.export",
    "ExtractSpec": "core.specs",
    "Extraction": "extraction.results",
    "FeatcacheError": "errors",
    "FeatureCache": "cache.feature_cache",
    "Features": "cache.features",
    "FineTune": "finetuning.result",
    "Forecast": "analysis.forecast.forecast",
    "HeadComparison": "metrics.predictions",
    "HeadFit": "heads.fit_head",
    "Issue": "analysis.doctor.findings",
    "LinearHead": "heads.linear",
    "Manifest": "data.manifest",
    "Prediction": "models.prediction",
    "Prices": "analysis.planning.capacity",
    "Rates": "analysis.planning.capacity",
    "TrainConfig": "training.config",
    "Transfer": "cache.transfer",
    "Trial": "reports.try_out",
    "Update": "extraction.results",
    "Verdict": "analysis.benchmark.verdict",
    "Verification": "cache.verify",
    "ViewSpec": "core.specs",
    "allow_scheme": "_utils.remote",
    "benchmark": "analysis.benchmark.compare",
    "compare_heads": "metrics.predictions",
    "curve": "analysis.curves",
    "diff": "cache.verify",
    "estimate": "extraction.estimate",
    "evaluate": "models.evaluate",
    "doctor": "analysis.doctor.doctor",
    "export": "models.export.export",
    "extract": "extraction.extract",
    "finetune": "finetuning.finetune",
    "fit_head": "heads.fit_head",
    "forecast": "analysis.forecast.forecast",
    "load_backbone": "backbones.load",
    "plan": "analysis.planning.plan",
    "plot_confusion": "reports.figures",
    "plot_curve": "reports.figures",
    "plot_history": "reports.figures",
    "plot_map": "reports.figures",
    "plot_predictions": "reports.figures",
    "plot_reliability": "reports.figures",
    "plot_views": "reports.figures",
    "pull": "cache.transfer",
    "push": "cache.transfer",
    "reach_verdict": "analysis.benchmark.verdict",
    "read_manifest": "data.manifest",
    "repair": "extraction.update",
    "serve": "models.serving.app",
    "try_out": "reports.try_out",
    "update": "extraction.update",
    "verify": "cache.verify",
}

_DEPRECATED = {
    "Diagnosis": ("DoctorReport", "analysis.doctor.findings.DoctorReport"),
    "Finding": ("Issue", "analysis.doctor.findings.Issue"),
    "Recipe": ("TrainConfig", "training.config.TrainConfig"),
    "compare": ("benchmark", "analysis.benchmark.compare.benchmark"),
    "examine": ("doctor", "analysis.doctor.doctor.doctor"),
    "label_curve": ('curve(by="labels")', "analysis.curves.label_curve"),
    "measure_rates": ("plan", "analysis.planning.rates.measure_rates"),
    "plan_capacity": ("plan", "analysis.planning.capacity.plan_capacity"),
    "view_curve": ('curve(by="views")', "analysis.curves.view_curve"),
}
"""Old public names: the new name, and the object that the old name still gives."""

__all__ = [
    "Backbone",
    "CapacityPlan",
    "Classifier",
    "Cluster",
    "Comparison",
    "Curve",
    "Difference",
    "DoctorReport",
    "Estimate",
    "Evaluation",
    "Exported",
    "ExtractSpec",
    "Extraction",
    "FeatcacheError",
    "FeatureCache",
    "Features",
    "FineTune",
    "Forecast",
    "HeadComparison",
    "HeadFit",
    "Issue",
    "LinearHead",
    "Manifest",
    "Prediction",
    "Prices",
    "Rates",
    "TrainConfig",
    "Transfer",
    "Trial",
    "Update",
    "Verdict",
    "Verification",
    "ViewSpec",
    "allow_scheme",
    "benchmark",
    "compare_heads",
    "curve",
    "diff",
    "doctor",
    "estimate",
    "evaluate",
    "export",
    "extract",
    "finetune",
    "fit_head",
    "forecast",
    "load_backbone",
    "plan",
    "plot_confusion",
    "plot_curve",
    "plot_history",
    "plot_map",
    "plot_predictions",
    "plot_reliability",
    "plot_views",
    "pull",
    "push",
    "reach_verdict",
    "read_manifest",
    "repair",
    "serve",
    "try_out",
    "update",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("featcache")
    if name in _DEPRECATED:
        from featcache._utils.deprecation import warn_renamed

        new, path = _DEPRECATED[name]
        warn_renamed(f"featcache.{name}", f"featcache.{new}")
        module, _, attribute = path.rpartition(".")
        return getattr(importlib.import_module(f"featcache.{module}"), attribute)
    if name not in _HOME:
        raise AttributeError(f"module 'featcache' has no attribute {name!r}")
    return getattr(importlib.import_module(f"featcache.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
