"""`Classifier`: a saved model that predicts new images or texts.

`stream` has three stages, which work at the same time on different batches: threads read and prepare samples, one
thread starts the network, and one thread takes the features and runs the head. Samples are taken from the caller's
iterable in the caller's thread, and only as far ahead as keeps the stages busy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.environment import usable_cores
from featcache._utils.formatting import brief
from featcache._utils.in_flight import InFlightQueue
from featcache._utils.regular_files import read_regular
from featcache._utils.results import NotebookResult
from featcache.backbones.frozen_network import FrozenNetwork
from featcache.core.model_card import ModelCard
from featcache.core.samples import format_labels
from featcache.core.thresholds import format_thresholds
from featcache.data.sample_loader import Inputs, join_inputs
from featcache.errors import UnreadableImageError
from featcache.heads import predict
from featcache.models.defaults import TOP_CLASSES
from featcache.models.inputs.base import Prepared, SampleFile
from featcache.models.inputs.registry import inputs_of
from featcache.models.load import open_model
from featcache.models.network_classifier import network_classifier
from featcache.models.prediction import Prediction

if TYPE_CHECKING:
    from torch import nn

    from featcache.backbones.encoder import Encoder

_Answer = Callable[[], tuple[NDArray[np.int64], NDArray[np.float64] | None]]
"""Waits for class indices, shape (b,), and probabilities, shape (b, c); None for heads without probabilities."""

_Classify = Callable[[Inputs], _Answer]
"""Starts on prepared views; of images (b, s, s, 3)."""


class _Submitted(NamedTuple):
    """A sample that is being prepared. path : "" for a sample in memory."""

    path: str
    future: Future[Prepared | OSError]


class Classifier(NotebookResult):
    """A backbone with its preprocessing, a head and the class names. `Classifier.load` makes one.

    Attributes
    ----------
    card : ModelCard
        What the model is: backbone, head, metrics.
    classes : tuple of str
        The class names.
    backbone : Backbone or TextEncoder
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

    def __init__(self, card: ModelCard, backbone: FrozenNetwork, classify: _Classify) -> None:
        self.card = card
        self.classes = card.classes
        self.backbone = backbone
        self.inputs = inputs_of(card.spec)
        self._classify = classify
        self._prepare = self.inputs.prepare_for(backbone)

    def __str__(self) -> str:
        """Two lines: the model, and its classes."""
        card, names = self.card, brief(self.classes)
        layer = f"features ({card.layer}) of {card.spec.backbone}"
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
            Where the backbone's weights are now, if they were moved.
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
        saved = open_model(path, weights=weights, device=device, backbone=backbone)
        card, network = saved.card, saved.backbone
        if card.kind == "network":
            return cls(card, network, network_classifier(network, saved.model, card))
        if backbone is None:
            network.select_engine(card.spec.view.input_size, views=views, like=card.engine)
        return cls(card, network, _head_classifier(network, saved.model, len(card.classes), card.multilabel))

    def predict(
        self,
        samples: Any,
        *,
        top: int = TOP_CLASSES,
        tta: int | None = None,
        batch_size: int | None = None,
        text_column: str | None = None,
    ) -> list[Prediction]:
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

        Returns
        -------
        list of Prediction
        """
        return list(self.stream(samples, top=top, tta=tta, batch_size=batch_size, text_column=text_column))

    def stream(
        self,
        samples: Any,
        *,
        top: int = TOP_CLASSES,
        tta: int | None = None,
        batch_size: int | None = None,
        text_column: str | None = None,
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

        Yields
        ------
        Prediction
            In the order of the samples.

        Raises
        ------
        DataLayoutError
            An object that is no sample of the model's modality, or an array of another shape or type.
        EmptyFolderError
            A folder or a table without samples.

        Warns
        -----
        IgnoredFilesWarning
            A folder, a tar file or a URL has files that are not samples. It counts them by reason.
        """
        numbers, workers = range(1 + (self.card.tta if tta is None else tta)), usable_cores()
        size = max(1, (batch_size or self.backbone.batch_size) // len(numbers))
        max_in_flight = self.backbone.max_in_flight
        samples_ahead = 2 * size + 2 * workers + max_in_flight // len(numbers)  # for threads, network and head
        readers, network, head = pools = [ThreadPoolExecutor(n, "predict") for n in (workers, 1, 1)]

        def predict(batch: list[_Submitted]) -> Future[list[Prediction]]:
            answer = network.submit(self._start, batch)
            return head.submit(self._predictions, batch, answer, top, len(numbers))

        batch: list[_Submitted] = []
        errors: list[Exception] = []
        queue: InFlightQueue[Future[list[Prediction]]]
        queue = InFlightQueue(samples_ahead - size + 1, is_ready=Future.done)
        try:
            name = self.inputs.modality.name
            for index, sample in enumerate(_until_error(self.inputs.each(samples, text_column), errors)):
                batch.append(self._submit(readers, sample, f"{name} {index}", numbers))
                if len(batch) == size:
                    queue.add(predict(batch), size)
                    batch = []
                for predictions in queue.due():
                    yield from predictions.result()
            if batch:
                queue.add(predict(batch), size)
            for predictions in queue.drain():
                yield from predictions.result()
            if errors:
                raise errors[0]
        finally:
            for pool in pools:
                pool.shutdown(cancel_futures=True)

    def _submit(self, readers: ThreadPoolExecutor, sample: Any, name: str, numbers: Sequence[int]) -> _Submitted:
        """Start to prepare a sample."""
        if isinstance(sample, (str, os.PathLike)):
            path = os.fspath(sample)
            return _Submitted(path, readers.submit(self._prepare_file, partial(read_regular, path), numbers))
        if isinstance(sample, SampleFile):
            return _Submitted(sample.name, readers.submit(self._prepare_file, sample.read, numbers))
        try:
            make_views = self._prepare(sample, name)  # now: the caller may change or close the image afterwards
        except UnreadableImageError as error:
            unreadable: Future[Prepared | OSError] = Future()
            unreadable.set_result(error)
            return _Submitted("", unreadable)
        return _Submitted("", readers.submit(make_views, numbers))

    def _prepare_file(self, read: Callable[[], bytes], numbers: Sequence[int]) -> Prepared | OSError:
        try:
            return self._prepare(read())(numbers)
        except OSError as error:
            return error
        except ValueError as error:  # a path with NUL in it
            return OSError(str(error))

    def _start(self, batch: list[_Submitted]) -> _Answer | None:
        """Start the network on the readable samples of a batch."""
        results = [submitted.future.result() for submitted in batch]
        views = [result.views for result in results if isinstance(result, Prepared)]
        return self._classify(join_inputs(*views)) if views else None

    def _predictions(
        self, batch: list[_Submitted], started: Future[_Answer | None], top: int, views: int
    ) -> list[Prediction]:
        """The predictions of a batch. views : of each sample."""
        answer = started.result()
        labelled = iter(self._labels_and_top(*answer(), top, views) if answer else ())
        predictions = []
        for path, future in batch:
            result = future.result()
            if isinstance(result, OSError):
                predictions.append(Prediction(path, None, (), result.strerror or str(result)))
            else:
                label, classes = next(labelled)
                several, remark, text = self.card.multilabel, result.remark or None, result.text
                predictions.append(Prediction(path, label, classes, several=several, remark=remark, text=text))
        return predictions

    def _labels_and_top(
        self, predicted: NDArray[np.int64], probabilities: NDArray[np.float64] | None, top: int, views: int
    ) -> list[tuple[str, tuple[tuple[str, float | None], ...]]]:
        """The label and the top classes of each sample."""
        predicted, probabilities = predict.average_views(
            predicted, probabilities, views, len(self.classes), self.card.thresholds
        )
        labels = format_labels(predicted, self.classes)
        if probabilities is None:
            return [(label, ((label, None),)) for label in labels]
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        return [
            (label, tuple((self.classes[i], float(row[i])) for i in best))
            for label, row, best in zip(labels, probabilities, order, strict=True)
        ]


def _until_error(samples: Iterator[Any], errors: list[Exception]) -> Iterator[Any]:
    """Each sample. An error of the iterator ends them; it is kept until the samples before it are predicted."""
    try:
        yield from samples
    except Exception as error:
        errors.append(error)


def _head_classifier(backbone: FrozenNetwork, estimator: Any, n_classes: int, multilabel: bool) -> _Classify:
    def classify(views: Inputs) -> _Answer:
        features = backbone.submit(views)
        return lambda: predict.classify(estimator, np.concatenate(features(), axis=1), n_classes, multilabel=multilabel)

    return classify
