"""Hostile head files: values with which compiled code would read outside of its arrays are rejected."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import skops.io
from safetensors.numpy import save_file
from sklearn.base import BaseEstimator
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, RadiusNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, NuSVC

from featcache.errors import HeadError
from featcache.heads.binary_relevance import BinaryRelevance
from featcache.heads.estimators import is_multilabel
from featcache.heads.file_checks import is_checkable
from featcache.heads.io import load_head, save_head
from featcache.heads.linear import LinearHead
from featcache.heads.predict import classify

Y = np.arange(60) % 3
X = np.random.default_rng(0).normal(size=(60, 4)) + 3 * np.eye(3, 4)[Y]


def written(estimator: BaseEstimator, folder: Path) -> Path:
    (folder / "head.skops").write_bytes(skops.io.dumps(estimator))
    return folder / "head.skops"


def refused(estimator: BaseEstimator, folder: Path) -> str:
    file = written(estimator, folder)
    with pytest.raises(HeadError) as caught:
        load_head(file)
    return str(caught.value).removeprefix(f"{file} is not a head that can be loaded safely: ")


@pytest.mark.parametrize("svc", [SVC(), SVC(kernel="poly"), NuSVC(nu=0.1)], ids=["rbf", "poly", "nu"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("pipeline", [False, True])
def test_support_vector_machines_are_loaded(svc: Any, classes: int, pipeline: bool, tmp_path: Path) -> None:
    estimator = make_pipeline(StandardScaler(), svc) if pipeline else svc
    estimator.fit(X[classes > Y], Y[classes > Y])
    name, data = save_head(estimator)
    (tmp_path / name).write_bytes(data)
    np.testing.assert_array_equal(load_head(tmp_path / name).predict(X), estimator.predict(X))


SVC_TRICKS: dict[str, Callable[[Any], Any]] = {
    "_n_support": lambda svc: np.array([10**6, 0, len(svc.support_) - 10**6], np.int32),
    "_n_support ": lambda svc: np.array([*svc._n_support, 0], np.int32),
    "support_vectors_": lambda svc: svc.support_vectors_[:2],
    "support_vectors_ ": lambda svc: np.ascontiguousarray(svc.support_vectors_[:, :1]),
    "_dual_coef_": lambda svc: np.ascontiguousarray(svc._dual_coef_[:1]),
    "_dual_coef_ ": lambda svc: np.ascontiguousarray(svc._dual_coef_[:, :1]),
    "_intercept_": lambda svc: svc._intercept_[:1],
    "support_": lambda svc: svc.support_[:1],
    "_probA": lambda svc: np.zeros(1),
    "classes_": lambda svc: np.arange(9),
    "kernel": lambda svc: "precomputed",
    "_sparse": lambda svc: True,
    "_impl": lambda svc: "epsilon_svr",
}


@pytest.mark.parametrize("pipeline", [False, True])
@pytest.mark.parametrize("trick", SVC_TRICKS)
def test_support_vectors_that_do_not_fit_are_refused(trick: str, pipeline: bool, tmp_path: Path) -> None:
    svc = SVC().fit(X, Y)
    setattr(svc, trick.strip(), SVC_TRICKS[trick](svc))
    message = refused(make_pipeline(StandardScaler().fit(X), svc) if pipeline else svc, tmp_path)
    assert message == "its support vectors do not fit each other"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_y", np.where(Y == 2, 10**9, Y)),
        ("_y", np.where(Y == 2, -1, Y)),
        ("_y", Y[:5]),
        ("_fit_X", X[:, :2]),
        ("n_features_in_", 7),
    ],
)
def test_neighbours_that_do_not_fit_are_refused(name: str, value: Any, tmp_path: Path) -> None:
    neighbours = KNeighborsClassifier(algorithm="brute").fit(X, Y)
    np.testing.assert_array_equal(load_head(written(neighbours, tmp_path)).predict(X), neighbours.predict(X))
    setattr(neighbours, name, value)
    assert refused(neighbours, tmp_path) == "its neighbors do not fit each other"


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
@pytest.mark.parametrize("kind", ["matrix", "array"])
def test_sparse_matrices_whose_indices_nobody_checks_are_refused(form: str, kind: str, tmp_path: Path) -> None:
    model = RidgeClassifier().fit(X, Y)
    model.more = [{"deep": (getattr(scipy.sparse, f"{form}_{kind}")(X),)}]
    with pytest.raises(HeadError, match=r"^RidgeClassifier cannot be saved"):
        save_head(model)
    assert refused(model, tmp_path).startswith("Untrusted types found in the file: ['scipy.sparse.")


def test_what_is_no_classifier_is_refused(tmp_path: Path) -> None:
    assert refused([1, 2], tmp_path) == "it is not a classifier"
    assert refused(StandardScaler().fit(X), tmp_path) == "it is not a classifier"


def test_an_archive_that_unpacks_to_gigabytes_is_refused_at_once(tmp_path: Path) -> None:
    bomb = skops.io.dumps(RidgeClassifier().fit(X, Y))
    file = tmp_path / "head.skops"
    file.write_bytes(bomb)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("more.npy", bytes(10**8))
    assert file.stat().st_size < 10**6
    with pytest.raises(HeadError, match=r"it would unpack to 100,\d+,\d+ bytes$"):
        load_head(file)


@pytest.mark.parametrize(
    ("classes", "coef", "message"),
    [
        ([0.2, 1.7, 2.0], 0.0, "its classes must be distinct non-negative integers"),
        ([0, 1, 1], 0.0, "its classes must be distinct non-negative integers"),
        ([0, 1, 2], np.nan, "its weights are not finite"),
    ],
)
def test_a_linear_head_that_means_nothing_is_refused(
    classes: list[float], coef: float, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "head.safetensors"
    save_file({"coef": np.full((3, 4), coef), "intercept": np.zeros(3), "classes": np.array(classes)}, file)
    with pytest.raises(HeadError, match=f": {message}$"):
        load_head(file)


@pytest.mark.parametrize("classes", [np.array([0.5, 1, 2]), np.array([-1, 0, 1]), np.array([[0], [1]]), "abc"])
def test_classes_must_be_numbers(classes: Any, tmp_path: Path) -> None:
    model = GaussianNB().fit(X, Y)
    model.classes_ = classes
    assert refused(model, tmp_path) == "its classes must be distinct non-negative integers"


def test_what_goes_wrong_inside_of_a_loaded_head_is_a_head_error(tmp_path: Path) -> None:
    model = RidgeClassifier().fit(X, Y)
    model.coef_ = model.coef_[:, :2]
    with pytest.raises(HeadError, match=r"^RidgeClassifier could not predict: "):
        classify(load_head(written(model, tmp_path)), X, 3)[0]


def test_a_kernel_of_one_s_own_is_refused_before_it_is_saved() -> None:
    with pytest.raises(HeadError, match=r"^SVC could not be loaded again: its support vectors do not fit"):
        save_head(SVC(kernel="precomputed").fit(X @ X.T, Y))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3,), (3,), (3,)), "its weights do not fit each other"),
        (((3, 4), (2,), (3,)), "its weights do not fit each other"),
        (((3, 4), (3,), (2,)), "its classes do not fit its weights"),
        (((1, 4), (1,), (1,)), "its classes do not fit its weights"),
    ],
)
def test_weights_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...], message: str, tmp_path: Path) -> None:
    file = tmp_path / "head.safetensors"
    save_file(
        {name: np.zeros(shape) for name, shape in zip(("coef", "intercept", "classes"), shapes, strict=True)}, file
    )
    with pytest.raises(HeadError, match=f"is not a head that can be loaded safely: {message}$"):
        load_head(file)


@pytest.mark.parametrize("estimator", [RadiusNeighborsClassifier(9.0), GaussianProcessClassifier(), SVR()], ids=repr)
def test_what_nothing_checks_is_neither_saved_nor_loaded(estimator: Any, tmp_path: Path) -> None:
    """Compiled code would use the numbers in such a file as memory addresses."""
    x = np.random.default_rng(0).normal(size=(20, 3))
    estimator.fit(x, np.arange(20) % 2)
    estimator.classes_ = np.array([0, 1])  # as a forged file would say
    with pytest.raises(HeadError):
        save_head(estimator)
    path = tmp_path / "head.skops"
    skops.io.dump(estimator, path)
    with pytest.raises(HeadError, match=r"whose values cannot be checked|[Uu]ntrusted"):
        load_head(path)


def test_a_linear_head_inside_of_a_pipeline_is_checked(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    pipe = make_pipeline(StandardScaler(), LinearHead()).fit(x, y)
    np.testing.assert_array_equal(load_head(written(pipe, tmp_path)).predict_proba(x), pipe.predict_proba(x))
    pipe[-1].coef_ = np.full((1, 3), np.nan)
    assert refused(pipe, tmp_path) == "its weights are not finite"


LINEAR = {
    "linear": LinearHead(),
    "logreg": LogisticRegression(),
    "lda": LinearDiscriminantAnalysis(),
    "scaled linear": make_pipeline(StandardScaler(), LinearHead()),
    "scaled logreg": make_pipeline(StandardScaler(), LogisticRegression()),
}


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_classifier_that_is_a_linear_layer_is_saved_as_one(name: str, classes: int, tmp_path: Path) -> None:
    estimator = LINEAR[name].fit(X[classes > Y], 2 * Y[classes > Y])
    file, content = save_head(estimator)
    assert file == "head.safetensors"
    (tmp_path / file).write_bytes(content)
    again = load_head(tmp_path / file)
    assert isinstance(again, LinearHead)
    for result, expected in zip(classify(again, X, 5), classify(estimator, X, 5), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-7)  # of float32, some of them computed in it


def test_labels_with_a_linear_layer_each_are_saved_as_one(tmp_path: Path) -> None:
    labels = np.column_stack([Y == 0, Y > 0, np.ones(60)]).astype(np.int64)
    estimator = make_pipeline(StandardScaler(), BinaryRelevance(LogisticRegression())).fit(X, labels)
    file, content = save_head(estimator)
    assert file == "head.safetensors"
    (tmp_path / file).write_bytes(content)
    again = load_head(tmp_path / file)
    assert is_multilabel(again)
    np.testing.assert_allclose(again.predict_proba(X), estimator.predict_proba(X), rtol=1e-9)


@pytest.mark.parametrize("estimator", [RidgeClassifier(), GaussianNB()], ids=str)
def test_others_are_saved_as_they_are(estimator: Any) -> None:
    assert save_head(estimator.fit(X, Y))[0] == "head.skops"


def test_labels_at_the_end_of_a_pipeline_in_a_pipeline_are_several(tmp_path: Path) -> None:
    labels = np.column_stack([Y == 0, Y > 0])
    inner = make_pipeline(StandardScaler(), BinaryRelevance(GaussianNB()))
    estimator = make_pipeline(StandardScaler(), inner).fit(X, labels)
    file, content = save_head(estimator)
    (tmp_path / file).write_bytes(content)
    again = load_head(tmp_path / file)
    assert is_multilabel(again)
    assert not is_multilabel(make_pipeline(StandardScaler(), make_pipeline(StandardScaler(), GaussianNB())))
    expected = (estimator.predict_proba(X) > 0.5).astype(int)
    np.testing.assert_array_equal(classify(again, X, 2, multilabel=True)[0], expected)


@pytest.mark.parametrize("damage", ["coef_", "intercept_", "classes_", "scale_", "nan"])
def test_a_linear_layer_whose_arrays_contradict_each_other_is_refused(damage: str, tmp_path: Path) -> None:
    """No version of featcache writes such a file: linear layers are saved as arrays."""
    whole = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    scaler, last = (step for _, step in whole.steps)
    assert is_loaded(whole, tmp_path)
    if damage == "nan":
        last.coef_ = np.full_like(last.coef_, np.nan)
    elif damage == "scale_":
        scaler.scale_ = np.ones(X.shape[1] + 1)
    elif damage == "coef_":
        last.coef_ = last.coef_[0]
    else:
        setattr(last, damage, np.arange(7))
    assert not is_loaded(whole, tmp_path)


def is_loaded(estimator: Any, folder: Path) -> bool:
    """Whether a skops file with it is loaded."""
    (folder / "head.skops").write_bytes(skops.io.dumps(estimator))
    try:
        load_head(folder / "head.skops")
    except HeadError as error:
        assert "is not a head that can be loaded safely: " in str(error)  # noqa: PT017
        return False
    return True


def test_steps_that_are_none_are_no_pipeline() -> None:
    """A file may have any value in the attribute `steps`."""
    odd = LogisticRegression().fit(np.eye(2), [0, 1])
    odd.steps = 5
    assert not is_multilabel(odd)
    assert classify(odd, np.eye(2), 2)[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_pipeline(StandardScaler(), SVC()),
        lambda: KNeighborsClassifier(3, algorithm="brute"),
        lambda: RandomForestClassifier(5, random_state=0),
        lambda: MLPClassifier((8,), max_iter=5, random_state=0),
    ],
    ids=["svm", "neighbours", "forest", "perceptron"],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_equal_heads_are_equal_files(make: Callable[[], Any], tmp_path: Path) -> None:
    first = save_head(make().fit(X, Y))
    keep_memory_busy = [np.zeros(1000) for _ in range(100)]  # other addresses
    second = make().fit(X, Y)
    assert save_head(second) == first
    assert len(keep_memory_busy) == 100
    (tmp_path / first[0]).write_bytes(first[1])
    np.testing.assert_array_equal(load_head(tmp_path / first[0]).predict(X), second.predict(X))


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("featcache.heads.linear", True),
        ("featcache.heads.linear_layer", False),
        ("featcache.heads.linear.more", True),
        ("sklearn.linear_model._logistic", True),
        ("sklearn.linear_models", False),
    ],
)
def test_a_module_is_allowed_by_its_whole_name(module: str, allowed: bool) -> None:
    """The start of a name is not enough: featcache.heads.linear does not allow featcache.heads.linear_layer."""
    assert is_checkable(type("Odd", (BaseEstimator,), {"__module__": module})) == allowed
