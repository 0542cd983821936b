"""What a head's file may hold: types that execute no code, and arrays that compiled code reads within their bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from featcache.heads.linear import LinearHead
from featcache.heads.one_vs_rest import OneVsRestHead

TRUSTED_TYPES = (
    "sklearn.tree._tree.Tree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "featcache.heads.linear.LinearHead",
    "featcache.heads.one_vs_rest.OneVsRestHead",
    "featcache.heads.binary_relevance.BinaryRelevance",
    "featcache.linear.LinearHead",  # addresses in heads that an earlier version saved
    "featcache.onevsrest.OneVsRestHead",
    "featcache.eachlabel.EachLabel",
)
"""Types that skops does not know, but whose construction executes no code from the file. Values that compiled code
does not check itself, such as the node numbers of trees, are checked after loading."""

ALLOWED_MODULES = (
    "featcache.heads.linear",
    "featcache.heads.one_vs_rest",
    "featcache.heads.binary_relevance",
    "sklearn.calibration",
    "sklearn.decomposition",
    "sklearn.discriminant_analysis",
    "sklearn.dummy",
    "sklearn.linear_model",
    "sklearn.multiclass",
    "sklearn.naive_bayes",
    "sklearn.neural_network",
    "sklearn.pipeline",
    "sklearn.preprocessing",
)
"""Modules and packages of estimators that a head may hold: they predict with numpy, or are checked after loading."""

TREES = ("DecisionTreeClassifier", "ExtraTreeClassifier", "RandomForestClassifier", "ExtraTreesClassifier")
"""Classes of decision trees; they are saved alone, not inside of other estimators."""

_CHECKED = ("SVC", "NuSVC", "LinearSVC", "KNeighborsClassifier", "NearestCentroid")


def is_checkable(kind: type) -> bool:
    """Whether the file of an estimator of this class can be loaded safely."""
    module = kind.__module__
    allowed = any(module == name or module.startswith(f"{name}.") for name in ALLOWED_MODULES)
    return allowed or kind.__name__ in (*_CHECKED, *TREES)


def require(condition: Any, message: str) -> None:
    """Raise ValueError if the condition is false."""
    if not condition:
        raise ValueError(message)


def check_estimator(estimator: Any) -> None:
    """Raise ValueError for values with which compiled code would access memory outside of its arrays."""
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC, NuSVC
    from sklearn.tree._tree import Tree

    require(isinstance(estimator, BaseEstimator) and hasattr(estimator, "predict"), "it is not a classifier")
    check_classes(np.asarray(estimator.classes_))
    require(isinstance(estimator.n_features_in_, int), "n_features_in_ must be an int")
    for part in iter_parts(estimator):
        if isinstance(part, BaseEstimator):
            kind = type(part)
            require(is_checkable(kind), f"it holds a {kind.__name__}, whose values cannot be checked")
        if isinstance(part, LinearHead) and hasattr(part, "coef_"):
            check_linear(part.coef_, part.intercept_, part.classes_)
        if isinstance(part, OneVsRestHead) and hasattr(part, "coef_"):
            check_layer(part.coef_, part.intercept_)
        if isinstance(part, (SVC, NuSVC)) and hasattr(part, "support_vectors_"):  # a template is not fitted
            _check_svc(part)
        elif isinstance(part, KNeighborsClassifier) and hasattr(part, "_fit_X"):
            _check_neighbors(part)
        elif isinstance(part, Tree):
            name = type(estimator).__name__
            require(
                name in TREES, f"it holds decision trees inside of a {name}; only {', '.join(TREES)} can be checked"
            )
    if type(estimator).__name__ in TREES:
        for member in getattr(estimator, "estimators_", [estimator]):
            _check_tree(member, estimator.n_features_in_)


def check_linear_head(head: LinearHead | OneVsRestHead | None) -> None:
    """Raise ValueError for arrays of a linear head that contradict each other."""
    if isinstance(head, LinearHead):
        check_linear(head.coef_, head.intercept_, head.classes_)
    elif head is not None:
        check_layer(head.coef_, head.intercept_)


def check_linear(coef: NDArray[Any], intercept: NDArray[Any], classes: NDArray[Any]) -> None:
    check_layer(coef, intercept)
    require(classes.shape == (max(2, len(coef)),), "its classes do not fit its weights")
    check_classes(classes)


def check_layer(coef: NDArray[Any], intercept: NDArray[Any]) -> None:
    require(coef.ndim == 2 and len(coef) and intercept.shape == (len(coef),), "its weights do not fit each other")
    require(np.isfinite(coef).all() and np.isfinite(intercept).all(), "its weights are not finite")


def check_classes(classes: NDArray[Any]) -> None:
    are_indices = classes.ndim == 1 and classes.dtype.kind == "i" and classes.min() >= 0
    require(
        are_indices and len(np.unique(classes)) == len(classes), "its classes must be distinct non-negative integers"
    )


def iter_parts(whole: Any) -> Iterator[Any]:
    """An object and all objects inside of it."""
    stack, seen = [whole], set()
    while stack:
        part = stack.pop()
        if id(part) in seen or isinstance(part, (str, bytes, type)):
            continue
        seen.add(id(part))
        yield part
        if isinstance(part, Mapping):
            stack += part.values()
        elif isinstance(part, (list, tuple, set)) or (isinstance(part, np.ndarray) and part.dtype == object):
            stack += list(part)
        stack += getattr(part, "__dict__", {}).values()


def _check_tree(member: Any, width: int) -> None:
    """Node and feature numbers must be in range: a forest compares only its own n_features_in_ with its input."""
    tree = member.tree_
    nodes = np.arange(tree.node_count)
    leaf = tree.children_left == -1
    for children in (tree.children_left, tree.children_right):
        inside = (children > nodes) & (children < len(nodes))
        require(np.all(leaf | inside), "a decision tree in it has nodes out of range")
    used = (tree.feature >= 0) & (tree.feature < width)
    require(member.n_features_in_ == width and np.all(leaf | used), "a decision tree in it uses features out of range")


def _check_svc(svc: Any) -> None:
    """libsvm reads arrays by numbers of classes and support vectors that it takes from other arrays."""
    classes, vectors = len(svc.classes_), len(svc.support_vectors_)
    pairs = classes * (classes - 1) // 2
    shapes = {
        "support_": (vectors,),
        "support_vectors_": (vectors, svc.n_features_in_),
        "_n_support": (classes,),
        "_dual_coef_": (classes - 1, vectors),
        "_intercept_": (pairs,),
    }
    valid = all(getattr(svc, name).shape == shape for name, shape in shapes.items())
    valid = valid and svc._probA.shape == svc._probB.shape and svc._probA.size in (0, pairs)
    valid = valid and svc._n_support.min() >= 0 and svc._n_support.sum() == vectors and svc._impl == type(svc)._impl
    # a precomputed kernel reads the numbers in support_ as columns of its input
    valid = valid and svc.kernel in ("linear", "poly", "rbf", "sigmoid") and not svc._sparse
    require(valid, "its support vectors do not fit each other")


def _check_neighbors(neighbors: Any) -> None:
    """Votes are counted at the labels of the neighbors, which must be in range."""
    labels, classes = np.asarray(neighbors._y), len(neighbors.classes_)
    valid = labels.shape == (len(neighbors._fit_X),) and labels.min() >= 0 and labels.max() < classes
    valid = valid and neighbors._fit_X.shape == (len(labels), neighbors.n_features_in_) and neighbors._tree is None
    require(valid, "its neighbors do not fit each other")
