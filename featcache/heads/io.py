"""Heads as files: saved, and loaded without executing code or reading memory that is not theirs."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from featcache._utils.files import check_readable
from featcache.errors import HeadError
from featcache.heads.attention import AttentionHead
from featcache.heads.linear import LinearHead
from featcache.heads.linear_layer import as_linear
from featcache.heads.one_vs_rest import OneVsRestHead

# Types from scikit-learn's compiled or private modules that skops does not know: building one runs no code from the
# file. What compiled code trusts blindly, node numbers of trees for one, is checked after loading.
_TRUSTED = (
    "sklearn.tree._tree.Tree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "featcache.heads.linear.LinearHead",
    "featcache.heads.one_vs_rest.OneVsRestHead",
    "featcache.heads.binary_relevance.BinaryRelevance",
    "featcache.linear.LinearHead",  # as heads of before the rooms have them
    "featcache.onevsrest.OneVsRestHead",
    "featcache.eachlabel.EachLabel",
)
# Estimators that a head may hold: they predict with numpy alone, or what their compiled code reads is checked below.
_ROOMS = (
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
# Where skops writes the address of an object: as its number, and as the name of its array's file.
_ADDRESS = re.compile(r'("__id__": |"file": ")(\d+)(\.\w+"|\b)')
_CHECKED = ("SVC", "NuSVC", "LinearSVC", "KNeighborsClassifier", "NearestCentroid")
TREES = ("DecisionTreeClassifier", "ExtraTreeClassifier", "RandomForestClassifier", "ExtraTreesClassifier")
"""Classes of decision trees; they are saved by themselves alone, not inside of others."""


def save_head(estimator: BaseEstimator) -> tuple[str, bytes]:
    """Name and bytes of a head's file: head.safetensors (what folds to a linear layer, attention) or head.skops (other
    scikit-learn).

    Raises
    ------
    HeadError : the estimator could not be loaded again without trusting code from outside scikit-learn.
    """
    arrays = _arrays(estimator)
    if arrays:
        from safetensors.numpy import save

        return "head.safetensors", save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    import skops.io

    name = type(estimator).__name__
    try:
        data = skops.io.dumps(estimator)
    except Exception as error:  # whatever it does not know
        raise HeadError(f"{name} cannot be saved: {error}. Use fit_head() from Python without `out`.") from error
    untrusted = sorted(set(skops.io.get_untrusted_types(data=data)) - set(_TRUSTED))
    if untrusted:
        raise HeadError(
            f"{name} cannot be saved so that loading executes no code: it holds "
            f"{', '.join(untrusted)}. Use fit_head() from Python without `out`, or another head."
        )
    try:
        _check(estimator)
    except ValueError as error:
        raise HeadError(f"{name} could not be loaded again: {error}. Use another head.") from error
    return "head.skops", _reproducible(data)


def _reproducible(data: bytes) -> bytes:
    """The same skops file without addresses of objects and the time of day: equal estimators become equal bytes."""
    numbers: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return match[1] + numbers.setdefault(match[2], str(len(numbers) + 1)) + match[3]

    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(target, "w") as new:
        schema = _ADDRESS.sub(number, old.read("schema.json").decode())
        files = {name: numbers.get(Path(name).stem, Path(name).stem) + Path(name).suffix for name in old.namelist()}
        for name in sorted(set(files) - {"schema.json"}, key=lambda name: files[name]):
            new.writestr(zipfile.ZipInfo(files[name]), old.read(name))
        new.writestr(zipfile.ZipInfo("schema.json"), schema)
    return target.getvalue()


def refuse_unsavable(estimator: BaseEstimator) -> None:
    """Raise HeadError for an estimator that `save_head` would refuse for its class, before it is fitted."""
    holds_trees = type(estimator).__name__ in TREES
    for part in _parts(estimator):
        kind = type(part)
        if not isinstance(part, BaseEstimator):
            continue
        known = kind.__name__ in (*_CHECKED, *TREES) or kind.__module__.startswith(_ROOMS)
        if known and (holds_trees or kind.__name__ not in TREES):
            continue
        inside = "" if part is estimator else f" with a {kind.__name__} in it"
        raise HeadError(
            f"{type(estimator).__name__}{inside} cannot be saved so that loading executes no code, so it was not "
            "fitted. Leave out `out` (-o), or use another head."
        )


def _arrays(estimator: BaseEstimator) -> dict[str, NDArray[Any]]:
    """What a linear layer, or attention and one, consists of; nothing for other classifiers."""
    if isinstance(estimator, AttentionHead):
        width = np.array([estimator.n_features_in_])
        return {
            "queries": estimator.queries_,
            "coef": estimator.coef_,
            "intercept": estimator.intercept_,
            "classes": estimator.classes_,
            "features": width,
        }
    head = as_linear(estimator)
    if head is None:
        return {}
    arrays = {"coef": head.coef_, "intercept": head.intercept_}
    if isinstance(head, LinearHead):  # the other's labels are the rows of its weights
        arrays["classes"] = head.classes_
    return arrays


def load_head(path: Path) -> BaseEstimator:
    """Load a file that `save_head` made; executes no code from the file. Raises HeadError, OSError."""
    check_readable(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            arrays = load_file(path)
            coef, intercept = arrays["coef"], arrays["intercept"]
            if "queries" in arrays:
                return _attention(arrays)
            if "classes" not in arrays:
                _check_layer(coef, intercept)
                return OneVsRestHead.from_weights(coef, intercept)
            classes = arrays["classes"]
            _check_linear(coef, intercept, classes)
            return LinearHead.from_weights(coef, intercept, classes)
        import skops.io

        _check_size(path)
        found = set(skops.io.get_untrusted_types(file=path))
        estimator = skops.io.load(path, trusted=sorted(found & set(_TRUSTED)))
        _check(estimator)
        _check_folded(as_linear(estimator))
        return estimator
    except Exception as error:  # broken zip, unknown keys, untrusted types: all the same to the user
        raise HeadError(f"{path} is not a head that can be loaded safely: {error}") from error


def _attention(arrays: dict[str, NDArray[Any]]) -> AttentionHead:
    queries, coef, intercept = arrays["queries"], arrays["coef"], arrays["intercept"]
    _check_layer(coef, intercept)
    _require(queries.ndim == 2 and queries.size and np.isfinite(queries).all(), "its queries are none")
    _require(coef.shape[1] == queries.size, "its weights do not fit its queries")
    _require(arrays["classes"].shape == (len(coef),), "its classes do not fit its weights")
    _check_classes(arrays["classes"])
    _require(arrays["features"].shape == (1,) and arrays["features"].dtype.kind == "i", "its width is no number")
    width = int(arrays["features"][0])
    _require(width > 0 and width % queries.shape[1] == 0, "its width does not fit its queries")
    return AttentionHead.from_weights(queries, coef, intercept, arrays["classes"], width)


def _require(fine: Any, said: str) -> None:
    if not fine:
        raise ValueError(said)


def _check(estimator: Any) -> None:
    """Refuse what makes compiled code, which checks nothing, read or write foreign memory."""
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC, NuSVC
    from sklearn.tree._tree import Tree

    _require(isinstance(estimator, BaseEstimator) and hasattr(estimator, "predict"), "it is no classifier")
    _check_classes(np.asarray(estimator.classes_))
    _require(isinstance(estimator.n_features_in_, int), "its number of features is none")
    for part in _parts(estimator):
        if isinstance(part, BaseEstimator):
            kind = type(part)
            known = kind.__name__ in (*_CHECKED, *TREES) or kind.__module__.startswith(_ROOMS)
            _require(known, f"it holds a {kind.__name__}, whose file nothing checks")
        if isinstance(part, LinearHead) and hasattr(part, "coef_"):
            _check_linear(part.coef_, part.intercept_, part.classes_)
        if isinstance(part, OneVsRestHead) and hasattr(part, "coef_"):
            _check_layer(part.coef_, part.intercept_)
        if isinstance(part, (SVC, NuSVC)) and hasattr(part, "support_vectors_"):  # a template is not fitted
            _check_svc(part)
        elif isinstance(part, KNeighborsClassifier) and hasattr(part, "_fit_X"):
            _check_neighbours(part)
        elif isinstance(part, Tree):
            name = type(estimator).__name__
            _require(
                name in TREES, f"it holds decision trees inside of a {name}; only {', '.join(TREES)} can be checked"
            )
    if type(estimator).__name__ in TREES:
        for member in getattr(estimator, "estimators_", [estimator]):
            _check_tree(member, estimator.n_features_in_)


def _check_folded(head: LinearHead | OneVsRestHead | None) -> None:
    """Refuse arrays that contradict each other, where they shall be a linear layer."""
    if isinstance(head, LinearHead):
        _check_linear(head.coef_, head.intercept_, head.classes_)
    elif head is not None:
        _check_layer(head.coef_, head.intercept_)


def _check_linear(coef: NDArray[Any], intercept: NDArray[Any], classes: NDArray[Any]) -> None:
    _check_layer(coef, intercept)
    _require(classes.shape == (max(2, len(coef)),), "its classes do not fit its weights")
    _check_classes(classes)


def _check_layer(coef: NDArray[Any], intercept: NDArray[Any]) -> None:
    _require(coef.ndim == 2 and len(coef) and intercept.shape == (len(coef),), "its weights do not fit each other")
    _require(np.isfinite(coef).all() and np.isfinite(intercept).all(), "its weights are not finite")


def _check_classes(classes: NDArray[Any]) -> None:
    fine = classes.ndim == 1 and classes.dtype.kind == "i" and classes.min() >= 0
    _require(fine and len(np.unique(classes)) == len(classes), "its classes are no numbers")


def _check_size(path: Path) -> None:
    """Refuse an archive that unpacks to far more than its size; skops packs without compression."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    _require(unpacked <= 2**24 + 2 * path.stat().st_size, f"it would unpack to {unpacked:,} bytes")


def _parts(whole: Any) -> Iterator[Any]:
    """An object and all that it holds."""
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
    """A forest checks the width of what it is given once, by its own attribute."""
    tree = member.tree_
    nodes = np.arange(tree.node_count)
    leaf = tree.children_left == -1
    for children in (tree.children_left, tree.children_right):
        inside = (children > nodes) & (children < len(nodes))
        _require(np.all(leaf | inside), "a decision tree in it has nodes out of range")
    used = (tree.feature >= 0) & (tree.feature < width)
    _require(member.n_features_in_ == width and np.all(leaf | used), "a decision tree in it uses features out of range")


def _check_svc(svc: Any) -> None:
    """libsvm takes the number of classes and of support vectors from some arrays and reads others by them."""
    classes, vectors = len(svc.classes_), len(svc.support_vectors_)
    pairs = classes * (classes - 1) // 2
    shapes = {
        "support_": (vectors,),
        "support_vectors_": (vectors, svc.n_features_in_),
        "_n_support": (classes,),
        "_dual_coef_": (classes - 1, vectors),
        "_intercept_": (pairs,),
    }
    fine = all(getattr(svc, name).shape == shape for name, shape in shapes.items())
    fine = fine and svc._probA.shape == svc._probB.shape and svc._probA.size in (0, pairs)
    fine = fine and svc._n_support.min() >= 0 and svc._n_support.sum() == vectors and svc._impl == type(svc)._impl
    # Another kernel reads the numbers in support_ as columns of what it is given.
    fine = fine and svc.kernel in ("linear", "poly", "rbf", "sigmoid") and not svc._sparse
    _require(fine, "its support vectors do not fit each other")


def _check_neighbours(neighbours: Any) -> None:
    """The votes of the neighbours are counted at their labels."""
    labels, classes = np.asarray(neighbours._y), len(neighbours.classes_)
    fine = labels.shape == (len(neighbours._fit_X),) and labels.min() >= 0 and labels.max() < classes
    fine = fine and neighbours._fit_X.shape == (len(labels), neighbours.n_features_in_) and neighbours._tree is None
    _require(fine, "its neighbours do not fit each other")
