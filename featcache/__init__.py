"""featcache: run the frozen network once, keep the features, train image classifiers in seconds.

Names are imported on first use, so that `import featcache` is cheap and reading a cache needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from featcache.backbones import Backbone, load_backbone
    from featcache.cache import FeatureCache
    from featcache.capacity import CapacityPlan, Prices, Rates, plan_capacity
    from featcache.classifier import Classifier
    from featcache.comparison import compare
    from featcache.curves import Curve, label_curve, view_curve
    from featcache.doctor import examine
    from featcache.errors import FeatcacheError
    from featcache.estimating import Estimate, estimate
    from featcache.evaluating import Evaluation, evaluate
    from featcache.exporting import Exported, export
    from featcache.extraction import Extraction, extract
    from featcache.features import Features
    from featcache.figures import (
        plot_confusion,
        plot_curve,
        plot_history,
        plot_map,
        plot_predictions,
        plot_reliability,
        plot_views,
    )
    from featcache.findings import Diagnosis, Finding
    from featcache.finetuning import FineTune, finetune
    from featcache.fitting import HeadFit, fit_head
    from featcache.forecasting import Forecast, forecast
    from featcache.linear import LinearHead
    from featcache.machines import Cluster
    from featcache.manifest import Manifest, read_manifest
    from featcache.outcomes import Comparison
    from featcache.prediction import Prediction
    from featcache.predictions import HeadComparison, compare_heads
    from featcache.rates import measure_rates
    from featcache.recipe import Recipe
    from featcache.serving import serve
    from featcache.spec import ExtractSpec, ViewSpec
    from featcache.transfer import Transfer, pull, push
    from featcache.trying import Trial, try_out
    from featcache.updating import Update, repair, update
    from featcache.verdict import Verdict, reach_verdict
    from featcache.verification import Difference, Verification, diff, verify

_HOME = {
    "Backbone": "backbones",
    "CapacityPlan": "capacity",
    "Classifier": "classifier",
    "Cluster": "machines",
    "Comparison": "outcomes",
    "Curve": "curves",
    "Diagnosis": "findings",
    "Difference": "verification",
    "Estimate": "estimating",
    "Evaluation": "evaluating",
    "Exported": "exporting",
    "ExtractSpec": "spec",
    "Extraction": "extraction",
    "FeatcacheError": "errors",
    "FeatureCache": "cache",
    "Features": "features",
    "Finding": "findings",
    "FineTune": "finetuning",
    "Forecast": "forecasting",
    "HeadComparison": "predictions",
    "HeadFit": "fitting",
    "LinearHead": "linear",
    "Manifest": "manifest",
    "Prediction": "prediction",
    "Prices": "capacity",
    "Rates": "capacity",
    "Recipe": "recipe",
    "Transfer": "transfer",
    "Trial": "trying",
    "Update": "updating",
    "Verdict": "verdict",
    "Verification": "verification",
    "ViewSpec": "spec",
    "compare": "comparison",
    "compare_heads": "predictions",
    "diff": "verification",
    "estimate": "estimating",
    "evaluate": "evaluating",
    "examine": "doctor",
    "export": "exporting",
    "extract": "extraction",
    "finetune": "finetuning",
    "fit_head": "fitting",
    "forecast": "forecasting",
    "label_curve": "curves",
    "load_backbone": "backbones",
    "measure_rates": "rates",
    "plan_capacity": "capacity",
    "plot_confusion": "figures",
    "plot_curve": "figures",
    "plot_history": "figures",
    "plot_map": "figures",
    "plot_predictions": "figures",
    "plot_reliability": "figures",
    "plot_views": "figures",
    "pull": "transfer",
    "push": "transfer",
    "reach_verdict": "verdict",
    "read_manifest": "manifest",
    "repair": "updating",
    "serve": "serving",
    "try_out": "trying",
    "update": "updating",
    "verify": "verification",
    "view_curve": "curves",
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
