"""`Classifier`: a saved model that predicts new pictures.

Three stages work at once, each on a later batch than the next: threads read, decode and crop; a thread gives the
network its pixels; a thread takes the features and asks the head. Pictures are taken from the caller's iterable in the
caller's thread, no further ahead than keeps the stages busy.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.environment import usable_cores
from featcache._utils.formatting import brief
from featcache._utils.in_flight import InFlightQueue
from featcache._utils.notebook import NotebookResult
from featcache._utils.regular_files import read_regular
from featcache.backbones.backbone import Backbone
from featcache.core.model_card import ModelCard
from featcache.core.samples import format_labels
from featcache.core.thresholds import decide, format_thresholds
from featcache.errors import UnreadableImageError
from featcache.heads import registry
from featcache.models.inputs import Image, ImageFile, each_image
from featcache.models.load import open_model
from featcache.models.prediction import Prediction
from featcache.vision.decode import Decoded, check_picture, decode_and_check

if TYPE_CHECKING:
    from torch import nn

    from featcache.training.network import BackboneWithHead

_Answer = Callable[[], tuple[NDArray[np.int64], NDArray[np.float64] | None]]
"""Waits for class indices (b,) and probabilities (b, c), None for heads without any."""

_Classify = Callable[[NDArray[np.uint8]], _Answer]
"""Starts on clean views (b, s, s, 3)."""


class _Made(NamedTuple):
    """The views of an image, (v, s, s, 3), and what is odd about it."""

    views: NDArray[np.uint8]
    remark: str


_Views = _Made | UnreadableImageError
_Begun = list[tuple[str, Future[_Views]]]
"""Names of images, and their views to come."""


class Classifier(NotebookResult):
    """A backbone with its preprocessing, a head and the class names.

    Use `Classifier.load`. Attributes: `card` (what the model is), `classes`, `backbone`.
    """

    def __init__(self, card: ModelCard, backbone: Backbone, classify: _Classify) -> None:
        self.card = card
        self.classes = card.classes
        self.backbone = backbone
        self._classify = classify

    def __str__(self) -> str:
        """What it is, in two lines."""
        card, names = self.card, brief(self.classes)
        layer = f"features ({card.layer}) of {card.spec.backbone}"
        what = f"head {card.head} on {layer}" if card.kind == "head" else f"{card.spec.backbone}, fine-tuned"
        decided = f"; thresholds {format_thresholds(card.thresholds)}" if card.thresholds else ""
        decided += f"; averages {card.tta} augmented views of an image with the clean one" if card.tta else ""
        return f"{what}, images of {card.spec.view.image_size} px\n{len(self.classes)} classes: {names}{decided}"

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        weights: str | None = None,
        device: str = "auto",
        views: int = 0,
        backbone: Backbone | nn.Module | None = None,
    ) -> Classifier:
        """Load a folder that `fit_head` or `finetune` wrote; executes no code from its files.

        Parameters
        ----------
        weights : where the backbone's weights lie now, if they have moved.
        views : how many will be predicted, where that is known: many pay for converting the network, which else is
            done only by extraction. See `Backbone.select_engine`.
        backbone : the network, where it is your own: the Backbone or the module that the features were made with. Its
            weights are compared with those that were used then.

        Raises
        ------
        HeadError : not a model, or one that is refused. BackboneError : its backbone's weights are not to be had,
            or are others than those that the head was fitted on.
        """
        saved = open_model(path, weights=weights, device=device, backbone=backbone)
        card, network = saved.card, saved.backbone
        if card.kind == "network":
            return cls(card, network, _network_classifier(network, saved.model, card))
        if backbone is None:
            network.select_engine(card.spec.view.image_size, views=views, like=card.engine)
        return cls(card, network, _head_classifier(network, saved.model, len(card.classes), card.multilabel))

    def predict(
        self,
        images: Image | bytes | IO[bytes] | Iterable[Image | bytes | IO[bytes]],
        *,
        top: int = 5,
        tta: int | None = None,
        batch_size: int | None = None,
    ) -> list[Prediction]:
        """Predict pictures, in their order; see `stream`."""
        return list(self.stream(images, top=top, tta=tta, batch_size=batch_size))

    def stream(
        self,
        images: Image | bytes | IO[bytes] | Iterable[Image | bytes | IO[bytes]],
        *,
        top: int = 5,
        tta: int | None = None,
        batch_size: int | None = None,
    ) -> Generator[Prediction, None, None]:
        """Predict pictures as they come.

        Parameters
        ----------
        images : one or several of

            - paths and URLs of image files;
            - bytes of an image file, and files opened with "rb", which are read at once;
            - Pillow images, which give what their files give;
            - arrays (h, w, 3), (h, w) or (h, w, 4), uint8, upright; an array (n, h, w, 3) is n images;

            or one of: a folder, which gives all images below it; what `extract` takes: a table (CSV, Parquet; a column
            `path` is enough), tar files, a saved data set; a URL of any of these. An unreadable image gives a
            Prediction with an error.
        top : how many classes to name. tta : augmented views of each picture, averaged with the clean one; those
            of a file are what extraction would have made of it, those of others are drawn by their pixels. None takes
            as many as the head's figures were averaged over.
        batch_size : views, not images, in one forward pass; None takes 32, on a GPU 256. Where images come slowly,
            their predictions wait for a batch.

        Raises
        ------
        DataLayoutError : what is no image, or an array of another shape or type. EmptyFolderError : a folder or a table
            without images.

        Warns
        -----
        IgnoredFilesWarning : files of a folder, a tar file or a URL that are no images: their number by reason.
        """
        numbers, workers = range(1 + (self.card.tta if tta is None else tta)), usable_cores()
        size = max(1, (batch_size or self.backbone.batch_size) // len(numbers))
        max_in_flight = self.backbone.max_in_flight
        images_ahead = 2 * size + 2 * workers + max_in_flight // len(numbers)  # for threads, network and head
        decoders, network, head = pools = [ThreadPoolExecutor(n, "predict") for n in (workers, 1, 1)]

        def predict(batch: _Begun) -> Future[list[Prediction]]:
            answer = network.submit(self._start, batch)
            return head.submit(self._predictions, batch, answer, top, len(numbers))

        batch: _Begun = []
        failed: list[Exception] = []
        queue: InFlightQueue[Future[list[Prediction]]]
        queue = InFlightQueue(images_ahead - size + 1, is_ready=Future.done)
        try:
            for place, image in enumerate(_until_error(images, failed)):
                batch.append(self._begin(decoders, image, f"image {place}", numbers))
                if len(batch) == size:
                    queue.add(predict(batch), size)
                    batch = []
                for predictions in queue.due():
                    yield from predictions.result()
            if batch:
                queue.add(predict(batch), size)
            for predictions in queue.drain():
                yield from predictions.result()
            if failed:
                raise failed[0]
        finally:
            for pool in pools:
                pool.shutdown(cancel_futures=True)

    def _begin(
        self, decoders: ThreadPoolExecutor, image: Image, name: str, numbers: Sequence[int]
    ) -> tuple[str, Future[_Views]]:
        """A path, "" for what is in memory, and the image's views to come."""
        if isinstance(image, (str, os.PathLike)):
            path = os.fspath(image)
            return path, decoders.submit(self._views_of_file, partial(_read_file, path), numbers)
        if isinstance(image, ImageFile):
            return image.name, decoders.submit(self._views_of_file, image.read, numbers)
        try:
            # at once: its owner may change or close it afterwards
            decoded = check_picture(image, name, value_range=self.card.spec.view.value_range)
        except UnreadableImageError as error:
            unreadable: Future[_Views] = Future()
            unreadable.set_result(error)
            return "", unreadable
        return "", decoders.submit(self._views, decoded, decoded.pixels.data, numbers)

    def _views_of_file(self, read: Callable[[], bytes], numbers: Sequence[int]) -> _Views:
        try:
            data = read()
            return self._views(decode_and_check(data, value_range=self.card.spec.view.value_range), data, numbers)
        except UnreadableImageError as error:
            return error
        except OSError as error:
            return UnreadableImageError(error.strerror or str(error))
        except ValueError as error:  # a name with NUL in it
            return UnreadableImageError(str(error))

    def _views(self, decoded: Decoded, content: bytes | memoryview, numbers: Sequence[int]) -> _Views:
        """content : what the views are drawn by."""
        from featcache.vision.augment import make_views

        views = make_views(decoded.pixels, self.card.spec.view, hashlib.sha256(content).digest(), numbers)
        return _Made(views, decoded.remark)

    def _start(self, batch: _Begun) -> _Answer | None:
        """Give the network what could be read of a batch."""
        views = [future.result() for _, future in batch]
        good = [one.views for one in views if isinstance(one, _Made)]
        return self._classify(np.concatenate(good)) if good else None

    def _predictions(self, batch: _Begun, started: Future[_Answer | None], top: int, views: int) -> list[Prediction]:
        """views : of each image."""
        answer = started.result()
        results = iter(self._results(*answer(), top, views) if answer else ())
        predictions = []
        for path, future in batch:
            found = future.result()
            if isinstance(found, UnreadableImageError):
                predictions.append(Prediction(path, None, (), str(found)))
            else:
                label, shown = next(results)
                remark = found.remark or None
                predictions.append(Prediction(path, label, shown, several=self.card.multilabel, remark=remark))
        return predictions

    def _results(
        self, predicted: NDArray[np.int64], probabilities: NDArray[np.float64] | None, top: int, views: int
    ) -> list[tuple[str, tuple[tuple[str, float | None], ...]]]:
        """Label and top classes of each image."""
        predicted, probabilities = registry.average_views(
            predicted, probabilities, views, len(self.classes), self.card.thresholds
        )
        named = format_labels(predicted, self.classes)
        if probabilities is None:
            return [(name, ((name, None),)) for name in named]
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        return [
            (name, tuple((self.classes[i], float(row[i])) for i in best))
            for name, row, best in zip(named, probabilities, order, strict=True)
        ]


def _until_error(images: Any, failed: list[Exception]) -> Iterator[Any]:
    """Each image; an error of the iterable ends them, and is kept until those that came are predicted."""
    try:
        yield from each_image(images)
    except Exception as error:
        failed.append(error)


def _read_file(path: str) -> bytes:
    """The bytes of a file. Raises OSError."""
    return read_regular(path)


def _head_classifier(backbone: Backbone, estimator: Any, n_classes: int, multilabel: bool) -> _Classify:
    def classify(pixels: NDArray[np.uint8]) -> _Answer:
        features = backbone.submit(pixels)
        return lambda: registry.classify(
            estimator, np.concatenate(features(), axis=1), n_classes, multilabel=multilabel
        )

    return classify


def _network_classifier(backbone: Backbone, network: BackboneWithHead, card: ModelCard) -> _Classify:
    import torch

    def classify(pixels: NDArray[np.uint8]) -> _Answer:
        with torch.inference_mode(), backbone.feature_extractor.autocast():
            logits = network(backbone.normalise(pixels))

        def answer() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
            values = logits.cpu().double()
            probabilities = (values.sigmoid() if card.multilabel else values.softmax(1)).numpy()
            several = decide(probabilities, card.thresholds) if card.multilabel else None
            return probabilities.argmax(1) if several is None else several, probabilities

        return answer

    return classify
