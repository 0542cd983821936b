"""`AttentionHead`: learnt queries weight the positions of a feature map, a linear layer classifies the means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin

from featcache._utils.blockwise import RunningMoments
from featcache._utils.progress_bar import Progress
from featcache.core.progress import StepProgress
from featcache.core.rng import derived_seed, epoch_order
from featcache.errors import HeadError
from featcache.heads.file_checks import check_classes, check_layer, require

if TYPE_CHECKING:
    from featcache.cache.features import Features

_BLOCK = 256  # images whose tokens are converted to float64 at a time
_MIN_DEVIATION = 1e-6  # of a channel, as a fraction of the largest one


@dataclass(frozen=True)
class AttentionConfig:
    """How `fit_attention` trains: AdamW with a cosine schedule, view e in epoch e.

    Parameters
    ----------
    queries : int
        Number of queries, m.
    epochs : int
        Passes over the images.
    batch_size : int
        Images of a batch.
    lr : float
        Learning rate at the start.
    weight_decay : float
        Of AdamW.

    Raises
    ------
    ValueError
        A value is out of its range.
    """

    queries: int = 4
    epochs: int = 30
    batch_size: int = 32
    lr: float = 1e-2
    weight_decay: float = 0.5

    def __post_init__(self) -> None:
        for name in ("queries", "epochs", "batch_size"):
            check_whole(name, getattr(self, name))
        if not isinstance(self.lr, (int, float)) or not 0 < self.lr < math.inf:
            raise ValueError(f"lr is {self.lr!r}; it must be a number greater than 0")
        if not isinstance(self.weight_decay, (int, float)) or not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is {self.weight_decay!r}; it must be a number, 0 or greater")


def check_whole(name: str, value: object) -> None:
    """Raise ValueError for a value that is not a whole number, 1 or more."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number, 1 or more")


class AttentionHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Attention pooling and a linear layer: a fitted classifier, made by `fit_attention`.

    Attributes
    ----------
    queries_ : ndarray, shape (m, d)
        The queries.
    coef_ : ndarray, shape (c, m * d)
        Weights of the linear layer.
    intercept_ : ndarray, shape (c,)
        Biases of the linear layer.
    classes_ : ndarray, shape (c,)
        The classes.
    n_features_in_ : int
        d * t, where t is the number of positions.
    """

    head_name = "attention"
    queries_: NDArray[np.float64]
    coef_: NDArray[np.float64]
    intercept_: NDArray[np.float64]

    @classmethod
    def from_weights(
        cls,
        queries: NDArray[Any],
        coef: NDArray[Any],
        intercept: NDArray[Any],
        classes: NDArray[Any],
        n_features: int,
    ) -> Self:
        """A head of these arrays, see the attributes."""
        head = cls()
        head.queries_, head.coef_, head.intercept_ = (array.astype(np.float64) for array in (queries, coef, intercept))
        head.classes_, head.n_features_in_ = classes, n_features
        return head

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays from which `from_arrays` makes the same head."""
        return {
            "queries": self.queries_,
            "coef": self.coef_,
            "intercept": self.intercept_,
            "classes": self.classes_,
            "features": np.array([self.n_features_in_]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The reverse of `to_arrays`. Raises ValueError for arrays that contradict each other."""
        queries, coef, intercept, classes = (arrays[name] for name in ("queries", "coef", "intercept", "classes"))
        check_layer(coef, intercept)
        require(
            queries.ndim == 2 and queries.size and np.isfinite(queries).all(), "its queries are not a finite matrix"
        )
        require(coef.shape[1] == queries.size, "its weights do not fit its queries")
        require(classes.shape == (len(coef),), "its classes do not fit its weights")
        check_classes(classes)
        width = arrays["features"]
        require(width.shape == (1,) and width.dtype.kind == "i", "its number of features is not an integer")
        require(width[0] > 0 and width[0] % queries.shape[1] == 0, "its number of features does not fit its queries")
        return cls.from_weights(queries, coef, intercept, classes, int(width[0]))

    def attention(self, X: ArrayLike) -> NDArray[np.float64]:
        """Weights of the positions for each query, shape (n, m, t); they sum to 1 over the positions."""
        tokens = self._tokens(np.asarray(X))
        return softmax(np.einsum("md,ndt->nmt", self.queries_, tokens) / np.sqrt(tokens.shape[1]), axis=2)

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Logits, shape (n, c), of X (n, d * t): the positions of each channel side by side."""
        x, logits = np.asarray(X), []
        for start in range(0, max(1, len(x)), _BLOCK):
            block = x[start : start + _BLOCK]
            means = np.einsum("nmt,ndt->nmd", self.attention(block), self._tokens(block))
            logits.append(means.reshape(len(block), -1) @ self.coef_.T + self.intercept_)
        return np.concatenate(logits)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities, shape (n, c)."""
        return softmax(self.decision_function(X), axis=1)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Labels, shape (n,)."""
        return self.classes_[self.decision_function(X).argmax(axis=1)]

    def _tokens(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """(n, d, t)."""
        return x.astype(np.float64).reshape(len(x), self.queries_.shape[1], -1)


def fit_attention(
    train: Features, positions: int, config: AttentionConfig, seed: int, progress: Progress | None = None
) -> AttentionHead:
    """Efficient probing (Psomas et al. 2025, arXiv 2506.10178) on the cached positions of a feature map.

    Each of m queries takes a softmax-weighted mean of the positions; a linear layer classifies the m means side by
    side. The paper projects the means before that; two linear layers in a row are one. Channels are standardized for
    the training, and the weights are converted back at the end.

    Parameters
    ----------
    train : Features
        Training images, x of shape (n, v, d * positions).
    positions : int
        Positions of the map, t, see `featcache.core.layer_names`.
    config : AttentionConfig
        How it is trained.
    seed : int
        Of the first weights and the order of the images.
    progress : callable, optional
        Called for each epoch.

    Raises
    ------
    HeadError
        The number of features is not a multiple of the positions, or the training diverged.
    """
    import torch

    from featcache._utils.random_generators import seeded

    width = train.x.shape[2]
    if width % positions:
        raise HeadError(
            f"attention: {width} features are not a multiple of the {positions} positions that the name of their layer "
            "means. Extract again, or name another layer."
        )
    classes, labels = np.unique(train.y, return_inverse=True)
    d, c, m = width // positions, len(classes), config.queries
    mean, deviation = _channel_statistics(train, d)
    with seeded(derived_seed(seed, "attention")):
        queries = torch.nn.Parameter(0.1 * torch.randn(m, d))
        last = torch.nn.Linear(m * d, c)
    optimizer = torch.optim.AdamW([queries, *last.parameters()], config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
    center, scale = (torch.from_numpy(array).float()[:, None] for array in (mean, deviation))
    with StepProgress(progress, "fit epochs", config.epochs) as steps:
        for epoch in range(1, config.epochs + 1):
            x = train.lazy_view(train.view_for_epoch(epoch))
            order = epoch_order(train.samples.sha256, seed, epoch)
            for start in range(0, len(order), config.batch_size):
                rows = order[start : start + config.batch_size]
                tokens = torch.from_numpy(np.asarray(x[rows], np.float32)).view(len(rows), d, positions)
                tokens = (tokens - center) / scale
                weights = (torch.einsum("md,ndt->nmt", queries, tokens) / d**0.5).softmax(2)
                logits = last(torch.einsum("nmt,ndt->nmd", weights, tokens).flatten(1))
                loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[rows]))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            schedule.step()
            steps.advance()
    coef, bias = (parameter.detach().double().numpy() for parameter in (last.weight, last.bias))
    coef = (coef.reshape(c, m, d) / deviation).reshape(c, -1)
    bias = bias - coef @ np.tile(mean, m)
    scaled = queries.detach().double().numpy() / deviation  # the mean adds the same to the scores of all positions
    if not (np.isfinite(coef).all() and np.isfinite(scaled).all()):
        raise HeadError("attention: its weights are not finite numbers. Give a lower lr, or less weight_decay.")
    return AttentionHead.from_weights(scaled, coef, bias, classes, width)


def _channel_statistics(train: Features, d: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each channel over the positions of all clean views, (d,)."""
    clean, moments = train.lazy_view(0), RunningMoments(d)
    for start in range(0, len(train.samples), _BLOCK):
        tokens = np.asarray(clean[start : start + _BLOCK]).reshape(-1, d, clean.shape[1] // d)
        moments.update(tokens.transpose(0, 2, 1).reshape(-1, d))
    deviation = moments.deviation
    return moments.mean, np.maximum(deviation, _MIN_DEVIATION * deviation.max() if deviation.max() > 0 else 1.0)
