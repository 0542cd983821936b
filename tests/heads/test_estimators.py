"""Classifiers by name: a loaded one predicts like the saved one; files that could execute code are rejected."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from numpy.typing import NDArray
from sklearn.ensemble import BaggingClassifier, GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

from featcache.cache.features import TrainingMatrix
from featcache.cache.lazy_arrays import LazyRows
from featcache.errors import HeadError
from featcache.heads import predict
from featcache.heads.estimators import fit_estimator
from featcache.heads.io import load_head, save_head
from featcache.heads.linear import LinearHead
from featcache.heads.predict import classify
from featcache.heads.registry import heads_with
from foreign import Foreign, Payload
from tuned import make_head

CENTRES = np.array([[4.0, 0, 0], [0, 4, 0], [0, 0, 4]])
ALL_NAMES = (
    "attention, auto, centroid, forest, head2toe, imagenet, knn, layer-attention, lda, linear, logreg, ridge, sgd, svm"
)


def flat(views: int = 1, n: int = 30, noise: float = 0.5) -> TrainingMatrix:
    """Three clouds far apart; the views of an image are identical."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    x = (CENTRES[y] + noise * rng.normal(size=(n, 3))).astype(np.float16)
    return TrainingMatrix(
        np.repeat(x, views, axis=0),
        np.repeat(y, views),
        np.repeat(np.arange(n), views),
        np.full(n * views, 1.0 / views),
    )


def saved(estimator: Any, folder: Path) -> Path:
    name, data = save_head(estimator)
    (folder / name).write_bytes(data)
    return folder / name


def roundtrip(estimator: Any, folder: Path) -> Any:
    return load_head(saved(estimator, folder))


@pytest.mark.parametrize(
    "name", [*heads_with("estimator"), "sklearn.naive_bayes.GaussianNB", "sklearn.neural_network.MLPClassifier"]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_head_learns_clouds_and_predicts_the_same_after_loading(name: str, tmp_path: Path) -> None:
    features = flat(views=2)
    estimator = make_head(name, {"n_jobs": 1} if name == "forest" else {})
    fit_estimator(estimator, features)
    assert classify(estimator, features.x, 3)[0].tolist() == features.y.tolist()
    assert classify(estimator, CENTRES, 3)[0].tolist() == [0, 1, 2]
    loaded = roundtrip(estimator, tmp_path)
    assert type(loaded) is (LinearHead if name in ("logreg", "lda") else type(estimator))  # what is linear is folded
    x = np.random.default_rng(1).normal(1, 2, (50, 3)).astype(np.float32)
    np.testing.assert_array_equal(classify(loaded, x, 3)[0], classify(estimator, x, 3)[0])
    expected, actual = classify(estimator, x, 3)[1], classify(loaded, x, 3)[1]
    if expected is None:
        assert actual is None
    else:
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(expected.sum(1), 1, atol=1e-5)


def test_a_linear_head_of_two_classes_predicts_the_same_after_loading(tmp_path: Path) -> None:
    features = flat()
    mask = features.y < 2
    head = LinearHead().fit(features.x[mask], features.y[mask])
    loaded = roundtrip(head, tmp_path)
    x = np.random.default_rng(1).normal(size=(9, 3))
    np.testing.assert_array_equal(classify(loaded, x, 2)[1], classify(head, x, 2)[1])


def test_parameters_override_the_defaults() -> None:
    knn = make_head("knn", {"n_neighbors": 3, "metric": "euclidean"})
    assert (knn.n_neighbors, knn.metric, knn.algorithm) == (3, "euclidean", "brute")
    assert make_head("linear", {"C": 0.5}).C == 0.5
    assert make_head("knn").metric == "cosine"


@pytest.mark.parametrize(
    "name",
    ["perceptrons", "sgd", "", "sklearn.linear_model.Nothing", "nothing.at.all", "..above.Classifier"],
)
def test_an_unknown_head_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(HeadError) as caught:
        make_head(name)
    assert str(caught.value) == (
        f"there is no head {name!r}. Use {ALL_NAMES}, or the dotted path of a scikit-learn "
        "classifier, such as sklearn.naive_bayes.GaussianNB."
    )


@pytest.mark.parametrize("name", ["os.path", "os.system", "json.JSONDecoder", "sklearn.linear_model.LinearRegression"])
def test_what_is_no_classifier_is_refused(name: str) -> None:
    with pytest.raises(HeadError, match=f"^{name} is not a scikit-learn classifier$"):
        make_head(name)


@pytest.mark.parametrize("name", ["sklearn.ensemble.VotingClassifier", "sklearn.multiclass.OneVsRestClassifier"])
def test_a_classifier_that_needs_arguments_is_refused_without_them(name: str) -> None:
    with pytest.raises(HeadError, match=name):
        make_head(name)


def test_an_unknown_parameter_is_refused_with_the_known_ones() -> None:
    with pytest.raises(HeadError) as caught:
        make_head("linear", {"c": 1})
    assert str(caught.value) == "linear has no parameter 'c'; it has C, class_weight, device, max_iter, tol"


def test_what_the_classifier_says_of_bad_data_or_parameters_is_passed_on() -> None:
    features = flat()
    features.x[3, 1] = np.nan
    with pytest.raises(HeadError) as caught:
        fit_estimator(make_head("linear"), features)
    assert str(caught.value).startswith("LinearHead could not be fitted: Input X contains NaN.")
    with pytest.raises(
        HeadError, match=r"^LinearHead could not be fitted: C must be greater than 0 and finite; got -1$"
    ):
        fit_estimator(make_head("linear", {"C": -1}), flat())
    with pytest.raises(HeadError, match=r"^SVC could not be fitted: The 'kernel' parameter of SVC must be"):
        fit_estimator(make_head("svm", {"kernel": "warp"}), flat())


@pytest.mark.parametrize("views", [2, 5])
def test_identical_views_of_an_image_count_as_one(views: int) -> None:
    once, often = LinearHead(tol=1e-10), LinearHead(tol=1e-10)
    fit_estimator(once, flat(noise=2.0))
    fit_estimator(often, flat(views, noise=2.0))
    np.testing.assert_allclose(often.coef_, once.coef_, atol=1e-4)
    np.testing.assert_allclose(often.intercept_, once.intercept_, atol=1e-4)
    single, multiple = LogisticRegression(), LogisticRegression()
    fit_estimator(single, flat(noise=2.0))
    fit_estimator(multiple, flat(views, noise=2.0))
    np.testing.assert_allclose(multiple.coef_, single.coef_, atol=1e-3)


def test_a_class_without_training_data_has_probability_0() -> None:
    features = flat()
    mask = features.y != 1
    head = GaussianNB().fit(features.x[mask], features.y[mask])
    predictions = classify(head, CENTRES, 4)[1]
    assert predictions is not None
    np.testing.assert_allclose(predictions[:, [0, 2]], head.predict_proba(CENTRES.astype(np.float32)), rtol=1e-6)
    assert predictions[:, [1, 3]].tolist() == [[0, 0]] * 3


def test_a_foreign_classifier_is_neither_saved_nor_loaded(tmp_path: Path) -> None:
    mark, file = tmp_path / "mark", tmp_path / "head.skops"
    estimator = Foreign(str(mark)).fit(CENTRES, [0, 1, 2])
    with pytest.raises(HeadError) as caught:
        save_head(estimator)
    assert str(caught.value) == (
        "Foreign cannot be saved so that loading executes no code: it holds foreign.Foreign. "
        "Use fit_head() from Python without `out`, or another head."
    )
    assert not file.exists()
    skops.io.dump(estimator, file)
    with pytest.raises(HeadError) as caught:
        load_head(file)
    assert str(caught.value).startswith(f"{file} is not a head that can be loaded safely: ")
    assert "foreign.Foreign" in str(caught.value)
    assert not mark.exists()
    skops.io.load(file, trusted=["foreign.Foreign"])
    assert mark.exists()  # the trap works


@pytest.mark.parametrize("name", ["head.skops", "head.safetensors"])
def test_a_pickle_in_disguise_is_refused_and_not_run(name: str, tmp_path: Path) -> None:
    mark, file = tmp_path / "mark", tmp_path / name
    file.write_bytes(pickle.dumps(Payload(str(mark))))
    with pytest.raises(HeadError) as caught:
        load_head(file)
    assert str(caught.value).startswith(f"{file} is not a head that can be loaded safely: ")
    assert not mark.exists()
    pickle.loads(file.read_bytes())
    assert mark.exists()  # the trap works


@pytest.mark.parametrize("damage", ["absent", "empty", "half"])
@pytest.mark.parametrize("head", ["linear", "centroid"])
def test_a_damaged_head_is_refused(head: str, damage: str, tmp_path: Path) -> None:
    estimator = make_head(head)
    fit_estimator(estimator, flat())
    file = saved(estimator, tmp_path)
    if damage == "absent":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: 0 if damage == "empty" else file.stat().st_size // 2])
    with pytest.raises(HeadError, match="is not a head that can be loaded safely"):
        load_head(file)


def tamper(tree: DecisionTreeClassifier, field: str, value: int) -> None:
    state = tree.tree_.__getstate__()
    state["nodes"] = state["nodes"].copy()
    state["nodes"][field][0] = value
    tree.tree_.__setstate__(state)


def first_tree(estimator: Any) -> Any:
    if hasattr(estimator, "tree_"):
        return estimator
    inside = estimator.steps[0][1] if hasattr(estimator, "steps") else np.ravel(estimator.estimators_)[0]
    return first_tree(inside)


TREES = [
    DecisionTreeClassifier(),
    RandomForestClassifier(3, random_state=0),
]
COMPOSED = [
    GradientBoostingClassifier(n_estimators=2),
    BaggingClassifier(RandomForestClassifier(2, random_state=0), 2, random_state=0),
    make_pipeline(DecisionTreeClassifier()),
]


@pytest.mark.parametrize("composed", COMPOSED, ids=lambda composed: type(composed).__name__)
def test_trees_inside_of_other_estimators_cannot_be_checked_and_are_refused(composed: Any, tmp_path: Path) -> None:
    features = flat()
    composed.fit(features.x.astype(np.float32), features.y)
    with pytest.raises(
        HeadError,
        match=r"(trees inside of a|cannot be saved so that loading executes no code|whose values cannot be checked)",
    ):
        save_head(composed)
    (tmp_path / "head.skops").write_bytes(skops.io.dumps(composed))
    with pytest.raises(
        HeadError,
        match=rf"(decision trees inside of a {type(composed).__name__}|[Uu]ntrusted|whose values cannot be checked)",
    ):
        load_head(tmp_path / "head.skops")


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: type(tree).__name__)
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("left_child", 10**6, "a decision tree in it has nodes out of range"),
        ("right_child", -7, "a decision tree in it has nodes out of range"),
        ("left_child", 0, "a decision tree in it has nodes out of range"),
        ("feature", 3, "a decision tree in it uses features out of range"),
        ("feature", -1, "a decision tree in it uses features out of range"),
    ],
)
def test_a_tree_that_would_read_foreign_memory_is_refused(
    tree: Any, field: str, value: int, message: str, tmp_path: Path
) -> None:
    features = flat()
    tree.fit(features.x.astype(np.float32), features.y)
    file = saved(tree, tmp_path)
    np.testing.assert_array_equal(classify(load_head(file), features.x, 3)[0], classify(tree, features.x, 3)[0])
    tamper(first_tree(tree), field, value)
    file.write_bytes(skops.io.dumps(tree))
    with pytest.raises(HeadError) as caught:
        load_head(file)
    assert str(caught.value) == f"{file} is not a head that can be loaded safely: {message}"


def test_a_forest_whose_tree_takes_more_features_than_it_is_refused(tmp_path: Path) -> None:
    features: TrainingMatrix = flat()
    forest = RandomForestClassifier(2, random_state=0).fit(features.x.astype(np.float32), features.y)
    tamper(forest.estimators_[0], "feature", 10**6)
    forest.estimators_[0].n_features_in_ = 10**7
    (tmp_path / "head.skops").write_bytes(skops.io.dumps(forest))
    with pytest.raises(HeadError, match="a decision tree in it uses features out of range"):
        load_head(tmp_path / "head.skops")


def test_predictions_are_int64_whatever_the_features_are_stored_in() -> None:
    x: NDArray[np.float16] = flat().x
    head = LinearHead().fit(x, flat().y)
    assert classify(head, x, 3)[0].dtype == np.int64
    np.testing.assert_array_equal(classify(head, x, 3)[0], classify(head, x.astype(np.float64), 3)[0])


@pytest.mark.parametrize("name", ["linear", "knn", "centroid"])
def test_predictions_do_not_depend_on_the_block(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features = flat()
    estimator = make_head(name)
    fit_estimator(estimator, features)
    whole, probabilities = classify(estimator, features.x, 3)[0], classify(estimator, np.asarray(features.x), 3)[1]
    monkeypatch.setattr(predict, "_BLOCK", 7)
    np.testing.assert_array_equal(classify(estimator, features.x, 3)[0], whole)
    np.testing.assert_array_equal(
        classify(estimator, LazyRows(np.asarray(features.x), np.arange(3, 20)), 3)[0], whole[3:20]
    )
    if probabilities is not None:
        np.testing.assert_allclose(classify(estimator, np.asarray(features.x), 3)[1], probabilities, rtol=1e-6)
