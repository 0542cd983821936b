"""`LayerAttentionHead`: learnt queries weight the layers of a network, a linear layer classifies the weighted means."""

from __future__ import annotations

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
from featcache.heads.attention import AttentionConfig, check_whole
from featcache.heads.file_checks import check_classes, check_layer, require

if TYPE_CHECKING:
    from featcache.cache.features import Features

_BLOCK = 1024  # rows that are computed at a time


@dataclass(frozen=True)
class LayerAttentionConfig(AttentionConfig):
    """How `fit_layer_attention` trains: AdamW with a cosine schedule, view e in epoch e.

    Parameters
    ----------
    queries, epochs, batch_size, lr, weight_decay
        See `AttentionConfig`.
    width : int
        Width r that each layer is projected to.

    Raises
    ------
    ValueError
        A value is out of its range.
    """

    lr: float = 1e-3
    weight_decay: float = 0.1
    width: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("width", self.width)


class LayerAttentionHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Attention over layers and a linear layer: a fitted classifier, made by `fit_layer_attention`.

    Layer l with features x of width d becomes the vector ``projection @ x + offset`` of width r. Each query takes a
    mean of these vectors, weighted by the softmax of their products with it; the linear layer classifies the means.

    Attributes
    ----------
    widths_ : ndarray, shape (l,)
        Width d of each layer.
    projection_ : ndarray, shape (r, sum of d)
        The projections of all layers side by side.
    offset_ : ndarray, shape (l, r)
        What is added.
    queries_ : ndarray, shape (m, r)
        The queries.
    coef_ : ndarray, shape (c, m * r)
        Weights of the linear layer.
    intercept_ : ndarray, shape (c,)
        Biases of the linear layer.
    classes_ : ndarray, shape (c,)
        The classes.
    n_features_in_ : int
        The sum of the widths.
    """

    head_name = "layer-attention"
    widths_: NDArray[np.int64]
    projection_: NDArray[np.float64]
    offset_: NDArray[np.float64]
    queries_: NDArray[np.float64]
    coef_: NDArray[np.float64]
    intercept_: NDArray[np.float64]

    @classmethod
    def from_weights(
        cls,
        widths: NDArray[np.int64],
        projection: NDArray[Any],
        offset: NDArray[Any],
        queries: NDArray[Any],
        coef: NDArray[Any],
        intercept: NDArray[Any],
        classes: NDArray[Any],
    ) -> Self:
        """A head of these arrays, see the attributes."""
        head = cls()
        head.widths_, head.classes_, head.n_features_in_ = widths, classes, int(widths.sum())
        head.projection_, head.offset_, head.queries_ = (
            array.astype(np.float64) for array in (projection, offset, queries)
        )
        head.coef_, head.intercept_ = coef.astype(np.float64), intercept.astype(np.float64)
        return head

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays from which `from_arrays` makes the same head."""
        names = ("widths", "projection", "offset", "queries", "coef", "intercept", "classes")
        return {name: getattr(self, f"{name}_") for name in names}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The reverse of `to_arrays`. Raises ValueError for arrays that contradict each other."""
        widths, projection, offset, queries = (arrays[name] for name in ("widths", "projection", "offset", "queries"))
        coef, intercept, classes = (arrays[name] for name in ("coef", "intercept", "classes"))
        check_layer(coef, intercept)
        require(widths.ndim == 1 and widths.dtype.kind == "i" and len(widths) > 0, "its widths are not integers")
        require(widths.min() > 0, "its widths are not positive")
        for name, array in (("projection", projection), ("offset", offset), ("queries", queries)):
            require(array.ndim == 2 and array.size > 0 and bool(np.isfinite(array).all()), f"its {name} is not finite")
        r = projection.shape[0]
        require(projection.shape[1] == widths.sum(), "its projection does not fit its widths")
        require(offset.shape == (len(widths), r) and queries.shape[1] == r, "its queries do not fit its projection")
        require(coef.shape[1] == queries.size, "its weights do not fit its queries")
        require(classes.shape == (len(coef),), "its classes do not fit its weights")
        check_classes(classes)
        return cls.from_weights(widths, projection, offset, queries, coef, intercept, classes)

    def rescaled(self, scale: NDArray[np.float32]) -> Self:
        """The head for features that are multiplied by `scale`, shape (d,), before this one sees them."""
        arrays = {**self.to_arrays(), "projection": self.projection_ * scale}
        return type(self).from_weights(**arrays)

    def attention(self, X: ArrayLike) -> NDArray[np.float64]:
        """Weights of the layers for each query, shape (n, m, l); they sum to 1 over the layers."""
        return self._attention(self._tokens(np.asarray(X)))

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Logits, shape (n, c), of X (n, sum of d): the layers side by side."""
        x, logits = np.asarray(X), []
        for start in range(0, max(1, len(x)), _BLOCK):
            tokens = self._tokens(x[start : start + _BLOCK])
            means = np.einsum("nml,nlr->nmr", self._attention(tokens), tokens)
            logits.append(means.reshape(len(tokens), -1) @ self.coef_.T + self.intercept_)
        return np.concatenate(logits)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities, shape (n, c)."""
        return softmax(self.decision_function(X), axis=1)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Labels, shape (n,)."""
        return self.classes_[self.decision_function(X).argmax(axis=1)]

    def _attention(self, tokens: NDArray[np.float64]) -> NDArray[np.float64]:
        return softmax(np.einsum("mr,nlr->nml", self.queries_, tokens) / np.sqrt(tokens.shape[2]), axis=2)

    def _tokens(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """(n, l, r)."""
        ends = np.cumsum(self.widths_)[:-1]
        parts = zip(np.split(x.astype(np.float64), ends, axis=1), np.split(self.projection_, ends, axis=1), strict=True)
        return np.stack([part @ projection.T for part, projection in parts], axis=1) + self.offset_


def fit_layer_attention(
    train: Features, config: LayerAttentionConfig, seed: int, progress: Progress | None = None
) -> LayerAttentionHead:
    """Attention over the layers of a network, or of several (after attentive probing, Psomas et al. 2025).

    The features of each layer are centred and projected to the same width.

    Parameters
    ----------
    train : Features
        Training samples, of two layers or more, each with a total variance of 1, see `weigh_layers`.
    config : LayerAttentionConfig
        How it is trained.
    seed : int
        Of the first weights and the order of the samples.
    progress : callable, optional
        Called for each epoch.

    Raises
    ------
    HeadError
        There is one layer only, or the training diverged.
    """
    import torch

    from featcache._utils.random_generators import seeded

    if train.concatenated is None:
        raise HeadError(
            "layer-attention needs two layers or more. Give --layer all, extract with --layers stages, or use linear."
        )
    widths = np.array(train.concatenated.widths, np.int64)
    mean = _mean(train)
    classes, labels = np.unique(train.y, return_inverse=True)
    r, m = config.width, config.queries
    with seeded(derived_seed(seed, "layer-attention")):
        projection = torch.nn.Parameter(torch.randn(r, int(widths.sum())))
        queries = torch.nn.Parameter(0.1 * torch.randn(m, r))
        last = torch.nn.Linear(m * r, len(classes))
    parameters = [projection, queries, *last.parameters()]
    optimizer = torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
    center = torch.from_numpy(mean).float()
    with StepProgress(progress, "fit epochs", config.epochs) as steps:
        for epoch in range(1, config.epochs + 1):
            x = train.lazy_view(train.view_for_epoch(epoch))
            order = epoch_order(train.samples.sha256, seed, epoch)
            for start in range(0, len(order), config.batch_size):
                rows = order[start : start + config.batch_size]
                batch = torch.from_numpy(np.asarray(x[rows], np.float32)) - center
                parts = zip(*(torch.split(each, widths.tolist(), 1) for each in (batch, projection)), strict=True)
                tokens = torch.stack([part @ own.T for part, own in parts], dim=1)
                weights = (torch.einsum("mr,nlr->nml", queries, tokens) / r**0.5).softmax(2)
                logits = last(torch.einsum("nml,nlr->nmr", weights, tokens).flatten(1))
                loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[rows]))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            schedule.step()
            steps.advance()
    weight, query, coef, bias = (
        each.detach().double().numpy() for each in (projection, queries, last.weight, last.bias)
    )
    if not all(np.isfinite(array).all() for array in (weight, query, coef, bias)):
        raise HeadError("layer-attention: its weights are not finite numbers. Give a lower lr.")
    ends = np.cumsum(widths)[:-1]
    parts_of_mean = zip(np.split(weight, ends, axis=1), np.split(mean, ends), strict=True)
    offset = np.stack([-part @ own for part, own in parts_of_mean])
    return LayerAttentionHead.from_weights(widths, weight, offset, query, coef, bias, classes)


def _mean(train: Features) -> NDArray[np.float64]:
    """Of each feature over the clean views, shape (d,)."""
    clean = train.lazy_view(0)
    moments = RunningMoments(clean.shape[1])
    for start in range(0, len(clean), _BLOCK):
        moments.update(np.asarray(clean[start : start + _BLOCK]))
    return moments.mean
