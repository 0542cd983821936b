"""`AttentionHead`: learnt queries look at the places of a map that matter, a linear layer judges what they find."""

from __future__ import annotations

import math
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

if TYPE_CHECKING:
    from featcache.cache.features import Features

_BLOCK = 256  # images whose tokens are widened at a time
_LEAST = 1e-6  # deviation of a channel, as a share of the widest


@dataclass(frozen=True)
class AttentionRecipe:
    """How `fit_attention` trains: AdamW along a cosine, view e in epoch e. Raises ValueError for what is no recipe."""

    queries: int = 4
    epochs: int = 30
    batch_size: int = 32
    lr: float = 1e-2
    weight_decay: float = 0.5

    def __post_init__(self) -> None:
        for name in ("queries", "epochs", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number, 1 or more")
        if not isinstance(self.lr, (int, float)) or not 0 < self.lr < math.inf:
            raise ValueError(f"lr is {self.lr!r}; it must be a number greater than 0")
        if not isinstance(self.weight_decay, (int, float)) or not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is {self.weight_decay!r}; it must be a number, 0 or greater")


class AttentionHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Attention pooling and a linear layer: a fitted classifier, made by `fit_attention`.

    Attributes
    ----------
    queries_ : ndarray, shape (m, d). coef_ : (c, m * d). intercept_ : (c,). classes_ : (c,). n_features_in_ : d * t.
    """

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
        """From arrays of these shapes."""
        head = cls()
        head.queries_, head.coef_, head.intercept_ = (part.astype(np.float64) for part in (queries, coef, intercept))
        head.classes_, head.n_features_in_ = classes, n_features
        return head

    def attention(self, X: ArrayLike) -> NDArray[np.float64]:
        """Where each query looks: shares (n, m, t) that sum to 1 over the places."""
        tokens = self._tokens(np.asarray(X))
        return softmax(np.einsum("md,ndt->nmt", self.queries_, tokens) / np.sqrt(tokens.shape[1]), axis=2)

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Logits, shape (n, c), of X (n, d * t): the places of each channel side by side."""
        x, logits = np.asarray(X), []
        for start in range(0, max(1, len(x)), _BLOCK):
            block = x[start : start + _BLOCK]
            found = np.einsum("nmt,ndt->nmd", self.attention(block), self._tokens(block))
            logits.append(found.reshape(len(block), -1) @ self.coef_.T + self.intercept_)
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
    train: Features, places: int, recipe: AttentionRecipe, seed: int, progress: Progress | None = None
) -> AttentionHead:
    """Efficient probing (Psomas et al. 2025, arXiv 2506.10178) on cached places of a map.

    m queries each take a softmax-weighted mean of the places; a linear layer judges the m means side by side. Theirs
    projects the means before; one linear layer after the other is one. Channels are standardised for the training,
    which is folded into what is kept.

    Parameters
    ----------
    train : x of shape (n, v, d * places). places : t, see `featcache.core.layer_names`.

    Raises
    ------
    HeadError : the features are not those of so many places, or the recipe's steps are too large.
    """
    import torch

    width = train.x.shape[2]
    if width % places:
        raise HeadError(
            f"attention: {width} features are no channels of {places} places each, as their layer's name says. "
            "Extract again, or name another layer."
        )
    classes, labels = np.unique(train.y, return_inverse=True)
    d, c, m = width // places, len(classes), recipe.queries
    mean, deviation = _moments(train, d)
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, "attention"))
        queries = torch.nn.Parameter(0.1 * torch.randn(m, d))
        last = torch.nn.Linear(m * d, c)
    optimizer = torch.optim.AdamW([queries, *last.parameters()], recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    centre, spread = (torch.from_numpy(part).float()[:, None] for part in (mean, deviation))
    with StepProgress(progress, "fit epochs", recipe.epochs) as steps:
        for epoch in range(1, recipe.epochs + 1):
            x = train.lazy_view(train.view_for_epoch(epoch))
            order = epoch_order(train.samples.sha256, seed, epoch)
            for start in range(0, len(order), recipe.batch_size):
                rows = order[start : start + recipe.batch_size]
                tokens = torch.from_numpy(np.asarray(x[rows], np.float32)).view(len(rows), d, places)
                tokens = (tokens - centre) / spread
                shares = (torch.einsum("md,ndt->nmt", queries, tokens) / d**0.5).softmax(2)
                logits = last(torch.einsum("nmt,ndt->nmd", shares, tokens).flatten(1))
                loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[rows]))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            schedule.step()
            steps.advance()
    coef, bias = (part.detach().double().numpy() for part in (last.weight, last.bias))
    coef = (coef.reshape(c, m, d) / deviation).reshape(c, -1)
    bias = bias - coef @ np.tile(mean, m)
    kept = queries.detach().double().numpy() / deviation  # what the mean adds to a score is the same at all places
    if not (np.isfinite(coef).all() and np.isfinite(kept).all()):
        raise HeadError("attention: its weights grew beyond all bounds. Give a lower lr, or less weight_decay.")
    return AttentionHead.from_weights(kept, coef, bias, classes, width)


def _moments(train: Features, d: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation of each channel over the places of all clean views, (d,)."""
    clean, moments = train.lazy_view(0), RunningMoments(d)
    for start in range(0, len(train.samples), _BLOCK):
        tokens = np.asarray(clean[start : start + _BLOCK]).reshape(-1, d, clean.shape[1] // d)
        moments.update(tokens.transpose(0, 2, 1).reshape(-1, d))
    deviation = moments.deviation
    return moments.mean, np.maximum(deviation, _LEAST * deviation.max() if deviation.max() > 0 else 1.0)
