"""`HEADS`: the kinds of heads by name.

A new kind of head is one module of `featcache.heads.kinds` that calls `register`. Another package adds one by an entry
point that names a `HeadSpec`; `fit_head` and `fit-head --head` then take its name:

    [project.entry-points."featcache.heads"]
    toy = "toy_package:SPEC"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from featcache.core.registry import Registry
from featcache.errors import HeadError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sklearn.base import BaseEstimator

    from featcache.heads.solvers.path import Stop
    from featcache.heads.training_data import FitOptions, Fitted, TrainingData
    from featcache.heads.tuning.tuning_data import TunedHead, TuningData


@dataclass(frozen=True)
class HeadSpec:
    """A kind of head: how it is fitted, and what it supports.

    A head is fitted by `fit`, by `tune` or as an `estimator`. One that has `tune` and an `estimator` is tuned, unless
    the user gives parameters other than class_weight.

    A head is saved if its estimator is a linear layer, a classifier of scikit-learn that can be loaded safely, or has
    `to_arrays()` and `head_name`, see `featcache.heads.io.ArrayHead`.

    Parameters
    ----------
    name : str
        What a user types: `fit_head(head=name)`.
    fit : callable, optional
        fit(name, data, options) -> Fitted trains the head in its own way.
    tune : callable, optional
        tune(data, stop) -> TunedHead chooses the settings by cross-validation. None instead of a TunedHead: there was
        no time, or there are too few images.
    estimator : str or estimator, optional
        A scikit-learn classifier: the dotted path of its class, or an unfitted object.
    defaults : mapping
        Parameters of that class which differ from its own defaults.
    multilabel_estimator : str
        The class that is fitted to images with several labels, all labels together. `tune` then handles them as well.
        Without it, one `estimator` is fitted to each label.
    load : callable, optional
        load(arrays) -> estimator is the reverse of `to_arrays()` of the class of the head. It must raise ValueError for
        arrays that contradict each other.
    options : tuple of str
        Of the options "cv", "budget_s", "scaling", "calibrate": those that `fit` uses. Others are rejected.
    multilabel : bool
        Whether it can be fitted to images with several labels.
    cluster : bool
        Whether `tune` can share the training rows between the machines of a Ray cluster.
    device : bool
        Whether it computes on a GPU if there is one.
    linear : bool
        Whether it is a linear layer once it is fitted with default parameters to images with one label.
    epochs : bool
        Whether `fit` trains on one view an epoch. Others train on all views at once.
    selects_on_val : bool
        Whether `fit` keeps the epoch with the best val accuracy, so that this accuracy is optimistic.
    feature_maps : bool
        Whether `fit` needs features of a grid, such as those of the layer blocks.6:grid7.
    clean_views : bool
        Whether `tune` uses the clean views only.
    layer : {"penultimate", "auto", "all"}
        The layers that it is given if the user names none: the penultimate one; those that cross-validation chooses;
        or all.
    auto_rank : int, optional
        `auto` tries heads in ascending order, fast ones first. None: `auto` does not try it.
    estimate_s : callable, optional
        estimate_s(data) -> float is the time that `tune` will take, in seconds. `auto` does not try a head that would
        not end within its budget. None: the head always fits in.
    argument : str
        What must follow the name and a colon, such as "CLASS,...".
    """

    name: str
    fit: Callable[[str, TrainingData, FitOptions], Fitted] | None = None
    tune: Callable[[TuningData, Stop], TunedHead | None] | None = None
    estimator: str | BaseEstimator | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    multilabel_estimator: str = ""
    load: Callable[[Mapping[str, NDArray[Any]]], BaseEstimator] | None = None
    options: tuple[str, ...] = ()
    multilabel: bool = True
    cluster: bool = False
    device: bool = False
    linear: bool = False
    epochs: bool = False
    selects_on_val: bool = False
    feature_maps: bool = False
    clean_views: bool = False
    layer: str = "penultimate"
    auto_rank: int | None = None
    estimate_s: Callable[[TuningData], float] | None = None
    argument: str = ""

    @property
    def tries_heads(self) -> bool:
        """Whether `fit` compares tuned heads, as `auto` does."""
        return self.layer == "auto" and self.tune is None


HEADS: Registry[HeadSpec] = Registry("head", "featcache.heads.kinds", "featcache.heads", HeadError)


def register(spec: HeadSpec) -> HeadSpec:
    """Add a kind of head to `HEADS`; each module of `kinds` calls it once."""
    return HEADS.register(spec.name, spec)


def find_head(head: str | BaseEstimator) -> HeadSpec:
    """The kind of a head.

    Parameters
    ----------
    head : str or estimator
        A name of `HEADS`, which may be followed by a colon and an argument; the dotted path of a scikit-learn
        classifier; or an unfitted classifier.

    Raises
    ------
    HeadError
        No head has the name.
    """
    if not isinstance(head, str):
        return HeadSpec(type(head).__name__, estimator=head)
    name, colon, _ = head.partition(":")
    if name in HEADS:
        spec = _get(name)
        if bool(colon) != bool(spec.argument):
            written = f"{name}:{spec.argument}" if spec.argument else name
            raise HeadError(f"{head} is incomplete or too long: write {written}")
        return replace(spec, name=head) if colon else spec
    if "." not in head:
        raise unknown_head(head)
    return HeadSpec(head, estimator=head)


def _get(name: str) -> HeadSpec:
    spec = HEADS.get(name)
    if not isinstance(spec, HeadSpec):
        raise HeadError(f"the head {name!r} of another package is a {type(spec).__name__}; it must be a HeadSpec")
    return spec


def head_names() -> list[str]:
    """All names, sorted; no head of another package is imported."""
    return HEADS.names()


def unknown_head(head: str) -> HeadError:
    """The error of a name that no head has."""
    return HeadError(
        f"there is no head {head!r}. Use {', '.join(head_names())}, or the dotted path of a scikit-learn classifier, "
        "such as sklearn.naive_bayes.GaussianNB."
    )


def heads_with(flag: str) -> list[str]:
    """Names of the heads for which this field of `HeadSpec` is set."""
    values = {name: getattr(_get(name), flag) for name in head_names()}
    return [name for name, value in values.items() if value is not None and value is not False and value != ""]


def auto_heads() -> list[HeadSpec]:
    """The heads that `auto` tries, in this order."""
    specs = [_get(name) for name in heads_with("auto_rank")]
    return sorted(specs, key=lambda spec: (spec.auto_rank, spec.name))


def fit_a_linear_head() -> str:
    """What to do if another head does not work, for messages."""
    *others, last = heads_with("linear")
    return f"Fit {', '.join(others)} or {last} (with --scaling standard, too)."
