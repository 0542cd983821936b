"""`Classifier`: a saved model that predicts new pictures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache import heads
from featcache.backbones import Backbone
from featcache.card import ModelCard
from featcache.errors import UnreadableImageError
from featcache.images import decode
from featcache.labels import spell
from featcache.loader import usable_cores
from featcache.saved import open_model

if TYPE_CHECKING:
    from featcache.network import Network

_Classify = Callable[[NDArray[np.uint8]], tuple[NDArray[np.int64], NDArray[np.float64] | None]]
"""Clean views (b, s, s, 3) to class indices (b,) and probabilities (b, c), None for heads without any."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one picture.

    label : the most probable class; of a model of several labels those that are more probable than not, as "a|b".
        None where the picture could not be read; then `error` says why.
    top : pairs (class, probability), most probable first. The probability is None for heads without one.
    several : whether a picture can have several labels.
    """

    path: str
    label: str | None
    top: tuple[tuple[str, float | None], ...]
    error: str | None = None
    several: bool = False

    @property
    def probability(self) -> float | None:
        """Of the most probable class."""
        return self.top[0][1] if self.top else None

    def __str__(self) -> str:
        """One line: path, class, probability, then the next classes; of several labels first those that it has."""
        if self.error:
            return f"{self.path}\tunreadable: {self.error}"
        shown = [label if share is None else f"{label} {share:.4f}" for label, share in self.top]
        named = [self.label or "none"] if self.several else []
        return "\t".join([self.path, *named, *shown])

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "path": self.path,
            "label": self.label,
            "probability": self.probability,
            "top": [{"label": label, "probability": probability} for label, probability in self.top],
            "error": self.error,
        }


class Classifier:
    """A backbone with its preprocessing, a head and the class names.

    Use `Classifier.load`. Attributes: `card` (what the model is), `classes`, `backbone`.
    """

    def __init__(self, card: ModelCard, backbone: Backbone, classify: _Classify) -> None:
        self.card = card
        self.classes = card.classes
        self.backbone = backbone
        self._classify = classify

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        weights: str | None = None,
        device: str = "auto",
    ) -> Classifier:
        """Load a folder that `fit_head` or `finetune` wrote; executes no code from its files.

        Parameters
        ----------
        weights : where the backbone's weights lie now, if they have moved.

        Raises
        ------
        HeadError : not a model, or one that is refused. BackboneError : its backbone's weights are not to be had,
            or are others than those that the head was fitted on.
        """
        saved = open_model(path, weights=weights, device=device)
        card, backbone = saved.card, saved.backbone
        if card.kind == "network":
            return cls(card, backbone, _network_classifier(backbone, saved.model))
        backbone.accelerate(card.spec.view.image_size, views=0)  # by what extraction kept
        return cls(card, backbone, _head_classifier(backbone, saved.model, len(card.classes), card.multilabel))

    def predict(
        self,
        images: Iterable[str | os.PathLike[str] | NDArray[np.uint8]],
        *,
        top: int = 5,
        tta: int = 0,
        batch_size: int = 32,
    ) -> list[Prediction]:
        """Predict pictures, in their order; see `stream`."""
        return list(self.stream(images, top=top, tta=tta, batch_size=batch_size))

    def stream(
        self,
        images: Iterable[str | os.PathLike[str] | NDArray[np.uint8]],
        *,
        top: int = 5,
        tta: int = 0,
        batch_size: int = 32,
    ) -> Iterator[Prediction]:
        """Predict pictures as they come.

        Parameters
        ----------
        images : paths, or upright RGB arrays of shape (h, w, 3), uint8. An unreadable file gives a Prediction
            with an error.
        top : how many classes to name. tta : augmented views of each picture, averaged with the clean one; those
            of a file are what extraction would have made of it.
        """
        views = range(1 + tta)
        with ThreadPoolExecutor(usable_cores()) as pool:
            for batch in _chunks(images, max(1, batch_size // len(views))):
                loaded = list(pool.map(partial(self._views, numbers=views), batch))
                good = [view for view in loaded if isinstance(view, np.ndarray)]
                results = iter(self._results(np.concatenate(good), top, len(views)) if good else [])
                for image, view in zip(batch, loaded, strict=True):
                    path = "" if isinstance(image, np.ndarray) else os.fspath(image)
                    if isinstance(view, UnreadableImageError):
                        yield Prediction(path, None, (), str(view))
                    else:
                        label, classes = next(results)
                        yield Prediction(path, label, classes, several=self.card.multilabel)

    def _views(
        self, image: str | os.PathLike[str] | NDArray[np.uint8], numbers: Sequence[int]
    ) -> NDArray[np.uint8] | UnreadableImageError:
        from featcache.views import make_views

        if isinstance(image, np.ndarray):
            return make_views(image, self.card.spec.view, hashlib.sha256(image.tobytes()).digest(), numbers)
        try:
            data = Path(image).read_bytes()
            return make_views(decode(data), self.card.spec.view, hashlib.sha256(data).digest(), numbers)
        except UnreadableImageError as error:
            return error
        except OSError as error:
            return UnreadableImageError(error.strerror or str(error))

    def _results(
        self, pixels: NDArray[np.uint8], top: int, views: int
    ) -> list[tuple[str, tuple[tuple[str, float | None], ...]]]:
        """pixels : `views` of each image."""
        predicted, probabilities = heads.average_views(*self._classify(pixels), views, len(self.classes))
        named = spell(predicted, self.classes)
        if probabilities is None:
            return [(name, ((name, None),)) for name in named]
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        return [
            (name, tuple((self.classes[i], float(row[i])) for i in best))
            for name, row, best in zip(named, probabilities, order, strict=True)
        ]


def _head_classifier(backbone: Backbone, estimator: Any, n_classes: int, multilabel: bool) -> _Classify:
    def classify(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
        return heads.classify(estimator, backbone.embed(pixels), n_classes, multilabel=multilabel)

    return classify


def _network_classifier(backbone: Backbone, network: Network) -> _Classify:
    import torch

    def classify(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
        with torch.inference_mode(), backbone.frozen.autocast():
            logits = network(backbone.normalise(pixels))
        probabilities = logits.cpu().double().softmax(1).numpy()
        return probabilities.argmax(1), probabilities

    return classify


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
