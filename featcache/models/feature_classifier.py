"""`FeatureClassifier`: a saved head that predicts the samples of a cache from their features, without the network."""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import numpy as np

from featcache._utils.formatting import indefinite, plural, split_names
from featcache._utils.results import NotebookResult
from featcache.cache.cached_data import CachedData
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features
from featcache.cache.joined_cache import Caches, JoinedCache, list_caches
from featcache.cache.mismatch import short_value
from featcache.cache.rows import ALL, iter_features, select_splits
from featcache.core.model_card import ModelCard, NetworkCard
from featcache.core.specs import AUGMENTED_FIELDS, STORAGE_FIELDS, ExtractSpec, is_arrays
from featcache.errors import CacheIncompleteError, CacheMismatchError, RemoteIOError
from featcache.heads.predict import classify
from featcache.models.defaults import TOP_CLASSES
from featcache.models.inputs.base import SampleFile
from featcache.models.inputs.names import samples_of
from featcache.models.labelling import Labelling, Labels
from featcache.models.load import check_width, open_head
from featcache.models.prediction import Prediction, Predictions


class FeatureClassifier(NotebookResult):
    """A saved head without its network. It predicts the samples of caches, thousands a second.

    The predictions are those of `Classifier` for the same images or texts, but for the rounding of the stored features,
    by 1/2048 in float16. On photos this changes probabilities by 0.001 or less; a head with very large weights, such as
    one of a handful of samples, makes more of it. A cache has no remarks on samples, such as "nearly black".

    Parameters
    ----------
    name : str
        The folder of the model, for messages.
    card : ModelCard
        What the model is: backbone, head, metrics.
    estimator : estimator
        The fitted classifier.

    Attributes
    ----------
    card : ModelCard
        What the model is: backbone, head, metrics.
    classes : tuple of str
        The class names.

    Examples
    --------
    >>> import numpy as np
    >>> from featcache import FeatureCache, FeatureClassifier, fit_head
    >>> y = np.array(["cat", "dog"] * 50)
    >>> x = np.random.default_rng(0).normal(size=(100, 8)) + 3 * (y == "dog")[:, None]
    >>> cache = FeatureCache.from_arrays(x, y)
    >>> fit = fit_head(cache, "dog-head", head="ridge")
    >>> predictions = FeatureClassifier.load("dog-head").predict(cache, split="val")
    >>> len(predictions), predictions[0].label in ("cat", "dog")
    (20, True)
    """

    def __init__(self, name: str, card: ModelCard, estimator: Any) -> None:
        self.card, self.classes = card, card.classes
        self._name, self._estimator = name, estimator

    def __str__(self) -> str:
        """One line: the head, its layers and its network."""
        networks = "its networks" if self.card.networks else "its network"
        return f"head {self.card.head} on features ({self.card.layer}) of {self.card.backbones}, without {networks}"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FeatureClassifier:
        """Load a folder that `fit_head` wrote. It runs no code from the files.

        Parameters
        ----------
        path : path
            The folder.

        Returns
        -------
        FeatureClassifier

        Raises
        ------
        HeadError
            The folder holds no model, a damaged one, or a fine-tuned network, whose features no cache has.
        """
        return cls(os.fspath(path), *open_head(path))

    def predict(
        self,
        cache: Caches,
        data: str | os.PathLike[str] | CachedData | None = None,
        *,
        split: str = ALL,
        top: int = TOP_CLASSES,
        tta: int | None = None,
        coverage: float | None = None,
        unknown: bool = False,
    ) -> Predictions:
        """Predict the samples of a cache, see `stream`.

        Parameters
        ----------
        cache : path or FeatureCache, or several
            See `stream`.
        data : path or CachedData, optional
            See `stream`.
        split : str
            See `stream`. Default: "all".
        top : int
            How many classes to name. Default: 5.
        tta : int, optional
            See `stream`.
        coverage : float, optional
            See `stream`.
        unknown : bool
            See `stream`. Default: False.

        Returns
        -------
        list of Prediction
            A notebook shows it as a table.
        """
        stream = self.stream(cache, data, split=split, top=top, tta=tta, coverage=coverage, unknown=unknown)
        return Predictions(stream)

    def stream(
        self,
        cache: Caches,
        data: str | os.PathLike[str] | CachedData | None = None,
        *,
        split: str = ALL,
        top: int = TOP_CLASSES,
        tta: int | None = None,
        coverage: float | None = None,
        unknown: bool = False,
    ) -> Generator[Prediction, None, None]:
        """Predict the samples of a cache, some thousand at a time, so that it may be larger than memory.

        Parameters
        ----------
        cache : path or FeatureCache, or several
            With features of the network, preprocessing and precision of the head's. It may hold more layers. For a head
            on several networks a cache of each, of the same samples, in any order.
        data : path or CachedData, optional
            What the cache was made from. Paths are then those of its files, or the places of texts in a table, and
            texts have their beginnings. Every file is read: one with other bytes than the cache was made from has an
            error. Default: paths are the ids of the cache.
        split : {"all", "train", "val", "test", "unlabeled"}
            Which samples to predict. Default: "all".
        top : int
            How many classes to name. Default: 5.
        tta : int, optional
            How many augmented views of each sample, which the cache must have, are averaged with the clean view.
            Default: as many as the metrics of the head were averaged over.
        coverage : float, optional
            See `Classifier.stream`.
        unknown : bool
            See `Classifier.stream`. Default: False.

        Yields
        ------
        Prediction
            Split by split, in the order of the rows. The error of a skipped sample is the reason.

        Raises
        ------
        CacheMismatchError
            The features are not those that the head was fitted on, or `data` holds samples of another modality.
        CacheIncompleteError
            The cache lacks the views, or has no samples of the split.
        CacheError
            The cache cannot be read.
        HeadError
            The head has no scores of held-out samples, which `coverage` and `unknown` need.
        """
        tta = self.card.tta if tta is None else tta
        labelling = Labelling.of_model(self._name, self.card, top, coverage, unknown, tta)
        opened = self.open_caches(cache, tta)
        splits = select_splits(opened, split)
        for name in splits:
            _check_views(opened, name, tta)
        if data is not None and not isinstance(data, CachedData):
            data = CachedData(opened.first if isinstance(opened, JoinedCache) else opened, data)
        return self._predictions(opened, data, splits, labelling, tta)

    def open_caches(self, caches: Caches, tta: int | None = None) -> FeatureCache | JoinedCache:
        """The cache, or the caches as one, with the features that the head takes. Raises CacheError.

        Parameters
        ----------
        caches : path, FeatureCache, or sequence of these
            See `stream`.
        tta : int, optional
            See `stream`.
        """
        tta = self.card.tta if tta is None else tta
        opened = [FeatureCache.open(cache) for cache in list_caches(caches)]
        networks = self.card.networks
        if len(opened) != max(1, len(networks)):
            named = ", ".join(f"{network.name}: {network.spec.backbone}" for network in networks)
            needed = f"{len(networks)} networks ({named})" if networks else f"one network ({self.card.backbones})"
            raise CacheMismatchError(
                f"{self._name} takes features of {needed}, and {plural(len(opened), 'cache')} "
                f"{'was' if len(opened) == 1 else 'were'} given: {', '.join(str(cache.path) for cache in opened)}. "
                "Give a cache of each, of the same samples, and no other."
            )
        if not networks:
            self._check(opened[0], self.card.spec, self.card.layer, tta)
            cache: FeatureCache | JoinedCache = opened[0]
        else:
            cache = JoinedCache({network.name: self._take(opened, network, tta) for network in networks})
        width = sum(cache.dims[layer] for layer in split_names(self.card.layer))
        check_width(self._name, self.card, self._estimator, width, "the cache" if len(opened) == 1 else "the caches")
        return cache

    def _take(self, caches: list[FeatureCache], network: NetworkCard, tta: int) -> FeatureCache:
        """Remove the cache of a network from the list."""
        fits = [cache for cache in caches if not _differences(cache.spec, network.spec, tta)]
        cache = (fits or [min(caches, key=lambda cache: len(_differences(cache.spec, network.spec, tta)))])[0]
        self._check(cache, network.spec, network.layer, tta)
        caches.remove(cache)
        return cache

    def _check(self, cache: FeatureCache, spec: ExtractSpec, layer: str, tta: int) -> None:
        """Raise CacheMismatchError if the features of a cache are not those that the head takes.

        spec, layer : of the network of the head.
        """
        layers = split_names(layer)
        differences = _differences(cache.spec, spec, tta)
        if missing := [layer for layer in layers if layer not in cache.dims]:
            differences.append(("layers", ",".join(cache.dims), ",".join(missing)))
        if differences:
            different = "; ".join(
                f"{name}={short_value(there)}, the head needs {short_value(needed)}"
                for name, there, needed in differences
            )
            remedy = (
                f"Extract with these settings to another file, or predict the {spec.modality}s themselves: featcache "
                f"predict {self._name} DATA"
            )
            if is_arrays(spec.backbone):
                remedy = "Give a cache of the same features, with the same name."
            raise CacheMismatchError(
                f"{cache.path} lacks the features that {self._name} was fitted on: it has {different}. {remedy}",
                tuple(name for name, *_ in differences),
            )

    def _predictions(
        self,
        cache: FeatureCache | JoinedCache,
        data: CachedData | None,
        splits: list[str],
        labelling: Labelling,
        tta: int,
    ) -> Generator[Prediction, None, None]:
        several, reasons = self.card.multilabel, dict(cache.skipped)
        for split in splits:
            for rows, features in iter_features(cache, split, self.card.layer, 1 + tta):
                labelled = iter(self._label(features, labelling, tta))
                for row, is_readable in zip(rows.tolist(), cache.done[rows] > 0, strict=True):
                    name = cache.samples.ids[row]
                    if is_readable:
                        prediction = Prediction(name, several=several, **next(labelled)._asdict())
                    else:
                        prediction = Prediction(name, None, (), reasons[name])
                    yield prediction if data is None else _locate(prediction, data)

    def _label(self, features: Features, labelling: Labelling, tta: int) -> list[Labels]:
        """The labels of samples."""
        if not len(features.samples):
            return []
        x = features.with_views(tta).flatten().x if tta else features.lazy_view(0)
        answer = classify(self._estimator, x, len(self.classes), views=1 + tta, multilabel=self.card.multilabel)
        return labelling.apply(*answer, x)


def _locate(prediction: Prediction, data: CachedData) -> Prediction:
    """The prediction with the path of its file; or with an error, if the bytes are not those of the cache."""
    name = prediction.path
    (sample,) = samples_of(data.source, [name])
    path = sample.name if isinstance(sample, SampleFile) else str(sample)
    if prediction.error:
        return replace(prediction, path=path)
    try:
        content = data.read(name)
    except RemoteIOError:
        raise
    except OSError as error:
        return Prediction(path, None, (), error.strerror or str(error))
    start = data.source.modality.start
    return replace(prediction, path=path, text=start(content) if start else None)


def _differences(there: ExtractSpec, needed: ExtractSpec, tta: int) -> list[tuple[str, Any, Any]]:
    """The fields that decide the features of a head and differ: (name, value of the cache, value of the head).

    How many views and layers are stored, and in which dtype, does not count; nor do the settings of augmented views
    unless some are averaged. For arrays the name stands for the network: the hash is that of their values.
    """
    if there.modality != needed.modality:
        return [("modality", there.modality, needed.modality)]
    ignored = STORAGE_FIELDS | AUGMENTED_FIELDS
    if is_arrays(needed.backbone):
        ignored |= {"weights_sha256"}
    differences = [difference for difference in there.differences(needed) if difference[0] not in ignored]
    if tta and not is_arrays(needed.backbone):
        views = [(name, getattr(there.view, name), getattr(needed.view, name)) for name in sorted(AUGMENTED_FIELDS)]
        differences += [(name, first, second) for name, first, second in views if first != second]
    return differences


def _check_views(cache: FeatureCache | JoinedCache, split: str, tta: int) -> None:
    """Raise CacheIncompleteError if a sample of a split has fewer augmented views than are averaged."""
    rows = cache.readable_rows(split)
    views = int(np.min(cache.done[rows], initial=np.iinfo(np.uint16).max)) - 1
    if len(rows) and views < tta:
        name, option = cache.spec.modality, "--views" if split == "train" else "--val-views"
        raise CacheIncompleteError(
            f"tta averages {tta} augmented views of {indefinite(name)}, but {cache.path} has {views} of its {split} "
            f"{name}s. Extract with {option} {tta}, or average none (--tta 0)."
        )
