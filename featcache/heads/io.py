"""`save_head` and `load_head`: heads as files, which are loaded without executing code from them."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from featcache._utils.files import check_readable
from featcache.core.tensor_files import add_metadata, tensor_metadata
from featcache.errors import HeadError
from featcache.heads.file_checks import (
    TREES,
    TRUSTED_TYPES,
    check_estimator,
    check_layer,
    check_linear,
    check_linear_head,
    is_checkable,
    iter_parts,
    require,
)
from featcache.heads.linear import LinearHead
from featcache.heads.linear_layer import as_linear
from featcache.heads.one_vs_rest import OneVsRestHead
from featcache.heads.registry import HEADS

_HEAD = "head"  # key of the metadata of a safetensors file that names the kind of head
# places of the memory address of an object in the schema of skops: its number, and the name of its array file
_ADDRESS = re.compile(r'("__id__": |"file": ")(\d+)(\.\w+"|\b)')


@runtime_checkable
class ArrayHead(Protocol):
    """A fitted classifier of its own class, which is saved as arrays: `HeadSpec.load` of its head makes it again.

    head_name : its name in `featcache.heads.registry.HEADS`, written into the file.
    """

    head_name: str

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What `HeadSpec.load` takes."""


def save_head(estimator: BaseEstimator, digest: str = "") -> tuple[str, bytes]:
    """The file of a fitted head.

    Linear layers and heads with `to_arrays` become a safetensors file, other classifiers of scikit-learn a skops file.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier.
    digest : str
        Of the spec of its features, for the metadata of a safetensors file. Default: "".

    Returns
    -------
    name : str
        head.safetensors or head.skops.
    content : bytes
        Equal for equal heads.

    Raises
    ------
    HeadError
        The estimator could not be loaded again without trusting code from outside of scikit-learn.
    """
    arrays, metadata = _arrays(estimator)
    if arrays:
        from safetensors.numpy import save

        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        return "head.safetensors", add_metadata(save(contiguous), tensor_metadata("head", "np", digest) | metadata)
    import skops.io

    name = type(estimator).__name__
    try:
        data = skops.io.dumps(estimator)
    except Exception as error:  # skops raises various errors for what it does not know
        raise HeadError(f"{name} cannot be saved: {error}. Use fit_head() from Python without `out`.") from error
    untrusted = sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED_TYPES))
    if untrusted:
        raise HeadError(
            f"{name} cannot be saved so that loading executes no code: it holds "
            f"{', '.join(untrusted)}. Use fit_head() from Python without `out`, or another head."
        )
    try:
        check_estimator(estimator)
    except ValueError as error:
        raise HeadError(f"{name} could not be loaded again: {error}. Use another head.") from error
    return "head.skops", _reproducible(data)


def _reproducible(data: bytes) -> bytes:
    """The same skops file without memory addresses and times: equal estimators are equal bytes."""
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


def reject_unsavable(estimator: BaseEstimator) -> None:
    """Raise HeadError for an unfitted estimator that `save_head` rejects for its class."""
    if isinstance(estimator, ArrayHead):
        return
    is_tree = type(estimator).__name__ in TREES
    for part in iter_parts(estimator):
        kind = type(part)
        if not isinstance(part, BaseEstimator):
            continue
        if is_checkable(kind) and (is_tree or kind.__name__ not in TREES):
            continue
        inside = "" if part is estimator else f" with a {kind.__name__} in it"
        raise HeadError(
            f"{type(estimator).__name__}{inside} cannot be saved so that loading executes no code, so it was not "
            "fitted. Leave out `out` (-o), or use another head."
        )


def _arrays(estimator: BaseEstimator) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Arrays and metadata of the safetensors file of a head; no arrays for other classifiers."""
    if isinstance(estimator, ArrayHead):
        return estimator.to_arrays(), {_HEAD: estimator.head_name}
    head = as_linear(estimator)
    if head is None:
        return {}, {}
    arrays = {"coef": head.coef_, "intercept": head.intercept_}
    if isinstance(head, LinearHead):  # labels of OneVsRestHead are the rows of its weights
        arrays["classes"] = head.classes_
    return arrays, {}


def load_head(path: Path) -> BaseEstimator:
    """Load a file that `save_head` made, without executing code from the file.

    A head of another package is made by the `load` of its entry point, from arrays alone. The package is imported only
    if it is installed and has registered the head.

    Parameters
    ----------
    path : Path
        head.safetensors or head.skops.

    Raises
    ------
    HeadError
        The file is damaged, or its values would make compiled code read outside of its arrays.
    OSError
        The file cannot be read.
    """
    check_readable(path)
    try:
        if path.suffix == ".safetensors":
            return _load_arrays(path)
        import skops.io

        _check_size(path)
        untrusted = set(skops.io.get_untrusted_types(file=path))
        estimator = skops.io.load(path, trusted=sorted(untrusted & set(TRUSTED_TYPES)))
        check_estimator(estimator)
        check_linear_head(as_linear(estimator))
        return estimator
    except Exception as error:  # a damaged archive, unknown keys, untrusted types: the user can do the same about all
        raise HeadError(f"{path} is not a head that can be loaded safely: {error}") from error


def _load_arrays(path: Path) -> BaseEstimator:
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        metadata: Mapping[str, str] = file.metadata() or {}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a mapping
    name = metadata.get(_HEAD, "attention" if "queries" in arrays else "")  # version 0.1.0 wrote no metadata
    if name:
        load = HEADS.get(name).load
        if load is None:
            raise ValueError(f"the head {name!r} is not saved as arrays of its own")
        return load(arrays)
    coef, intercept = arrays["coef"], arrays["intercept"]
    if "classes" not in arrays:
        check_layer(coef, intercept)
        return OneVsRestHead.from_weights(coef, intercept)
    check_linear(coef, intercept, arrays["classes"])
    return LinearHead.from_weights(coef, intercept, arrays["classes"])


def _check_size(path: Path) -> None:
    """Raise ValueError for an archive that unpacks to far more than its size; skops does not compress."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    require(unpacked <= 2**24 + 2 * path.stat().st_size, f"it would unpack to {unpacked:,} bytes")
