"""`Classifier`: a saved model that predicts new images or texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import brief
from featcache._utils.results import NotebookResult
from featcache.backbones.frozen_network import FrozenNetwork
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.paths import names_cache
from featcache.cache.rows import ALL
from featcache.core.model_card import ModelCard
from featcache.core.thresholds import format_thresholds
from featcache.data.sample_loader import Inputs
from featcache.errors import DataLayoutError
from featcache.heads.predict import average_views, classify
from featcache.models.defaults import TOP_CLASSES
from featcache.models.feature_classifier import FeatureClassifier
from featcache.models.inputs.registry import inputs_of
from featcache.models.joined_network import JoinedNetwork
from featcache.models.labelling import Labelling, Labels
from featcache.models.load import network_error, open_model
from featcache.models.network_classifier import network_classifier
from featcache.models.prediction import Prediction, Predictions
from featcache.models.sample_stream import ReadSample, stream_samples

if TYPE_CHECKING:
    from torch import nn

    from featcache.backbones.encoder import Encoder

_Labelled = tuple[NDArray[np.int64], NDArray[np.float64] | None, NDArray[np.float32] | None]
"""Class indices, shape (b,); probabilities, shape (b, c), None for heads without them; features, None for networks."""

_Answer = Callable[[], _Labelled]
"""Waits for them."""

_Classify = Callable[[Inputs], _Answer]
"""Starts on prepared views; of images (b, s, s, 3)."""


class Classifier(NotebookResult):
    """A backbone with its preprocessing, a head and the class names. `Classifier.load` makes one.

    Parameters
    ----------
    name : str
        The folder of the model.
    card : ModelCard
        What the model is: backbone, head, metrics.
    backbone : Backbone or TextEncoder
        From samples to features.
    classify : callable
        From features to probabilities.
    on_features : FeatureClassifier, optional
        The head alone; None for a fine-tuned network.

    Attributes
    ----------
    name : str
        The folder that it was loaded from.
    card : ModelCard
        What the model is: backbone, head, metrics.
    classes : tuple of str
        The class names.
    backbone : Backbone, TextEncoder or JoinedNetwork
    inputs : SampleInputs
        What it predicts: images or texts.

    Examples
    --------
    Fit a head on features of a network with random weights, and predict images of noise.

    >>> import numpy as np
    >>> from featcache import Classifier, extract, fit_head
    >>> rng = np.random.default_rng(0)
    >>> cache = extract("photos", "photos.h5", backbone="timm/test_resnet", weights="none", image_size=32, views=0)
    >>> fitted = fit_head("photos.h5", "head", head="ridge")
    >>> classifier = Classifier.load("head")
    >>> classifier.classes
    ('ants', 'bees')
    >>> predictions = classifier.predict([rng.integers(0, 256, (32, 32, 3), np.uint8)], top=1)
    >>> predictions[0].label in classifier.classes
    True
    """

    def __init__(
        self,
        name: str,
        card: ModelCard,
        backbone: FrozenNetwork | JoinedNetwork,
        classify: _Classify,
        on_features: FeatureClassifier | None = None,
    ) -> None:
        self.name = name
        self.card = card
        self.classes = card.classes
        self.backbone = backbone
        self.inputs = inputs_of(card.spec)
        self._classify = classify
        self._on_features = on_features
        self._prepare = backbone.prepare() if isinstance(backbone, JoinedNetwork) else self.inputs.prepare_for(backbone)

    def __str__(self) -> str:
        """Two lines: the model, and its classes."""
        card, names = self.card, brief(self.classes)
        layer = f"features ({card.layer}) of {card.backbones}"
        model = f"head {card.head} on {layer}" if card.kind == "head" else f"{card.spec.backbone}, fine-tuned"
        options = f"; thresholds {format_thresholds(card.thresholds)}" if card.thresholds else ""
        if card.tta:
            options += f"; averages {card.tta} augmented views of {self.inputs.modality.one} with the clean one"
        return f"{model}, {self.inputs.describe()}\n{len(self.classes)} classes: {names}{options}"

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        weights: str | None = None,
        device: str = "auto",
        views: int = 0,
        backbone: Encoder | nn.Module | None = None,
    ) -> Classifier:
        """Load a folder that `fit_head` or `finetune` wrote. It runs no code from the files.

        Parameters
        ----------
        path : path
            The folder.
        weights : str, optional
            Where the backbone's weights are now, if they were moved; of a head on several networks NAME=PATH,...
        device : str
            "auto", "cpu", "cuda", "cuda:1", "cuda:all" or "mps". Default: "auto".
        views : int
            How many views will be predicted, if known. With many views it pays to convert the network to a faster
            engine; extraction does that in any case. See `Backbone.select_engine`. Default: 0.
        backbone : Backbone, TextEncoder or torch.nn.Module, optional
            The network, if it is your own: the one that made the features. Its weights are compared with those.

        Returns
        -------
        Classifier

        Raises
        ------
        HeadError
            The folder holds no model, or a damaged one.
        BackboneError
            The backbone's weights cannot be loaded, or differ from those that the head was fitted on.
        """
        saved = open_model(path, weights=weights, device=device, backbone=backbone, several=True)
        name, card, network = os.fspath(path), saved.card, saved.backbone
        if card.kind == "network":
            return cls(name, card, network, network_classifier(network, saved.model, card))
        if isinstance(network, JoinedNetwork):
            network.select_engines(views)
        elif backbone is None:
            network.select_engine(card.spec.view.input_size, views=views, like=card.engine)
        start = _head_classifier(network, saved.model, len(card.classes), card.multilabel)
        return cls(name, card, network, start, FeatureClassifier(name, card, saved.model))

    def predict(
        self,
        samples: Any,
        *,
        top: int = TOP_CLASSES,
        tta: int | None = None,
        batch_size: int | None = None,
        text_column: str | None = None,
        split: str | None = None,
        coverage: float | None = None,
        unknown: bool = False,
    ) -> Predictions:
        """Predict images or texts, in their order.

        Parameters
        ----------
        samples : one or several images or texts
            See `stream`.
        top : int
            How many classes to name. Default: 5.
        tta : int, optional
            See `stream`.
        batch_size : int, optional
            See `stream`.
        text_column : str, optional
            See `stream`.
        split : str, optional
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
        return Predictions(
            self.stream(
                samples,
                top=top,
                tta=tta,
                batch_size=batch_size,
                text_column=text_column,
                split=split,
                coverage=coverage,
                unknown=unknown,
            )
        )

    def stream(
        self,
        samples: Any,
        *,
        top: int = TOP_CLASSES,
        tta: int | None = None,
        batch_size: int | None = None,
        text_column: str | None = None,
        split: str | None = None,
        coverage: float | None = None,
        unknown: bool = False,
    ) -> Generator[Prediction, None, None]:
        """Predict images or texts as they arrive.

        Parameters
        ----------
        samples : one or several images or texts
            For a model of images one or several of

            - paths and URLs of image files;
            - the bytes of an image file, and files opened with "rb", which are read at once;
            - Pillow images, with the result of their files;
            - arrays (h, w, 3), (h, w) or (h, w, 4), uint8, upright; an array (n, h, w, 3) is n images;

            or one of: a folder, with all images below it; a table (CSV, Parquet; it needs only the column `path`), tar
            files or a saved data set, as in `extract`; a URL of any of these.

            For a model of texts one or several of

            - strings, each of which is a text, not a path;
            - path-likes, such as `pathlib.Path`, of text files in UTF-8, each of which is a text;
            - the bytes of a text file, and open files, which are read at once;

            or the path-like of a folder, with all `.txt` files below it, of a table (CSV, TSV, JSON lines, Parquet; it
            needs only the column `text`) or of a saved data set; or a URL of any of these.

            Or a cache: a FeatureCache, or its path or URL; for a head on several networks a list of caches. Its
            samples are predicted from their features, see `FeatureClassifier.stream`; `FeatureClassifier.load` needs no
            network.

            An unreadable sample gives a Prediction with an error.
        top : int
            How many classes to name. Default: 5.
        tta : int, optional
            How many augmented views of each sample are averaged with the clean view. Augmented views of a file or a
            text are those of extraction; those of other images are seeded with their pixels. Default: as many as the
            metrics of the head were averaged over.
        batch_size : int, optional
            How many views, not samples, are in one batch. If samples arrive slowly, their predictions wait for a whole
            batch. Default: 32, on a GPU 256; for texts, whose batches are cut by length, 512, on a GPU 2048.
        text_column : str, optional
            The column of the texts in a table, or several with commas between them. Default: `text`.
        split : str, optional
            Of a cache, see `FeatureClassifier.stream`. Default: all splits.
        coverage : float, optional
            Name for each sample a set of labels (`Prediction.label_set`) that holds the true label with this
            probability, above 0 and below 1, such as 0.95; see `featcache.metrics.conformal`. The probability is an
            average over training sets and over samples like the training samples. Default: no sets.
        unknown : bool
            Refuse samples that are like none of the classes, see `featcache.heads.novelty`: they have no label, and
            `Prediction.is_unknown` is True. One in 20 samples of the known classes is refused as well. Default: False.

        Yields
        ------
        Prediction
            In the order of the samples.

        Raises
        ------
        DataLayoutError
            An object that is no sample of the model's modality, or an array of another shape or type; or an option
            that is not for such samples.
        HeadError
            The model has no scores of held-out samples, which `coverage` and `unknown` need, or too few.
        CacheError
            A cache cannot be read, or has other features than the head was fitted on.
        EmptyFolderError
            A folder or a table without samples.

        Warns
        -----
        IgnoredFilesWarning
            A folder, a tar file or a URL has files that are not samples. It counts them by reason.
        """
        if self._is_cache(samples):
            if batch_size is not None or text_column is not None:
                raise DataLayoutError("batch_size and text_column are not for caches: no network runs. Leave them out.")
            if self._on_features is None:
                raise network_error("this model", self.card)
            return self._on_features.stream(
                samples, split=split or ALL, top=top, tta=tta, coverage=coverage, unknown=unknown
            )
        if split is not None:
            raise DataLayoutError("split is for the samples of a cache. Leave it out.")
        views = 1 + (self.card.tta if tta is None else tta)
        labelling = Labelling.of_model(self.name, self.card, top, coverage, unknown, views - 1)
        return stream_samples(
            self.inputs.each(samples, text_column),
            self._prepare,
            self._classify,
            partial(self._predictions, labelling=labelling, views=views),
            self.backbone,
            views=views,
            batch_size=batch_size,
            name=self.inputs.modality.name,
        )

    def _is_cache(self, samples: Any) -> bool:
        """Whether samples are a cache, or name one."""
        if isinstance(samples, (list, tuple)) and self.card.networks:
            return bool(samples) and all(map(self._is_cache, samples))
        is_path = isinstance(samples, os.PathLike) or (isinstance(samples, str) and self.inputs.stream_has_names)
        return isinstance(samples, FeatureCache) or (is_path and names_cache(samples))

    def _predictions(
        self, batch: list[ReadSample], answer: _Labelled | None, labelling: Labelling, views: int
    ) -> list[Prediction]:
        """The predictions of a batch. views : of each sample."""
        found: list[Labels] = []
        if answer is not None:
            predicted, probabilities, x = answer
            averaged = average_views(predicted, probabilities, views, len(self.classes), self.card.thresholds)
            found = labelling.apply(*averaged, x)
        labelled = iter(found)
        predictions = []
        for path, result in batch:
            if isinstance(result, OSError):
                predictions.append(Prediction(path, None, (), result.strerror or str(result)))
            else:
                several, remark, text = self.card.multilabel, result.remark or None, result.text
                labels = next(labelled)._asdict()
                predictions.append(Prediction(path, several=several, remark=remark, text=text, **labels))
        return predictions


def _head_classifier(
    backbone: FrozenNetwork | JoinedNetwork, estimator: Any, n_classes: int, multilabel: bool
) -> _Classify:
    def start(views: Any) -> _Answer:
        features = backbone.submit(views)

        def wait() -> _Labelled:
            x = np.concatenate(features(), axis=1)
            return *classify(estimator, x, n_classes, multilabel=multilabel), x

        return wait

    return start
