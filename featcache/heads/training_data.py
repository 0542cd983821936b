"""What the steps from a cache to a head hand on: `TrainingData` and `FitOptions` to `fit`, which returns `Fitted`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from featcache._utils.formatting import brief
from featcache._utils.progress_bar import Progress
from featcache.backbones.devices import resolve_device
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features, ViewUse
from featcache.cache.joined_cache import JoinedCache
from featcache.core.head_options import HeadFitOptions
from featcache.core.layer_names import grid_side, join_layers, parse_layer
from featcache.core.options import with_defaults
from featcache.core.specs import PENULTIMATE, ExtractSpec, Scaling, UseViews
from featcache.core.split_names import UNLABELED
from featcache.core.thresholds import LEAST, Thresholds, check_thresholds, choose_thresholds, format_thresholds
from featcache.errors import CacheIncompleteError, HeadError

if TYPE_CHECKING:
    from featcache.heads.cache_comparison import CacheComparison
    from featcache.heads.held_out import HeldOutPredictions, HeldOutScores
    from featcache.heads.ray.coordinator import TrainingCluster
    from featcache.heads.self_training import SelfTraining
    from featcache.heads.tuning.layer_selection import LayerChoices, LayerSelection
    from featcache.heads.tuning.selection import Selection

_DEFAULTS = with_defaults(HeadFitOptions, {})


@dataclass(frozen=True)
class TrainingData:
    """Features that a head is fitted to and evaluated on.

    Parameters
    ----------
    train : Features
        The images that it is fitted to.
    val : Features
        The images that it is evaluated on; sgd also chooses its epoch by them.
    test : Features, optional
        Images for a second evaluation; None if there are none.
    unlabeled : Features, optional
        Samples without a label that the head may learn from, see `featcache.heads.self_training`. None: it must not.
    layers : tuple of str
        The layers that the features come from.
    spec : ExtractSpec, optional
        How the cache was extracted; None for features without a cache.
    weights : str
        The weights of its network, see `load_backbone`.
    keep_layers : bool
        Whether a head must use all layers. Else cross-validation chooses.
    choices : LayerChoices, optional
        The layers and weights to choose among first. None: those of one network, see `select_layers`.
    """

    train: Features
    val: Features
    test: Features | None = None
    unlabeled: Features | None = None
    layers: tuple[str, ...] = (PENULTIMATE,)
    spec: ExtractSpec | None = None
    weights: str = "pretrained"
    keep_layers: bool = True
    choices: LayerChoices | None = None

    @classmethod
    def read(
        cls,
        cache: FeatureCache | JoinedCache,
        layer: str,
        *,
        tta: int = 0,
        with_test: bool = False,
        with_unlabeled: bool = False,
        check_train: bool = True,
    ) -> TrainingData:
        """The features of a layer of a cache.

        Parameters
        ----------
        cache : FeatureCache or JoinedCache
            An open cache, or several.
        layer : str
            One layer, several joined by commas, or "all", see `featcache.core.layer_names`.
        tta : int
            Augmented views that each val image must have.
        with_test : bool
            Whether to read the split test, too.
        with_unlabeled : bool
            Whether to read the samples without a label, too.
        check_train : bool
            Whether to compare the features of train with their checksums.

        Raises
        ------
        CacheError
            The cache has no such layer or views, it is damaged, or train or val has no readable images, or too few of
            them have a label; or there are no readable samples without a label, and there should be some.
        """
        layers = cache.layers(layer)
        if reason := cache.summary().too_few_labels:
            raise CacheIncompleteError(f"{cache.path}: {reason}")
        train, val = cache.features("train", layer, check=check_train), cache.features("val", layer)
        test = cache.features("test", layer) if with_test else None
        for split, features in (("train", train), ("val", val)):
            if not len(features.samples):
                raise CacheIncompleteError(f"{cache.path} has no readable {split} {cache.spec.modality}s")
        if tta > val.views:
            raise CacheIncompleteError(
                f"tta averages {tta} augmented views of a sample, but the cache has {val.views} of its val samples. "
                f"Extract with --val-views {tta}."
            )
        weights = cache.provenance.get("weights", "pretrained")
        return cls(
            train,
            val,
            test if test and len(test.samples) else None,
            _read_unlabeled(cache, layer) if with_unlabeled else None,
            tuple(layers),
            cache.spec,
            weights,
        )

    @property
    def layer(self) -> str:
        """The layers as one text, as a model card has them."""
        return join_layers(self.layers)

    @property
    def positions(self) -> int:
        """Positions of the feature map that the features are of, such as 49 for a 7 x 7 grid; 0 if there is no map."""
        return grid_side(parse_layer(self.layers[0])[1]) ** 2 if len(self.layers) == 1 else 0

    def take_layers(self, numbers: Sequence[int]) -> TrainingData:
        """The same with some layers, by their numbers."""
        if len(numbers) == len(self.layers):
            return self
        return replace(
            self,
            train=self.train.take_layers(numbers),
            val=self.val.take_layers(numbers),
            test=self.test.take_layers(numbers) if self.test else None,
            unlabeled=self.unlabeled.take_layers(numbers) if self.unlabeled else None,
            layers=tuple(self.layers[number] for number in numbers),
        )

    def scaled(self, scale: NDArray[np.float32]) -> TrainingData:
        """The same with each feature of train, val and unlabeled multiplied by its scale, shape (d,)."""
        unlabeled = self.unlabeled.scaled(scale) if self.unlabeled else None
        return replace(self, train=self.train.scaled(scale), val=self.val.scaled(scale), unlabeled=unlabeled)


def _read_unlabeled(cache: FeatureCache | JoinedCache, layer: str) -> Features:
    """Raises CacheIncompleteError if there are none."""
    noun, features = cache.spec.modality, cache.features(UNLABELED, layer)
    if len(features.samples):
        return features
    if len(cache.samples.rows(UNLABELED)):
        raise CacheIncompleteError(f"{cache.path}: none of the {noun}s without a label could be read: `featcache info`")
    raise CacheIncompleteError(
        f"{cache.path} has no {noun}s without a label to learn from: all {len(cache.samples)} have one. Leave out "
        f"unlabeled (--unlabeled), or add {noun}s without a label to the data (a folder {UNLABELED} beside the class "
        "folders, or rows of a table with an empty label), and run `featcache update CACHE DATA`."
    )


@dataclass(frozen=True)
class FitOptions:
    """How a head is fitted.

    Parameters
    ----------
    parameters, progress, on_epoch
        See `featcache.heads.fit_head.fit_head`.
    use_views, cv, budget_s, scaling, calibrate, thresholds, seed, device
        See `featcache.core.options.HeadFitOptions`.
    cluster : TrainingCluster, optional
        Machines that share the training rows.
    will_be_saved : bool
        Whether the head will be saved. A head that cannot be saved is rejected before it is fitted.
    """

    parameters: dict[str, Any] = field(default_factory=dict)
    use_views: UseViews | None = _DEFAULTS["use_views"]
    cv: int | None = _DEFAULTS["cv"]
    budget_s: float | None = _DEFAULTS["budget_s"]
    scaling: Scaling | None = _DEFAULTS["scaling"]
    calibrate: bool = _DEFAULTS["calibrate"]
    thresholds: Thresholds | None = _DEFAULTS["thresholds"]
    seed: int = _DEFAULTS["seed"]
    device: str = "cpu"  # `fit_head` passes its own
    cluster: TrainingCluster | None = None
    will_be_saved: bool = False
    progress: Progress | None = None
    on_epoch: Callable[[Any], None] | None = None

    @property
    def view_use(self) -> ViewUse:
        """The views that heads are fitted to which do not train in epochs. Raises HeadError for "cycle"."""
        if self.use_views == "cycle":
            raise HeadError("cycle trains on one view an epoch, as sgd and attention do; use all, mean or clean")
        return self.use_views or "all"

    @property
    def compute_device(self) -> str:
        """The device that "auto" stands for; "cpu" with a cluster, whose workers have their own."""
        return "cpu" if self.cluster else resolve_device(self.device)

    def label_thresholds(self, classes: tuple[str, ...]) -> NDArray[np.float64] | str | None:
        """`thresholds` as one number for each label, "f1", or None. Raises HeadError."""
        return None if self.thresholds is None else check_thresholds(self.thresholds, classes)

    def reject(self, *names: str, message: str) -> None:
        """Raise HeadError with "OPTION MESSAGE" if one of these options is set."""
        for name in names:
            if getattr(self, name) is not None and getattr(self, name) is not False:
                raise HeadError(f"{name} {message}")


@dataclass(frozen=True)
class Fitted:
    """A fitted classifier.

    Parameters
    ----------
    estimator : estimator
        The classifier.
    name : str
        The name of the head.
    history : list
        Metrics of the epochs of sgd.
    selection : Selection, optional
        The result of cross-validation.
    uncalibrated : estimator, optional
        The classifier before its logits were divided by the temperature, if they were.
    notes : tuple of str
        What the user should know, a line each.
    thresholds : ndarray, shape (c,), optional
        Probabilities above which labels are predicted; None: 0.5 for each.
    layers : tuple of str
        The layers that it was fitted to.
    layer_selection : LayerSelection, optional
        How they were chosen.
    held_out : HeldOutScores, optional
        Scores of held-out training samples, if there are some with one label each.
    self_training : SelfTraining, optional
        What became of samples without a label.
    held_out_predictions : HeldOutPredictions, optional
        What the head predicted of the training samples that were held out.
    cache_comparison : CacheComparison, optional
        Of several caches: how those were chosen that it uses.
    """

    estimator: BaseEstimator
    name: str
    history: list[Any] = field(default_factory=list)
    selection: Selection | None = None
    uncalibrated: BaseEstimator | None = None
    notes: tuple[str, ...] = ()
    thresholds: NDArray[np.float64] | None = None
    layers: tuple[str, ...] = (PENULTIMATE,)
    layer_selection: LayerSelection | None = None
    held_out: HeldOutScores | None = None
    self_training: SelfTraining | None = None
    held_out_predictions: HeldOutPredictions | None = None
    cache_comparison: CacheComparison | None = None

    def with_thresholds(
        self,
        thresholds: NDArray[np.float64] | str | None,
        classes: tuple[str, ...],
        y: NDArray[Any] | None,
        probabilities: NDArray[np.float64] | None,
    ) -> Fitted:
        """The same with the thresholds of the user, or with those of the highest F1 on held-out images.

        Parameters
        ----------
        thresholds : ndarray of shape (c,), "f1" or None
            See `featcache.core.thresholds.check_thresholds`; None changes nothing.
        classes : tuple of str
            Names of the labels.
        y, probabilities : ndarray, shape (m, c)
            Labels and probabilities of held-out images, for "f1".
        """
        if thresholds is None:
            return self
        if not isinstance(thresholds, str):
            note = f"thresholds as given: {format_thresholds(thresholds)}"
            return replace(self, thresholds=thresholds, notes=(*self.notes, note))
        if y is None or probabilities is None:
            raise AssertionError("thresholds with the highest F1 need held-out samples")
        best, unknown = choose_thresholds(y, probabilities)
        notes = [
            "thresholds with the highest F1 on held-out samples (whose figures are at 0.5): " + format_thresholds(best)
        ]
        if unknown.any():
            names = brief([classes[label] for label in np.flatnonzero(unknown)])
            notes.append(
                f"{int(unknown.sum())} of {len(classes)} labels keep 0.5, since fewer than {LEAST} held-out samples "
                f"have them, or all: {names}"
            )
        return replace(self, thresholds=best, notes=(*self.notes, *notes))
