"""Tuned heads: right on separable classes, at chance level on random labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import balanced_accuracy_score, log_loss

from featcache.cache import lazy_arrays
from featcache.cache.features import Features
from featcache.cache.lazy_arrays import CenteredMatrix, LazyRows
from featcache.core.samples import Samples
from featcache.core.splitting import NEVER, assign_folds
from featcache.errors import HeadError
from featcache.heads.linear import LinearHead
from featcache.heads.solvers import closed_form
from featcache.heads.solvers.closed_form import RegularizedCovariances, lda, nearest_centroid, ridge
from featcache.heads.solvers.path import Layer, OutOfTimeError, PathWeights
from featcache.heads.solvers.softmax import solve_path
from featcache.heads.tuning import tuning_data
from featcache.heads.tuning.path_selection import CVSelection, HeldOut, select_on_path, two_sided
from featcache.heads.tuning.strength_search import PENALTIES
from featcache.heads.tuning.tuning_data import TunedHead, TuningData
from featcache.metrics.calibration import fit_temperature, mean_log_loss
from tuned import TUNED, try_to_tune, tune

LINEAR = ["centroid", "ridge", "lda", "linear"]
NAMES = ("ants", "bees", "cats", "dogs", "eels")


def features(x: NDArray[Any] | LazyRows, labels: Sequence[int] | NDArray[np.int64], contents: Any = None) -> Features:
    """Images of x (n, v, d); those with equal `contents` have equal bytes."""
    n = len(labels)
    sha256 = np.random.default_rng(5).integers(0, 256, (n, 32), dtype=np.uint8)
    ids = tuple(f"{row}.png" for row in range(n))
    contents = np.arange(n) if contents is None else contents
    return Features(x, Samples(ids, np.asarray(labels, np.int64), np.zeros(n, np.uint8), sha256[contents], NAMES))


def clouds(classes: int, n: int = 60, d: int = 12, views: int = 1, apart: float = 6.0, seed: int = 0) -> Features:
    """Clouds around means `apart` from each other, off centre; views of an image differ as images of a class do."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    means = apart * np.linalg.qr(rng.normal(size=(d, d)))[0][:classes]
    return features((3 + means[labels][:, None] + rng.normal(size=(n, 1 + views, d))).astype(np.float32), labels)


def accuracy(tuned: TunedHead, tuning: TuningData) -> float:
    """On the held-out images."""
    return float((tuned.probabilities.argmax(axis=1) == tuning.held_out.labels[tuning.held_out.rows]).mean())


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("name", TUNED)
def test_every_head_is_right_on_clouds_far_apart(name: str, classes: int) -> None:
    train = clouds(classes, apart=12.0)
    tuning = TuningData(train)
    tuned = tune(name, tuning)
    assert accuracy(tuned, tuning) == 1
    assert tuned.probabilities.shape == (60, classes)
    np.testing.assert_allclose(tuned.probabilities.sum(axis=1), 1, atol=1e-9)
    assert tuned.estimator.classes_.tolist() == list(range(classes))
    np.testing.assert_array_equal(tuned.estimator.predict(train.clean()), train.y)
    means = np.stack([train.x[train.y == label].mean(axis=(0, 1)) for label in range(classes)])
    np.testing.assert_array_equal(tuned.estimator.predict(means), range(classes))


@pytest.mark.parametrize("factor", [1e-3, 1.0, 8000.0])
@pytest.mark.parametrize("name", TUNED)
def test_the_unit_of_the_features_changes_no_choice(name: str, factor: float) -> None:
    train = clouds(3, apart=2.0)
    plain, scaled = TuningData(train), TuningData(Features(train.x * np.float32(factor), train.samples))
    first, other = tune(name, plain), tune(name, scaled)
    np.testing.assert_allclose(other.probabilities, first.probabilities, atol=0.01)
    assert other.setting.partition("C=")[0] == first.setting.partition("C=")[0]  # C is in units of the features


@pytest.mark.parametrize("name", TUNED)
def test_the_order_of_images_changes_nothing(name: str) -> None:
    train, shuffled = clouds(3, apart=2.0), np.random.default_rng(1).permutation(60)
    first = tune(name, TuningData(train))
    other = tune(name, TuningData(Features(train.x[shuffled], train.samples.take(shuffled))))
    assert other.setting == first.setting
    np.testing.assert_allclose(other.probabilities, first.probabilities[shuffled], atol=0.02)


@pytest.mark.parametrize("name", TUNED)
def test_classes_without_training_images_are_no_part_of_a_head(name: str) -> None:
    train = clouds(3, apart=12.0)
    tuning = TuningData(features(train.x, np.array([0, 2, 4])[train.y]))
    tuned = tune(name, tuning)
    assert tuned.estimator.classes_.tolist() == tuning.classes.tolist() == [0, 2, 4]
    assert tuned.probabilities.shape == (60, 3)
    np.testing.assert_array_equal(tuned.estimator.predict(train.clean()), np.array([0, 2, 4])[train.y])


@pytest.mark.parametrize("name", TUNED)
def test_features_read_from_a_file_give_the_same(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    train = clouds(3, apart=2.0)
    x = train.x.astype(np.float16)
    first = tune(name, TuningData(Features(x, train.samples)))
    monkeypatch.setattr(lazy_arrays, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(lazy_arrays, "MAX_CACHED_BYTES", 0)
    other = tune(name, TuningData(Features(LazyRows(np.repeat(x, 2, axis=0), 2 * np.arange(60)), train.samples)))
    assert other.setting == first.setting
    np.testing.assert_allclose(other.probabilities, first.probabilities, atol=2e-3)


# What is left out together


@pytest.mark.parametrize("name", TUNED)
def test_copies_and_views_do_not_give_labels_away(name: str) -> None:
    """Labels by lot; each image lies there twice, with views that hardly differ: nothing can be learnt."""
    rng = np.random.default_rng(1)
    contents = rng.permutation(np.arange(140) // 2)
    x = rng.normal(size=(70, 1, 100))[contents] + 1e-3 * rng.normal(size=(140, 3, 100))
    tuning = TuningData(features(x.astype(np.float32), rng.integers(0, 2, 70)[contents], contents))
    blind = accuracy(tune(name, tuning), tuning)
    assert blind < 0.67
    leaking = TuningData(features(x.astype(np.float32), tuning.held_out.labels))
    assert accuracy(tune(name, leaking), leaking) > blind + 0.2  # were their bytes not equal


def test_all_rows_of_an_image_and_its_copies_are_left_out_together() -> None:
    contents = np.random.default_rng(0).integers(0, 25, 60)
    train = clouds(2, views=2)
    tuning = TuningData(features(train.x, contents % 2, contents))
    of_row = np.repeat(contents, 3)
    for content in range(25):
        assert len(set(tuning.problem.fold[of_row == content])) <= 1
    np.testing.assert_array_equal(tuning.problem.fold[::3], tuning.held_out.fold)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 5), st.integers(2, 4), st.integers(2, 30), st.booleans(), st.integers(0, 2**32 - 1))
def test_left_out_logits_are_those_of_the_problem_that_left_the_image_out(
    k: int, classes: int, n: int, centred: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, fold = rng.normal(size=(n, 3)) + 2, rng.integers(-1, k - 1, n)
    fold[0] = 0
    outputs = 1 if classes == 2 else classes
    weights = PathWeights(0.5, rng.normal(size=(k - 1, outputs, 3)), rng.normal(size=(k - 1, outputs)))
    weight = np.ones(n) if centred else rng.uniform(0.1, 2, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy_arrays, "BLOCK_BYTES", 200)
        left_out = HeldOut.from_views(CenteredMatrix(x, weight), rng.integers(0, classes, n), fold, weight)
        result = two_sided(left_out.logits(weights))
    np.testing.assert_array_equal(left_out.rows, np.flatnonzero(fold != NEVER))
    for row, logits in zip(left_out.rows, result, strict=True):
        expected = weights.coef[fold[row]] @ x[row] + weights.intercept[fold[row]]
        expected = np.array([-expected[0] / 2, expected[0] / 2]) if outputs == 1 else expected
        np.testing.assert_allclose(logits, expected, atol=1e-9)


def test_one_logit_of_two_classes_is_two_with_the_same_odds() -> None:
    logits = np.array([[-3.0], [0.0], [1.5]])
    np.testing.assert_allclose(two_sided(logits), [[1.5, -1.5], [0, 0], [-0.75, 0.75]])
    np.testing.assert_allclose(softmax(two_sided(logits), axis=1)[:, 1], 1 / (1 + np.exp([3.0, 0.0, -1.5])))
    three = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(two_sided(three), three)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ["ridge", "linear"])
def test_trials_are_those_of_scikit_learn_fitted_fold_by_fold(name: str, classes: int) -> None:
    """Trained on all views of the other folds, judged on the clean views of this one."""
    train = clouds(classes, n=45, d=5, views=2, apart=2.0)
    train = Features(train.x.astype(np.float64), train.samples)
    tuning = TuningData(train)
    tuned = tune(name, tuning)
    fold = assign_folds(train.y, train.samples.sha256, 5)
    np.testing.assert_array_equal(tuning.held_out.fold, fold)
    if name == "ridge":
        assert {trial.value for trial in tuned.trials} <= set(PENALTIES)
    flat = train.x.reshape(-1, 5)
    spread = ((flat - flat.mean(axis=0)) ** 2).mean()
    temperature = 1.0
    for trial in tuned.trials:
        logits = np.empty((45, max(2, classes)))
        for number in range(5):
            seen, reference = np.flatnonzero(np.repeat(fold, 3) != number), np.flatnonzero(fold == number)
            weight, y = np.full(len(seen), 1 / 3), np.repeat(train.y, 3)[seen]
            if name == "ridge":
                head = RidgeClassifier(trial.value * spread * weight.sum()).fit(flat[seen], y, weight)
            else:
                head = LogisticRegression(C=trial.value, tol=1e-10, solver="newton-cholesky", max_iter=1000)
                head.fit(flat[seen], y, weight)
            scores = head.decision_function(train.x[reference, 0])
            logits[reference] = two_sided(scores[:, None] * (2 if name == "ridge" else 1)) if classes == 2 else scores
        temperature = fit_temperature(logits, train.y, np.ones(45), 1.0)
        expected = mean_log_loss(logits / temperature, train.y, np.ones(45))
        np.testing.assert_allclose(trial.log_loss, expected, rtol=1e-6 if name == "ridge" else 0.05)  # tol
        np.testing.assert_allclose(trial.accuracy, (logits.argmax(axis=1) == train.y).mean(), atol=1 / 45)
    assert len(tuned.trials) > 2


@pytest.mark.parametrize("name", TUNED)
def test_the_best_trial_is_that_of_the_probabilities(name: str) -> None:
    tuning = TuningData(clouds(3, apart=2.0), class_weight={0: 1.0, 1: 3.0, 2: 0.5})
    tuned = tune(name, tuning)
    loss = log_loss(tuning.held_out.labels, tuned.probabilities, sample_weight=tuning.held_out.weight)
    near = [item for item in tuned.trials if abs(item.log_loss - loss) < 1e-9]
    assert len(near) == 1
    if name != "knn":  # which goes by accuracy
        assert near[0] == min(tuned.trials, key=lambda item: item.log_loss)
        np.testing.assert_allclose(near[0].accuracy, accuracy(tuned, tuning))


# Choosing


def noisy(labels: NDArray[np.int64], fold: NDArray[np.int64]) -> HeldOut:
    """Feature 0 tells the classes apart, feature 1 is noise."""
    rng = np.random.default_rng(0)
    x = np.column_stack([np.where(labels == 1, 1.0, -1.0) + 0.8 * rng.normal(size=len(labels)), rng.normal(size=200)])
    return HeldOut.from_views(CenteredMatrix(x, np.ones(200)), labels, fold, np.ones(200))


def member(noise: float, size: float = 1.0) -> PathWeights:
    """Two problems whose logit is feature 0 and some noise."""
    coef = size * np.array([[[1.0, noise]], [[1.0, noise]]])
    return PathWeights(noise, coef, np.zeros((2, 1)))


def chosen(noises: Sequence[float], used: list[float] | None = None, stop_after: int = 99) -> CVSelection:
    labels, fold = np.arange(200) % 2, np.arange(200) // 2 % 2

    def path() -> Iterator[PathWeights]:
        for noise in noises:
            if used is not None:
                used.append(noise)
            yield member(noise)

    answers: list[int] = []

    def stop() -> bool:
        answers.append(1)
        return len(answers) == stop_after

    return select_on_path(path(), noisy(labels, fold), stop)


def test_the_member_with_the_least_log_loss_is_chosen() -> None:
    selection = chosen([8.0, 2.0, 0.0, 1.0])
    assert selection.values[0] == 0
    assert [item.value for item in selection.trials] == [8.0, 2.0, 0.0, 1.0]
    losses = [item.log_loss for item in selection.trials]
    assert losses[0] > losses[1] > losses[3] > losses[2]
    accuracies = [item.accuracy for item in selection.trials]
    assert accuracies[2] == max(accuracies)
    np.testing.assert_array_equal(selection.coef, member(0.0).coef)


def test_a_path_ends_after_two_rises() -> None:
    used: list[float] = []
    selection = chosen([2.0, 0.0, 4.0, 8.0, 0.0, 0.0], used)
    assert (used, selection.values[0], len(selection.trials)) == ([2.0, 0.0, 4.0, 8.0], 0.0, 4)


def test_a_path_goes_on_after_one_rise() -> None:
    used: list[float] = []
    selection = chosen([2.0, 4.0, 0.5, 4.0, 0.0], used)
    assert (used, selection.values[0]) == ([2.0, 4.0, 0.5, 4.0, 0.0], 0.0)


def test_losses_that_are_all_alike_end_no_path() -> None:
    """Where the strongest penalties teach nothing, their losses differ by rounding, and the rest is still tried."""
    labels, fold = np.arange(200) % 2, np.arange(200) // 2 % 2
    offsets = np.array([[1.0], [-1.0]])  # says nothing of the classes
    path = [PathWeights(size, np.zeros((2, 1, 2)), size * offsets) for size in (1.0, 2.0, 4.0, 8.0)]
    selection = select_on_path([*path, member(0.0)], noisy(labels, fold))
    losses = [item.log_loss for item in selection.trials[:4]]
    assert losses == sorted(losses)
    np.testing.assert_allclose(losses, np.log(2), rtol=1e-3)
    assert (selection.values[0], len(selection.trials)) == (0.0, 5)


def test_a_path_that_is_stopped_has_a_choice() -> None:
    used: list[float] = []
    selection = chosen([8.0, 2.0, 1.0, 0.0], used, stop_after=2)
    assert (used, selection.values[0], len(selection.trials)) == ([8.0, 2.0], 2.0, 2)


def test_the_temperature_is_folded_into_the_head() -> None:
    """Logits in any unit give the same head: that of all images, divided by the temperature of the held-out ones."""
    labels, fold = np.arange(200) % 2, np.arange(200) // 2 % 2
    held_out, x = noisy(labels, fold), np.random.default_rng(1).normal(size=(5, 2))
    tuning = TuningData(features(np.zeros((200, 1, 2)), np.where(labels == 1, 4, 2)))
    for size in (0.1, 1.0, 20.0):
        selection = select_on_path([member(0.0, size)], held_out)
        layer = Layer(size * np.array([[1.0, 10.0]]), np.array([size * 0.25]))
        tuned = tuning.tuned_head(selection, layer, "")
        full = size * (x @ [1.0, 10.0] + 0.25)
        assert tuned.estimator.classes_.tolist() == [2, 4]
        assert tuned.temperature == selection.temperature[0]
        np.testing.assert_allclose(tuned.estimator.decision_function(x) * tuned.temperature, full, rtol=1e-9)
        expected = fit_temperature(selection.logits, labels, np.ones(200))
        np.testing.assert_allclose(selection.temperature, expected, rtol=1e-5)
        np.testing.assert_allclose(selection.temperature / size, 0.8**2 / 2, rtol=0.25)  # log-odds are 2 x / variance


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ["ridge", "lda", "centroid"])
def test_a_tuned_head_is_the_fit_to_all_images_divided_by_its_temperature(name: str, classes: int) -> None:
    train = clouds(classes, apart=2.0)
    tuning = TuningData(train)
    tuned = tune(name, tuning)
    strength = next(value for value in PENALTIES if f"strength={value:.3g}" == tuned.setting) if tuned.setting else 0
    if name == "centroid":
        layer = nearest_centroid(tuning.statistics()[-1], tuning.problem.x.mean)
    else:
        covariances = RegularizedCovariances(tuning.statistics(), tuning.problem.x.mean)
        layer = covariances.refit({"ridge": ridge, "lda": lda}[name], strength)
    logits = train.clean() @ layer.coef.T + layer.intercept
    assert tuned.temperature is not None
    actual = tuned.estimator.decision_function(train.clean()) * tuned.temperature
    np.testing.assert_allclose(actual.reshape(60, -1), logits, rtol=1e-5, atol=1e-5)


def test_probabilities_are_calibrated() -> None:
    """Clouds that overlap: each head's log-loss is near that of the best there is."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    x = rng.normal(size=(400, 1, 4)) + np.where(labels == 1, 1.0, 0)[:, None, None]
    tuning = TuningData(features(x, labels))
    best = mean_log_loss(two_sided(4 * (x[:, 0].mean(axis=1, keepdims=True) - 0.5)), labels, np.ones(400))
    for name in LINEAR:
        assert log_loss(labels, tune(name, tuning).probabilities) < best + 0.03


# Settings


@pytest.mark.parametrize("name", ["ridge", "lda", "linear"])
def test_balanced_weights_favour_the_rare_class(name: str) -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(200) % 10 == 0).astype(np.int64)
    x = rng.normal(size=(200, 2, 4)) + 0.6 * labels[:, None, None]
    train = features(x.astype(np.float32), labels)
    plain, balanced = TuningData(train), TuningData(train, class_weight="balanced")
    tuned = [tune(name, tuning) for tuning in (plain, balanced)]
    recalls = [balanced_accuracy_score(labels, item.estimator.predict(train.clean())) for item in tuned]
    assert recalls[1] > recalls[0] + 0.1
    assert tuned[1].estimator.predict(train.clean()).mean() > 0.25


def test_balanced_weights_give_each_class_as_much() -> None:
    train = clouds(3, views=2)
    tuning = TuningData(features(train.x, np.minimum(np.arange(60) // 25, 2)), class_weight="balanced")
    np.testing.assert_allclose(np.bincount(tuning.problem.labels, tuning.problem.weight), 20)
    np.testing.assert_allclose(np.bincount(tuning.held_out.labels, tuning.held_out.weight), 20)
    np.testing.assert_allclose(tuning.problem.class_weights()[-1], 20)
    given_ = TuningData(features(train.x, np.arange(60) % 2), class_weight={0: 1.0, 1: 4.0})
    np.testing.assert_allclose(np.bincount(given_.problem.labels, given_.problem.weight), [30, 120])


@pytest.mark.parametrize("name", LINEAR)
def test_the_unit_of_class_weights_changes_no_head(name: str) -> None:
    train = clouds(3, apart=2.0)
    first, other = (tune(name, TuningData(train, class_weight=dict.fromkeys(range(3), unit))) for unit in (1.0, 0.01))
    np.testing.assert_allclose(other.probabilities, first.probabilities, atol=0.01)


@pytest.mark.parametrize("name", TUNED)
def test_with_clean_views_alone_the_others_might_not_be_there(name: str) -> None:
    train = clouds(3, views=3, apart=2.0)
    tuned, alone = (
        tune(name, TuningData(train, "clean")),
        tune(name, TuningData(Features(train.x[:, :1], train.samples))),
    )
    assert tuned.setting == alone.setting
    np.testing.assert_allclose(tuned.probabilities, alone.probabilities, atol=2e-3)


@pytest.mark.parametrize("use", ["all", "mean", "clean"])
def test_heads_are_trained_on_the_views_that_were_asked_for_and_judged_on_clean_ones(use: Any) -> None:
    train = clouds(3, views=3)
    tuning = TuningData(train, use)
    rows = {"all": train.x.reshape(240, 12), "mean": train.x.mean(axis=1), "clean": train.x[:, 0]}[use]
    result = tuning.problem
    np.testing.assert_allclose(result.x.take(np.arange(len(rows))) + result.x.mean, rows, atol=1e-5)
    np.testing.assert_array_equal(result.labels, np.repeat(train.y, len(rows) // 60))
    np.testing.assert_array_equal(result.weight, np.full(len(rows), 60 / len(rows)))
    left_out = tuning.held_out
    folds, d = tuning.folds, train.x.shape[-1]
    as_they_are = PathWeights(1.0, np.tile(np.eye(d), (folds, 1, 1)), np.zeros((folds, d)))
    np.testing.assert_allclose(left_out.logits(as_they_are), train.x[left_out.rows, 0], atol=1e-5)
    np.testing.assert_array_equal(tuning.clean, train.x[:, 0])


@pytest.mark.parametrize("name", TUNED)
def test_a_class_with_a_single_image_is_trained_on(name: str) -> None:
    train = clouds(3, apart=12.0)
    labels = np.where(train.y == 2, train.y - 1, train.y)
    single = np.flatnonzero(train.y == 2)[0]
    rows = np.flatnonzero((train.y < 2) | (np.arange(60) == single))
    labels[single] = 2
    tuning = TuningData(features(train.x[rows], labels[rows]))
    tuned = tune(name, tuning)
    assert tuned.estimator.classes_.tolist() == [0, 1, 2]
    assert (tuning.problem.fold == NEVER).sum() == 2  # its views
    assert tuned.probabilities.shape == (40, 3)
    assert accuracy(tuned, tuning) == 1
    if name != "knn" or tuned.setting == "k=1":
        assert tuned.estimator.predict(train.x[[single], 0]).tolist() == [2]


@pytest.mark.parametrize("name", TUNED)
def test_a_fifth_is_held_out_where_there_are_many_images(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    train = clouds(3, apart=12.0)
    folds = TuningData(train).held_out.fold
    monkeypatch.setattr("featcache.core.splitting._MAX_FOLDED", 3 * 60 - 1)
    tuning = TuningData(train)
    assert tuning.problem.k == 2
    np.testing.assert_array_equal(tuning.held_out.rows, np.flatnonzero(folds == 0))
    assert len(tuning.held_out.rows) == 12
    tuned = tune(name, tuning)
    assert accuracy(tuned, tuning) == 1
    np.testing.assert_array_equal(tuned.estimator.predict(train.clean()), train.y)
    assert TuningData(train, folds=4).problem.k == 5
    monkeypatch.setattr("featcache.core.splitting._MAX_FOLDED", 3 * 60)
    assert TuningData(train).problem.k == 6


@pytest.mark.parametrize("solve", [ridge, lda])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_first_fold_chooses_the_strength_at_which_all_folds_are_predicted(
    solve: Any, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A factorization for each strength, one for each other fold, and one for all images."""
    monkeypatch.setattr(tuning_data, "_ENOUGH", 12)
    train = clouds(classes, apart=1.0)
    factorized, whiten = [], closed_form._Covariance.whiten

    def counted(self: Any, penalty: float) -> Any:
        factorized.append(penalty)
        return whiten(self, penalty)

    monkeypatch.setattr(closed_form._Covariance, "whiten", counted)
    tuning = TuningData(train)
    tuned = tuning.tune_closed_form(solve)
    assert len(factorized) == len(tuned.trials) + 4 + 1
    strength = min(tuned.trials, key=lambda trial: trial.log_loss).value
    assert tuned.setting == f"strength={strength:.3g}"
    by_folds = tuning.select_closed_form(solve, only=strength)
    np.testing.assert_array_equal(tuned.probabilities, by_folds.probabilities(multilabel=False))
    assert tuned.temperature == by_folds.temperature[0]
    assert len(tuned.probabilities) == 60
    monkeypatch.setattr("featcache.core.splitting._MAX_FOLDED", 1)  # holds out the first fold alone
    single = TuningData(train).tune_closed_form(solve)
    assert single.setting == tuned.setting
    np.testing.assert_allclose(np.array(single.trials), np.array(tuned.trials), rtol=1e-6)  # of float32
    again = TuningData(train).tune_closed_form(solve)
    np.testing.assert_allclose(again.probabilities, single.probabilities, rtol=1e-6)


def test_a_small_first_fold_does_not_choose_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    train = clouds(2, apart=1.0)
    by_all = TuningData(train).tune_closed_form(lda)
    monkeypatch.setattr(tuning_data, "_ENOUGH", 13)
    assert TuningData(train).tune_closed_form(lda).trials == by_all.trials
    monkeypatch.setattr(tuning_data, "_ENOUGH", 12)
    assert TuningData(train).tune_closed_form(lda).trials != by_all.trials


@pytest.mark.parametrize("folds", [2, 3, 10])
def test_folds_are_as_many_as_asked_for(folds: int) -> None:
    tuning = TuningData(clouds(2), folds=folds)
    assert np.unique(tuning.held_out.fold).tolist() == list(range(folds))
    assert tuning.problem.k == folds + 1
    for name in TUNED:
        assert accuracy(tune(name, tuning), tuning) == 1


def test_a_seed_changes_the_folds() -> None:
    train = clouds(2)
    assert not np.array_equal(TuningData(train, seed=1).held_out.fold, TuningData(train).held_out.fold)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("name", LINEAR)
def test_two_images_of_each_class_are_enough(name: str, classes: int) -> None:
    tuning = TuningData(clouds(classes, n=2 * classes, d=30, apart=30.0))
    assert accuracy(tune(name, tuning), tuning) == 1


@pytest.mark.parametrize("name", LINEAR)
def test_a_path_ends_when_the_time_is_over(name: str) -> None:
    tuning = TuningData(clouds(3, apart=2.0))
    with pytest.raises(OutOfTimeError):  # within its first fit or its sums, see test_selection.py
        try_to_tune(name, tuning, lambda: True)
    if name == "linear":
        return
    tuning.statistics()
    factorizations = iter([False] * (0 if name == "centroid" else tuning.folds))  # of the first strength
    tuned = try_to_tune(name, tuning, lambda: next(factorizations, True))
    assert tuned is not None
    assert len(tuned.trials) == 1
    assert tuned.cut_short == (name != "centroid")


def test_one_number_of_neighbours_is_tried_when_the_time_is_over() -> None:
    tuned = try_to_tune("knn", TuningData(clouds(3)), lambda: True)
    assert tuned is not None
    assert len(tuned.trials) >= 1


# What cannot be


def test_one_class_is_an_error() -> None:
    train = clouds(2)
    with pytest.raises(HeadError, match=r"^a head needs two classes or more, and all training samples are bees$"):
        TuningData(features(train.x, [1] * 60))


def test_images_that_are_all_copies_of_their_class_are_an_error() -> None:
    train = clouds(2)
    with pytest.raises(HeadError, match=r"^no class has two different training images"):
        TuningData(features(train.x, train.y, train.y))


@pytest.mark.parametrize("view", [0, 1])
@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_features_that_are_not_finite_are_an_error(view: int, value: float, name: str) -> None:
    train = clouds(2)
    train.x[59, view, 11] = value
    with pytest.raises(HeadError, match=f"(?s)^the head could not be fitted: Input X contains {name}"):
        TuningData(train)


def test_class_weights_that_are_none_are_an_error() -> None:
    with pytest.raises(HeadError, match=r"^the head could not be fitted: "):
        TuningData(clouds(2), class_weight="equal")


@pytest.mark.parametrize("value", [0.0, 7.0, 0.1])
@pytest.mark.parametrize("name", ["ridge", "lda", "linear"])
def test_features_without_spread_give_the_shares_of_the_classes(name: str, value: float) -> None:
    labels = np.where(np.arange(60) < 33, 0, 2)
    tuned = tune(
        name, TuningData(features(np.full((60, 1, 8), value, np.float32), labels), class_weight={0: 1.0, 2: 0.7})
    )
    probability = 33 / (33 + 0.7 * 27)
    new = np.full((1, 8), value, np.float32)
    np.testing.assert_allclose(tuned.estimator.predict_proba(new)[0], [probability, 1 - probability], atol=0.05)
    assert tuned.trials[0].log_loss < np.log(2)


@pytest.mark.parametrize("name", ["centroid", "knn"])
def test_directions_of_features_without_spread_are_no_error(name: str) -> None:
    tuned = tune(name, TuningData(features(np.full((60, 1, 8), 0.1, np.float32), np.arange(60) % 2)))
    assert np.isfinite(tuned.probabilities).all()


def test_no_more_logits_are_held_out_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """180 logits where 18 are to be held out: a tenth of the images, not a fifth."""
    monkeypatch.setattr("featcache.core.splitting._MAX_FOLDED", 1)
    monkeypatch.setattr("featcache.core.splitting._MAX_LOGITS", 18)
    tuning = TuningData(clouds(3))
    assert len(tuning.held_out.rows) == 6
    assert tuning.problem.k == 2


# The search for a strength


def fine(n: int = 60) -> Features:
    """What tells the classes apart varies little, so that weak penalties are the best."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    x = rng.normal(size=(n, 1, 6)) * np.logspace(2, 0, 6)
    x[:, 0, 5] = 0.01 * (rng.normal(size=n) + 1.5 * (2 * labels - 1))
    return features(x, labels)


@pytest.mark.parametrize("name", ["ridge", "lda"])
@pytest.mark.parametrize("example", [fine(), clouds(3, apart=2.0), clouds(4, n=100, apart=1.0, seed=3)])
def test_the_coarse_search_ends_where_the_log_loss_of_its_neighbours_is_no_lower(name: str, example: Features) -> None:
    tuned = tune(name, TuningData(example))
    tried = {trial.value: trial.log_loss for trial in tuned.trials}
    best = min(tried, key=lambda value: tried[value])
    assert tuned.setting == f"strength={best:.3g}"
    place = PENALTIES.index(best)
    for neighbour in (place - 1, place + 1):
        if 0 <= neighbour < len(PENALTIES):
            assert tried[PENALTIES[neighbour]] >= tried[best]
    assert len(tried) == len(tuned.trials)


@pytest.mark.parametrize("name", ["ridge", "lda"])
@pytest.mark.parametrize("least", [13, 12, 11, 10])
def test_a_search_ends_before_strengths_that_are_rounding_errors(
    name: str, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weakest strength that can be solved is the best one, and the next one fails."""
    tuning = TuningData(fine())
    covariances, whiten = tuning.covariances(), closed_form._Covariance.whiten

    def fails(self: Any, ridge: float, *rest: Any) -> Any:
        if ridge < PENALTIES[least] * covariances.scale * 0.99:
            raise np.linalg.LinAlgError("not positive definite")
        return whiten(self, ridge, *rest)

    monkeypatch.setattr(closed_form._Covariance, "whiten", fails)
    tuned = tune(name, tuning)
    assert min(trial.value for trial in tuned.trials) == PENALTIES[least]
    assert tuned.setting == f"strength={PENALTIES[least]:.3g}"


@pytest.mark.parametrize("solve", [ridge, lda])
def test_a_strength_of_the_first_fold_that_is_too_weak_for_others_is_not_taken(
    solve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_data, "_ENOUGH", 1)
    tuning = TuningData(fine())
    covariances, whiten = tuning.covariances(), closed_form._Covariance.whiten
    free = tuning.tune_closed_form(solve)
    least = PENALTIES.index(min(free.trials, key=lambda trial: trial.log_loss).value) - 1
    covariances._whitened.clear()

    def fails(self: Any, penalty: float) -> Any:
        if self is covariances._covariances[3] and penalty < PENALTIES[least] * covariances.scale * 0.99:
            raise np.linalg.LinAlgError("not positive definite")
        return whiten(self, penalty)

    monkeypatch.setattr(closed_form._Covariance, "whiten", fails)
    tuned = tuning.tune_closed_form(solve)
    assert tuned.setting == tuning.tune_closed_form(solve).setting
    assert min(trial.value for trial in tuned.trials) >= PENALTIES[least]
    assert tuned.probabilities.shape == (60, 2)


@pytest.mark.parametrize("name", ["ridge", "lda"])
def test_a_search_that_is_stopped_between_coarse_and_fine_has_a_choice(name: str) -> None:
    tuning = TuningData(fine())
    tuning.statistics()
    coarse = iter([False] * (5 * tuning.folds + 4))  # factorizations, and a question after each strength but the last
    tuned = try_to_tune(name, tuning, lambda: next(coarse, True))
    assert tuned is not None
    assert 1 < len(tuned.trials) < len(tune(name, TuningData(fine())).trials)
    assert tuned.cut_short


# The fit to all images


def optimum(train: Features, C: float) -> LinearHead:
    """The exact fit to all views."""
    flat = train.flatten("all")
    return LinearHead(C=C, tol=1e-10, max_iter=5000).fit(np.asarray(flat.x, np.float64), flat.y, flat.weights)


@pytest.mark.parametrize(("n", "d", "views"), [(150, 12, 0), (150, 12, 2), (60, 100, 0)])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_fit_to_all_images_starts_from_the_mean_of_the_folds_and_ends_at_the_optimum(
    n: int, d: int, views: int, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = clouds(classes, n=n, d=d, views=views, apart=2.0)
    tuning = TuningData(train)
    selection = tuning.select(tuning.logistic_path())
    starts = []

    def recorded(*arguments: Any, **options: Any) -> Any:
        starts.append(options["start"])
        return solve_path(*arguments, **options)

    monkeypatch.setattr("featcache.heads.tuning.tuning_data.solve_path", recorded)
    tuned = tuning.tuned_head(selection, tuning.refit(selection), "C={}")
    ((coef, intercept),) = starts
    np.testing.assert_array_equal(coef[0], selection.coef.mean(axis=0))
    np.testing.assert_array_equal(intercept[0], selection.intercept.mean(axis=0))
    best = optimum(train, float(selection.values[0]))
    assert tuned.temperature is not None
    np.testing.assert_allclose(
        tuned.estimator.coef_ * tuned.temperature, best.coef_, rtol=1e-3, atol=1e-3 * np.abs(best.coef_).max()
    )
    np.testing.assert_allclose(tuned.estimator.intercept_ * tuned.temperature, best.intercept_, rtol=1e-2, atol=3e-3)


@pytest.mark.parametrize("apart", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_the_tolerance_of_the_fit_is_less_than_a_hundredth_of_the_noise(classes: int, apart: float) -> None:
    """The log-loss of new images is that of the exact fit, but for 1 % of its standard error."""
    images = clouds(classes, n=2200, apart=apart)
    train, new = (images.take(rows) for rows in (np.arange(200), np.arange(200, 2200)))
    tuning = TuningData(train)
    selection = tuning.select(tuning.logistic_path())
    layer = tuning.refit(selection)
    best = optimum(train, float(selection.values[0]))
    x, rows = new.clean()[:].astype(np.float64), np.arange(2000)

    def losses(coef: NDArray[Any], intercept: NDArray[Any]) -> NDArray[np.float64]:
        logits = two_sided((x @ coef.T + intercept) / selection.temperature)
        return -np.log(softmax(logits, axis=1)[rows, new.y])

    ours, exact = losses(layer.coef, layer.intercept), losses(best.coef_, best.intercept_)
    assert abs(ours.mean() - exact.mean()) < 0.01 * exact.std() / np.sqrt(len(rows))


def test_the_fit_to_all_images_of_several_labels_is_the_optimum_of_each() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (150, 3)).astype(np.uint8)
    x = rng.normal(size=(150, 1, 8)) + (y @ rng.normal(size=(3, 8)))[:, None]
    samples = features(x, y[:, 0]).samples
    train = Features(x, replace(samples, labels=y, classes=NAMES[:3]))
    tuning = TuningData(train)
    selection = tuning.select(tuning.logistic_path())
    layer = tuning.refit(selection)
    assert len(selection.values) == 3
    for label, C in enumerate(selection.values):
        best = LinearHead(C=C, tol=1e-10).fit(x[:, 0], y[:, label].astype(np.int64))
        np.testing.assert_allclose(layer.coef[label], best.coef_[0], rtol=1e-3, atol=1e-3 * np.abs(best.coef_).max())


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("apart", [1.0, 2.0, 4.0])
def test_the_tolerance_of_the_comparison_changes_no_choice_that_noise_would_not(
    apart: float, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exact log-loss of the C that was chosen is that of the best C, but for 5 % of the standard error."""
    train = clouds(classes, n=200, apart=apart)
    quick = tune("linear", TuningData(train))
    monkeypatch.setattr("featcache.heads.tuning.tuning_data.CV_TOL", 1e-9)
    exact = tune("linear", TuningData(train))
    noise = np.std(-np.log(exact.probabilities[np.arange(200), train.y])) / np.sqrt(200)
    best = min(trial.log_loss for trial in exact.trials)
    chosen = min(quick.trials, key=lambda trial: trial.log_loss)
    assert next(trial.log_loss for trial in exact.trials if trial.value == chosen.value) - best < 0.05 * noise
    for trial, other in zip(quick.trials, exact.trials, strict=False):
        assert trial.value == other.value
        assert abs(trial.log_loss - other.log_loss) < 0.1 * noise
