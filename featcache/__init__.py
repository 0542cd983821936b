"""featcache: run the frozen network once, keep the features, train image classifiers in seconds.

Names are imported on first use, so that `import featcache` is cheap and reading a cache needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from featcache._utils.remote import allow_scheme
    from featcache.analysis.capacity import CapacityPlan, Prices, Rates, plan_capacity
    from featcache.analysis.comparison import compare
    from featcache.analysis.curves import Curve, label_curve, view_curve
    from featcache.analysis.doctor import examine
    from featcache.analysis.findings import Diagnosis, Finding
    from featcache.analysis.forecasting import Forecast, forecast
    from featcache.analysis.outcomes import Comparison
    from featcache.analysis.rates import measure_rates
    from featcache.analysis.verdict import Verdict, reach_verdict
    from featcache.backbones.backbones import Backbone, load_backbone
    from featcache.cache.cache import FeatureCache
    from featcache.cache.features import Features
    from featcache.cache.transfer import Transfer, pull, push
    from featcache.cache.verification import Difference, Verification, diff, verify
    from featcache.core.machines import Cluster
    from featcache.core.spec import ExtractSpec, ViewSpec
    from featcache.data.manifest import Manifest, read_manifest
    from featcache.errors import FeatcacheError
    from featcache.extraction.estimating import Estimate, estimate
    from featcache.extraction.extraction import Extraction, extract
    from featcache.extraction.updating import Update, repair, update
    from featcache.heads.fitting import HeadFit, fit_head
    from featcache.heads.linear import LinearHead
    from featcache.metrics.predictions import HeadComparison, compare_heads
    from featcache.models.classifier import Classifier
    from featcache.models.evaluating import Evaluation, evaluate
    from featcache.models.exporting import Exported, export
    from featcache.models.finetuning import FineTune, finetune
    from featcache.models.prediction import Prediction
    from featcache.models.serving import serve
    from featcache.reports.figures import (
        plot_confusion,
        plot_curve,
        plot_history,
        plot_map,
        plot_predictions,
        plot_reliability,
        plot_views,
    )
    from featcache.reports.trying import Trial, try_out
    from featcache.training.recipe import Recipe

_HOME = {
    "Backbone": "backbones.backbones",
    "CapacityPlan": "analysis.capacity",
    "Classifier": "models.classifier",
    "Cluster": "core.machines",
    "Comparison": "analysis.outcomes",
    "Curve": "analysis.curves",
    "Diagnosis": "analysis.findings",
    "Difference": "cache.verification",
    "Estimate": "extraction.estimating",
    "Evaluation": "models.evaluating",
    "Exported": "models.exporting",
    "ExtractSpec": "core.spec",
    "Extraction": "extraction.extraction",
    "FeatcacheError": "errors",
    "FeatureCache": "cache.cache",
    "Features": "cache.features",
    "Finding": "analysis.findings",
    "FineTune": "models.finetuning",
    "Forecast": "analysis.forecasting",
    "HeadComparison": "metrics.predictions",
    "HeadFit": "heads.fitting",
    "LinearHead": "heads.linear",
    "Manifest": "data.manifest",
    "Prediction": "models.prediction",
    "Prices": "analysis.capacity",
    "Rates": "analysis.capacity",
    "Recipe": "training.recipe",
    "Transfer": "cache.transfer",
    "Trial": "reports.trying",
    "Update": "extraction.updating",
    "Verdict": "analysis.verdict",
    "Verification": "cache.verification",
    "ViewSpec": "core.spec",
    "allow_scheme": "_utils.remote",
    "compare": "analysis.comparison",
    "compare_heads": "metrics.predictions",
    "diff": "cache.verification",
    "estimate": "extraction.estimating",
    "evaluate": "models.evaluating",
    "examine": "analysis.doctor",
    "export": "models.exporting",
    "extract": "extraction.extraction",
    "finetune": "models.finetuning",
    "fit_head": "heads.fitting",
    "forecast": "analysis.forecasting",
    "label_curve": "analysis.curves",
    "load_backbone": "backbones.backbones",
    "measure_rates": "analysis.rates",
    "plan_capacity": "analysis.capacity",
    "plot_confusion": "reports.figures",
    "plot_curve": "reports.figures",
    "plot_history": "reports.figures",
    "plot_map": "reports.figures",
    "plot_predictions": "reports.figures",
    "plot_reliability": "reports.figures",
    "plot_views": "reports.figures",
    "pull": "cache.transfer",
    "push": "cache.transfer",
    "reach_verdict": "analysis.verdict",
    "read_manifest": "data.manifest",
    "repair": "extraction.updating",
    "serve": "models.serving",
    "try_out": "reports.trying",
    "update": "extraction.updating",
    "verify": "cache.verification",
    "view_curve": "analysis.curves",
}

__all__ = [
    "Backbone",
    "CapacityPlan",
    "Classifier",
    "Cluster",
    "Comparison",
    "Curve",
    "Diagnosis",
    "Difference",
    "Estimate",
    "Evaluation",
    "Exported",
    "ExtractSpec",
    "Extraction",
    "FeatcacheError",
    "FeatureCache",
    "Features",
    "Finding",
    "FineTune",
    "Forecast",
    "HeadComparison",
    "HeadFit",
    "LinearHead",
    "Manifest",
    "Prediction",
    "Prices",
    "Rates",
    "Recipe",
    "Transfer",
    "Trial",
    "Update",
    "Verdict",
    "Verification",
    "ViewSpec",
    "allow_scheme",
    "compare",
    "compare_heads",
    "diff",
    "estimate",
    "evaluate",
    "examine",
    "export",
    "extract",
    "finetune",
    "fit_head",
    "forecast",
    "label_curve",
    "load_backbone",
    "measure_rates",
    "plan_capacity",
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
    "view_curve",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("featcache")
    if name not in _HOME:
        raise AttributeError(f"module 'featcache' has no attribute {name!r}")
    return getattr(importlib.import_module(f"featcache.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
