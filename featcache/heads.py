"""Heads: any classifier on features, made by name, fitted, saved and loaded without executing code."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, is_classifier

from featcache.blocks import Rows
from featcache.errors import HeadError
from featcache.features import FlatFeatures
from featcache.linear import LinearHead

# Short name -> class, parameters.
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("featcache.linear.LinearHead", {}),
    "logreg": ("sklearn.linear_model.LogisticRegression", {"max_iter": 1000}),
    "svm": ("sklearn.svm.SVC", {}),
    "knn": ("sklearn.neighbors.KNeighborsClassifier", {"metric": "cosine", "algorithm": "brute"}),
    "ridge": ("sklearn.linear_model.RidgeClassifier", {}),
    "lda": ("sklearn.discriminant_analysis.LinearDiscriminantAnalysis", {"solver": "lsqr", "shrinkage": "auto"}),
    "centroid": ("sklearn.neighbors.NearestCentroid", {}),
    "forest": ("sklearn.ensemble.RandomForestClassifier", {"n_jobs": -1, "random_state": 0}),
}

_BLOCK = 8192  # rows that are predicted at a time

# Types from scikit-learn's compiled or private modules that skops does not know, looked through by us: building
# one runs no code from the file. A tree's node indices are checked after loading, as scikit-learn trusts them.
_TREE = "sklearn.tree._tree.Tree"
_TREES = ("DecisionTreeClassifier", "ExtraTreeClassifier", "RandomForestClassifier", "ExtraTreesClassifier")
_TRUSTED = (
    _TREE,
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
)


def make_head(name: str, parameters: Mapping[str, Any] | None = None) -> BaseEstimator:
    """An unfitted classifier.

    Parameters
    ----------
    name : a short name of `HEADS`, or a dotted path such as `sklearn.naive_bayes.GaussianNB`.
    parameters : of its constructor; they override the defaults.

    Raises
    ------
    HeadError : no such classifier, or no such parameter.
    """
    path, defaults = HEADS.get(name, (name, {}))
    module_name, _, class_name = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise HeadError(
            f"there is no head {name!r}. Use {', '.join(HEADS)}, sgd, or the dotted path of a scikit-learn "
            "classifier, such as sklearn.naive_bayes.GaussianNB."
        ) from error
    if not (inspect.isclass(cls) and issubclass(cls, BaseEstimator) and hasattr(cls, "predict")):
        raise HeadError(f"{name} is not a scikit-learn classifier")
    known = sorted(inspect.signature(cls).parameters)
    unknown = sorted(set(parameters or {}) - set(known))
    if unknown:
        raise HeadError(f"{name} has no parameter {unknown[0]!r}; it has {', '.join(known)}")
    try:
        estimator = cls(**{**defaults, **(parameters or {})})
    except (TypeError, ValueError) as error:
        raise HeadError(
            f"{name} cannot be made: {error}. Give its parameters, or pass an object from Python."
        ) from error
    if not is_classifier(estimator):
        raise HeadError(f"{name} is not a scikit-learn classifier")
    return estimator


def fit_estimator(estimator: BaseEstimator, features: FlatFeatures) -> None:
    """Fit on all views, an image counting once where the estimator takes sample weights."""
    weights = {}
    if "sample_weight" in inspect.signature(estimator.fit).parameters:
        weights["sample_weight"] = features.weights
    x = features.x if isinstance(estimator, LinearHead) else np.asarray(features.x, dtype=np.float32)
    try:
        estimator.fit(x, features.y, **weights)
    except (ValueError, TypeError, MemoryError) as error:
        raise HeadError(f"{type(estimator).__name__} could not be fitted: {error}") from error


def predict(estimator: BaseEstimator, x: NDArray[Any] | Rows) -> NDArray[np.int64]:
    """Class indices, shape (n,), int64, for features of shape (n, d)."""
    return np.concatenate([np.asarray(estimator.predict(block), dtype=np.int64) for block in _blocks(x)])


def probabilities(estimator: BaseEstimator, x: NDArray[Any], n_classes: int) -> NDArray[np.float64] | None:
    """Probabilities, shape (n, c), 0 for a class that the training data lacked; None where it has none."""
    if not hasattr(estimator, "predict_proba"):
        return None
    found = np.concatenate([np.asarray(estimator.predict_proba(block), dtype=np.float64) for block in _blocks(x)])
    full = np.zeros((len(found), n_classes))
    full[:, np.asarray(estimator.classes_, dtype=np.int64)] = found
    return full


def _blocks(x: NDArray[Any] | Rows) -> Iterator[NDArray[np.float32]]:
    """Some thousand rows at a time, so that memory does not grow with n; one block where there are none."""
    for start in range(0, max(1, len(x)), _BLOCK):
        yield np.asarray(x[start : start + _BLOCK], dtype=np.float32)


def dump_head(estimator: BaseEstimator) -> tuple[str, bytes]:
    """Name and bytes of a head's file: head.safetensors (linear) or head.skops (other scikit-learn).

    Raises
    ------
    HeadError : the estimator could not be loaded again without trusting code from outside scikit-learn.
    """
    if isinstance(estimator, LinearHead):
        from safetensors.numpy import save

        arrays = {"coef": estimator.coef_, "intercept": estimator.intercept_, "classes": estimator.classes_}
        return "head.safetensors", save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    import skops.io

    data = skops.io.dumps(estimator)
    unknown = set(skops.io.get_untrusted_types(data=data))
    checked = type(estimator).__name__ in _TREES
    untrusted = sorted(unknown - set(_TRUSTED) | (set() if checked else unknown & {_TREE}))
    if untrusted:
        raise HeadError(
            f"{type(estimator).__name__} cannot be saved so that loading executes no code: it holds "
            f"{', '.join(untrusted)}. Use fit_head() from Python without `out`, or another head."
        )
    return "head.skops", data


def load_head(path: Path) -> BaseEstimator:
    """Load a file that `dump_head` made; executes no code from the file. Raises HeadError."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            arrays = load_file(path)
            return LinearHead.from_weights(arrays["coef"], arrays["intercept"], arrays["classes"])
        import skops.io

        found = set(skops.io.get_untrusted_types(file=path))
        estimator = skops.io.load(path, trusted=sorted(found & set(_TRUSTED)))
        if _TREE in found:
            _check_trees(estimator)
        return estimator
    except Exception as error:  # broken zip, unknown keys, untrusted types: all the same to the user
        raise HeadError(f"{path} is not a head that can be loaded safely: {error}") from error


def _check_trees(estimator: BaseEstimator) -> None:
    """Refuse trees whose nodes point outside of their arrays: predicting would read foreign memory."""
    name = type(estimator).__name__
    if name not in _TREES:
        raise HeadError(f"it holds decision trees inside of a {name}; only {', '.join(_TREES)} can be checked")
    for member in getattr(estimator, "estimators_", [estimator]):
        tree = member.tree_
        nodes = np.arange(tree.node_count)
        leaf = tree.children_left == -1
        for children in (tree.children_left, tree.children_right):
            if not np.all(leaf | ((children > nodes) & (children < len(nodes)))):
                raise HeadError("a decision tree in it has nodes out of range")
        # A forest checks the width of what it is given once, by its own attribute.
        width = estimator.n_features_in_
        if member.n_features_in_ != width or not np.all(leaf | ((tree.feature >= 0) & (tree.feature < width))):
            raise HeadError("a decision tree in it uses features out of range")
