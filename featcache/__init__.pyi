"""Public names of featcache. `featcache/__init__.py` reads this file: a name is imported when it is first used."""

from ._utils.remote import allow_scheme as allow_scheme
from .analysis.benchmark.compare import benchmark as benchmark
from .analysis.benchmark.verdict import reach_verdict as reach_verdict
from .analysis.curves import curve as curve
from .analysis.doctor.doctor import doctor as doctor
from .analysis.planning.capacity import Prices as Prices
from .analysis.planning.capacity import Rates as Rates
from .analysis.planning.plan import plan as plan
from .analysis.views.extract import extract as extract
from .backbones.backbone import Backbone as Backbone
from .backbones.load import load_backbone as load_backbone
from .cache.feature_cache import FeatureCache as FeatureCache
from .cache.features import Features as Features
from .cache.transfer import pull as pull
from .cache.transfer import push as push
from .cache.verify import diff as diff
from .cache.verify import verify as verify
from .core.ray_cluster import Cluster as Cluster
from .core.specs import ExtractSpec as ExtractSpec
from .core.view_specs.image import ViewSpec as ViewSpec
from .data.manifest import Manifest as Manifest
from .data.manifest import read_manifest as read_manifest
from .errors import FeatcacheError as FeatcacheError
from .extraction.estimate import estimate as estimate
from .extraction.update import repair as repair
from .extraction.update import update as update
from .finetuning.finetune import finetune as finetune
from .heads.fit_head import fit_head as fit_head
from .heads.linear import LinearHead as LinearHead
from .metrics.predictions import compare_heads as compare_heads
from .models.classifier import Classifier as Classifier
from .models.evaluate import evaluate as evaluate
from .models.export.export import export as export
from .models.prediction import Prediction as Prediction
from .models.serving.app import serve as serve
from .reports.figures import plot_confusion as plot_confusion
from .reports.figures import plot_curve as plot_curve
from .reports.figures import plot_history as plot_history
from .reports.figures import plot_map as plot_map
from .reports.figures import plot_predictions as plot_predictions
from .reports.figures import plot_reliability as plot_reliability
from .reports.figures import plot_views as plot_views
from .reports.try_out import try_out as try_out
from .training.config import TrainConfig as TrainConfig

__version__: str
