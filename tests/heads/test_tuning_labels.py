"""Tuning with several labels: each label chooses as it does alone, and as scikit-learn fitted fold by fold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from featcache.cache.features import Features
from featcache.core.splitting import NEVER, assign_folds
from featcache.errors import HeadError
from featcache.heads.one_vs_rest import OneVsRestHead
from featcache.heads.tuning.strength_search import PENALTIES
from featcache.heads.tuning.tuning_data import TunedHead, TuningData
from featcache.metrics.calibration import fit_label_temperatures, label_log_loss
from featcache.metrics.multilabel import LabelAccuracy, evaluate_labels
from several import features, overlapping
from tuned import TunedLabels, try_to_tune, tune_labels


def fixed_folds(monkeypatch: pytest.MonkeyPatch, n: int, k: int = 5) -> NDArray[np.int64]:
    """The same folds for any labels; three images are always trained on."""
    fold = np.random.default_rng(7).permutation(np.arange(n) % k)
    fold[:3] = NEVER
    monkeypatch.setattr("featcache.heads.tuning.tuning_data.plan_folds", lambda *_: (fold, k))
    return fold


def fixed_strengths(monkeypatch: pytest.MonkeyPatch, *Cs: float) -> None:
    monkeypatch.setattr("featcache.heads.tuning.tuning_data.c_grid", lambda *_: list(Cs))


def alone(data: Features, label: int, use: Any = "all") -> TunedHead:
    """What `linear` chooses for two classes: without the label, and with it."""
    tuned = try_to_tune("linear", TuningData(features(data.x, data.y[:, label].astype(np.int64)), use), lambda: False)
    assert tuned is not None
    return tuned


def judged(result: TunedLabels) -> LabelAccuracy:
    """Figures of the held-out images."""
    accuracy = result.selection.chosen.accuracy
    assert isinstance(accuracy, LabelAccuracy)
    return accuracy


def rows_of(data: Features, use: str) -> NDArray[np.float32]:
    return {"all": data.x.reshape(-1, data.x.shape[2]), "mean": data.x.mean(axis=1), "clean": data.x[:, 0]}[use]


# What each label chooses


@pytest.mark.parametrize("use", ["all", "mean", "clean"])
def test_each_label_chooses_as_it_would_alone(use: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train = overlapping(n=80, c=4, views=2)
    fixed_folds(monkeypatch, 80)
    tuned, singles = tune_labels(train, use), [alone(train, label, use) for label in range(4)]
    Cs = [first.estimator.C for first in singles]
    assert len(set(Cs)) > 1
    assert tuned.selection.chosen.setting == f"C={min(Cs):.3g} to {max(Cs):.3g} by label"
    np.testing.assert_allclose(tuned.selection.temperature, [first.temperature for first in singles], rtol=1e-2)
    for label, first in enumerate(singles):
        largest = np.abs(first.estimator.coef_).max()
        np.testing.assert_allclose(tuned.head.coef_[label], first.estimator.coef_[0], atol=0.01 * largest)
        np.testing.assert_allclose(tuned.head.intercept_[label], first.estimator.intercept_[0], atol=0.03 * largest)
    least = [min(trial.log_loss for trial in first.trials) for first in singles]
    assert judged(tuned).log_loss == pytest.approx(np.mean(least), rel=1e-3)
    trials = tuned.selection.chosen.trials
    for trial, *others in zip(trials, *(first.trials for first in singles), strict=False):
        assert [other.value for other in others] == pytest.approx([trial.value] * 4)
        assert trial.log_loss == pytest.approx(np.mean([other.log_loss for other in others]), rel=1e-3)


def test_each_label_has_the_strength_with_the_least_log_loss_by_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained on all views of the other folds, judged on the clean views of this one, at the best temperature."""
    train = overlapping(n=60, c=3, views=1, seed=2)
    fold = fixed_folds(monkeypatch, 60)
    Cs = [0.003, 0.03, 1.0, 100.0]
    fixed_strengths(monkeypatch, *Cs)
    tuned = tune_labels(train)
    left_out, flat, spread = np.flatnonzero(fold >= 0), rows_of(train, "all").astype(np.float64), np.repeat(fold, 2)
    probabilities = np.empty((len(left_out), 3))
    for label in range(3):
        y, of_row = train.y[left_out, label], np.repeat(train.y[:, label], 2)
        tried = []
        for C in Cs:
            logits = np.empty(60)
            for number in range(5):
                seen = spread != number
                head = LogisticRegression(C=C, tol=1e-10, solver="newton-cholesky")
                head.fit(flat[seen], of_row[seen], np.full(seen.sum(), 0.5))
                logits[fold == number] = head.decision_function(train.x[fold == number, 0])
            tried.append(tempered(logits[left_out], y))
        loss, temperature, probability = min(tried, key=lambda item: item[0])
        C = Cs[int(np.argmin([item[0] for item in tried]))]
        full = LogisticRegression(C=C, tol=1e-10, solver="newton-cholesky").fit(flat, of_row, np.full(120, 0.5))
        assert tuned.selection.temperature[label] == pytest.approx(temperature, rel=0.02)
        size = np.abs(full.coef_).max() / temperature
        np.testing.assert_allclose(tuned.head.coef_[label], full.coef_[0] / temperature, atol=0.02 * size)
        np.testing.assert_allclose(tuned.uncalibrated.coef_[label], full.coef_[0], atol=0.02 * size * temperature)
        np.testing.assert_allclose(
            label_log_loss(np.log(probability / (1 - probability))[:, None], y[:, None], np.ones((57, 1))), loss
        )
        probabilities[:, label] = probability
    expected = evaluate_labels(train.y[left_out], probabilities, train.samples.classes)
    assert judged(tuned).log_loss == pytest.approx(expected.log_loss, rel=0.01)
    assert judged(tuned).mean_average_precision == pytest.approx(expected.mean_average_precision, abs=0.02)
    assert judged(tuned).n == expected.n == 57
    assert len({*tuned.selection.temperature}) == 3


def tempered(logits: NDArray[np.float64], y: NDArray[np.uint8]) -> tuple[float, float, NDArray[np.float64]]:
    """Log-loss at the best temperature, that temperature, and the probabilities: of one label, by scipy."""
    targets = y * len(y) / (len(y) + 1) + 0.5 / (len(y) + 1)

    def smoothed(log: float) -> float:
        z = logits / np.exp(log)
        return float(np.mean(targets * np.logaddexp(0, -z) + (1 - targets) * np.logaddexp(0, z)))

    best = np.exp(minimize_scalar(smoothed, bounds=(-7, 7), method="bounded", options={"xatol": 1e-6}).x)
    probability = expit(logits / best)
    return float(-np.log(np.where(y, probability, 1 - probability)).mean()), float(best), probability


def test_the_least_log_loss_of_each_label_is_what_is_reported() -> None:
    """The trials are of all labels together: none can be better than each label at its own strength."""
    tuned = tune_labels(overlapping(n=80, c=4, seed=1))
    assert judged(tuned).log_loss <= min(trial.log_loss for trial in tuned.selection.chosen.trials) + 1e-9
    assert tuned.selection.chosen.trials[0].value < tuned.selection.chosen.trials[-1].value
    assert len(tuned.selection.chosen.trials) <= len(PENALTIES)


def test_one_strength_for_all_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_strengths(monkeypatch, 0.25)
    tuned = tune_labels(overlapping())
    assert tuned.selection.chosen.setting == "C=0.25"
    assert tuned.selection.chosen.head == "linear"


def test_the_temperature_is_folded_into_the_head() -> None:
    train = overlapping(c=3)
    tuned = tune_labels(train)
    temperature = np.array(tuned.selection.temperature)
    np.testing.assert_allclose(tuned.head.coef_ * temperature[:, None], tuned.uncalibrated.coef_, rtol=1e-9)
    np.testing.assert_allclose(tuned.head.intercept_ * temperature, tuned.uncalibrated.intercept_, rtol=1e-9)
    odds = tuned.head.decision_function(train.x[:, 0]) * temperature
    np.testing.assert_allclose(odds, tuned.uncalibrated.decision_function(train.x[:, 0]), rtol=1e-4)
    assert np.ptp(temperature) > 0.01


def test_the_unit_of_the_features_changes_no_choice() -> None:
    train = overlapping()
    first, other = (tune_labels(Features(train.x * np.float32(unit), train.samples)) for unit in (1.0, 1000.0))
    np.testing.assert_allclose(
        other.head.predict_proba(1000 * train.x[:, 0]), first.head.predict_proba(train.x[:, 0]), atol=0.01
    )


def test_the_order_of_images_changes_nothing() -> None:
    train = overlapping(n=60)
    shuffled = np.random.default_rng(1).permutation(60)
    first, other = tune_labels(train), tune_labels(Features(train.x[shuffled], train.samples.take(shuffled)))
    np.testing.assert_allclose(other.head.coef_, first.head.coef_, atol=0.02 * np.abs(first.head.coef_).max())
    assert judged(other).log_loss == pytest.approx(judged(first).log_loss, rel=1e-3)


# What is trained on, and judged


@pytest.mark.parametrize("use", ["all", "mean", "clean"])
def test_the_views_that_were_asked_for_are_trained_on(use: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train = overlapping(views=2)
    fixed_strengths(monkeypatch, 0.5)
    tuned = tune_labels(train, use).uncalibrated
    rows, v = rows_of(train, use), 3 if use == "all" else 1
    expected = OneVsRestHead(0.5).fit(rows, np.repeat(train.y, v, axis=0), np.full(len(rows), 1 / v))
    np.testing.assert_allclose(tuned.coef_, expected.coef_, atol=0.01 * np.abs(expected.coef_).max())
    assert not np.allclose(expected.coef_, OneVsRestHead(1.5).fit(rows, np.repeat(train.y, v, axis=0)).coef_, atol=0.02)


def test_copies_and_views_do_not_give_labels_away() -> None:
    """Labels by lot; each image lies there twice, with views that hardly differ: nothing can be learnt."""
    rng = np.random.default_rng(1)
    contents = rng.permutation(np.arange(100) // 2)
    x = rng.normal(size=(50, 1, 60))[contents] + 1e-3 * rng.normal(size=(100, 2, 60))
    labels = rng.integers(0, 2, (50, 2)).astype(np.uint8)[contents]
    blind = judged(tune_labels(features(x.astype(np.float32), labels, contents)))
    assert blind.log_loss > 0.68
    leaking = judged(tune_labels(features(x.astype(np.float32), labels)))  # were their bytes not equal
    assert leaking.log_loss < 0.4


def test_probabilities_are_calibrated() -> None:
    """Each label's odds are 2 x: its log-loss is near that of the best there is."""
    rng = np.random.default_rng(0)
    labels = (rng.uniform(size=(500, 3)) < 0.5).astype(np.uint8)
    x = 2.0 * labels - 1 + rng.normal(size=(500, 3))
    best = label_log_loss(2 * x, labels, np.ones((500, 3)))
    tuned = tune_labels(features(x[:, None].astype(np.float32), labels))
    assert judged(tuned).log_loss < best.mean() + 0.01
    assert judged(tuned).calibration_error < 0.03
    np.testing.assert_allclose(tuned.head.coef_, 2 * np.eye(3), atol=0.5)


# Class weights


@pytest.mark.parametrize("class_weight", ["balanced", {"b": 4.0}, {"a": 0.5, "c": 2.0}], ids=str)
def test_class_weights_are_trained_with(class_weight: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train = overlapping(views=1)
    fixed_strengths(monkeypatch, 0.5)
    tuned = tune_labels(train, class_weight=class_weight).uncalibrated
    by_index = class_weight if isinstance(class_weight, str) else {"abc".index(k): w for k, w in class_weight.items()}
    flat, y = rows_of(train, "all"), np.repeat(train.y, 2, axis=0)
    expected = OneVsRestHead(0.5, class_weight=by_index).fit(flat, y, np.full(120, 0.5))
    np.testing.assert_allclose(tuned.coef_, expected.coef_, atol=0.01 * np.abs(expected.coef_).max())
    plain = OneVsRestHead(0.5).fit(flat, y, np.full(120, 0.5))
    assert not np.allclose(tuned.coef_, plain.coef_, atol=0.02 * np.abs(expected.coef_).max())
    same = tune_labels(train, class_weight=by_index).uncalibrated
    np.testing.assert_array_equal(same.coef_, tuned.coef_)


def test_class_weights_are_judged_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of label b images that have it count fourfold, where temperatures are chosen, too."""
    train = overlapping(n=60, c=3, views=0)
    fold = fixed_folds(monkeypatch, 60)
    fixed_strengths(monkeypatch, 0.5)
    tuned = tune_labels(train, class_weight={"b": 4.0})
    x, logits = train.x[:, 0].astype(np.float64), np.zeros((60, 3))
    for number in range(5):
        seen = fold != number
        head = OneVsRestHead(0.5, class_weight={1: 4.0}).fit(x[seen], train.y[seen])
        logits[~seen] = head.decision_function(x[~seen])
    rows = np.flatnonzero(fold >= 0)
    y, weight = train.y[rows], np.where(train.y[rows], [1.0, 4.0, 1.0], 1.0)
    temperature = fit_label_temperatures(logits[rows], y, weight, np.ones(3))
    np.testing.assert_allclose(tuned.selection.temperature, temperature, rtol=0.01)
    loss = label_log_loss(logits[rows] / temperature, y, weight).mean()
    assert tuned.selection.chosen.trials[0].log_loss == pytest.approx(loss, rel=1e-3)
    assert not np.allclose(
        fit_label_temperatures(logits[rows], y, np.ones((57, 3)), np.ones(3)), temperature, rtol=0.02
    )


def test_balanced_weights_find_a_rare_label() -> None:
    rng = np.random.default_rng(0)
    labels = np.column_stack([np.arange(200) % 10 == 0, np.arange(200) % 2]).astype(np.uint8)
    x = rng.normal(size=(200, 1, 4)) + 0.8 * labels[:, None, :1]
    train = features(x.astype(np.float32), labels)
    recalls = []
    for weight in (None, "balanced", {"a": 9.0}):
        guess = tune_labels(train, class_weight=weight).head.predict(train.x[:, 0])[:, 0]
        recalls.append(guess[labels[:, 0] == 1].mean())
    assert recalls[0] < 0.4
    assert min(recalls[1:]) > 0.6


# Folds


@pytest.mark.parametrize("folds", [2, 3, 10])
def test_folds_are_as_many_as_asked_for(folds: int) -> None:
    train = overlapping()
    tuned = tune_labels(train, folds=folds)
    fold = assign_folds(train.y, train.samples.sha256, folds)
    assert (tuned.selection.folds, tuned.selection.images) == (folds, (fold >= 0).sum())
    assert judged(tuned).n == tuned.selection.images


def test_a_fifth_is_held_out_where_there_are_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    train = overlapping(c=3)
    monkeypatch.setattr("featcache.core.splitting._MAX_FOLDED", 3 * 60 - 1)
    fixed_strengths(monkeypatch, 0.5)
    tuned = tune_labels(train)
    fold = assign_folds(train.y, train.samples.sha256, 5)
    assert (tuned.selection.folds, tuned.selection.images) == (1, (fold == 0).sum())
    assert str(tuned.selection).startswith(f"a part of train held out, {(fold == 0).sum()} training samples:")
    held = judged(tuned)
    assert held.images == tuple(train.y[fold == 0].sum(axis=0).tolist())
    flat, y = rows_of(train, "all"), np.repeat(train.y, 2, axis=0)
    seen = np.repeat(fold != 0, 2)
    without = OneVsRestHead(0.5).fit(flat[seen], y[seen], np.full(seen.sum(), 0.5))
    odds = without.decision_function(train.x[fold == 0, 0]) / tuned.selection.temperature
    expected = evaluate_labels(train.y[fold == 0], expit(odds), train.samples.classes)
    assert held.log_loss == pytest.approx(expected.log_loss, rel=1e-3)
    full = OneVsRestHead(0.5).fit(flat, y, np.full(120, 0.5))  # the head saw all of them
    np.testing.assert_allclose(tuned.uncalibrated.coef_, full.coef_, atol=0.01 * np.abs(full.coef_).max())


def test_a_seed_changes_the_folds() -> None:
    train = overlapping()
    losses = {judged(tune_labels(train, seed=seed)).log_loss for seed in (0, 0, 1)}
    assert len(losses) == 2


# Labels of which nothing can be learnt, and what cannot be


@pytest.mark.parametrize("value", [0, 1])
def test_a_label_of_no_image_or_of_all_leaves_the_others_alone(value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    train = overlapping(c=3)
    fixed_folds(monkeypatch, 60)
    more = features(train.x, np.column_stack([train.y[:, :1], np.full(60, value, np.uint8), train.y[:, 1:]]))
    tuned, without = tune_labels(more), tune_labels(train)
    np.testing.assert_allclose(tuned.head.coef_[[0, 2, 3]], without.head.coef_, atol=1e-3)
    assert not tuned.head.coef_[1].any()
    probabilities = tuned.head.predict_proba(train.x[:, 0])[:, 1]
    np.testing.assert_allclose(probabilities, value, atol=0.05)
    assert tuned.head.predict(train.x[:, 0])[:, 1].tolist() == [value] * 60


def test_a_label_of_one_image_has_nothing_to_be_judged_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is always trained on. The other labels are not affected."""
    train = overlapping(c=2)
    labels = np.column_stack([train.y, np.arange(60) == 7]).astype(np.uint8)
    fold = assign_folds(labels, train.samples.sha256, 5)
    assert np.flatnonzero(fold == NEVER).tolist() == [7]
    tuned = tune_labels(features(train.x, labels))
    assert (tuned.selection.images, judged(tuned).images[2], judged(tuned).average_precision[2]) == (59, 0, None)
    assert np.isfinite(tuned.head.coef_).all()
    monkeypatch.setattr("featcache.heads.tuning.tuning_data.plan_folds", lambda *_: (fold, 5))
    np.testing.assert_allclose(tuned.head.coef_[:2], tune_labels(train).head.coef_, atol=1e-3)


def test_features_without_spread_give_the_shares_of_the_labels() -> None:
    labels = np.column_stack([np.arange(60) % 4 == 0, np.arange(60) % 2 == 0]).astype(np.uint8)
    tuned = tune_labels(features(np.full((60, 1, 4), 7.0, np.float32), labels))
    np.testing.assert_allclose(tuned.head.predict_proba(np.full((1, 4), 7.0)), [[0.25, 0.5]], atol=0.03)


@pytest.mark.parametrize("view", [0, 1])
@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_features_that_are_not_finite_are_an_error(view: int, value: float, name: str) -> None:
    train = overlapping()
    train.x[59, view, 5] = value
    with pytest.raises(HeadError, match=f"(?s)^the head could not be fitted: Input X contains {name}"):
        tune_labels(train)


def test_images_that_are_all_copies_are_an_error() -> None:
    train = overlapping(n=12, c=2)
    contents = np.arange(12) // 6
    labels = np.eye(2, dtype=np.uint8)[contents]
    with pytest.raises(HeadError) as caught:
        tune_labels(features(train.x, labels, contents))
    assert str(caught.value) == (
        "no label has two different training images, so none can be held out to choose settings by. "
        "Fit a head with settings of your own, such as linear with C=1 (--head linear -p C=1)."
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"z": 2.0}, "class_weight names 'z'; the classes are a, b, c"),
        ({"b": 0.0}, "class_weight has 1: 0.0; it takes labels 0 to 2 and weights above 0"),
        ({7: 1.0}, "class_weight has 7: 1.0; it takes labels 0 to 2 and weights above 0"),
    ],
)
def test_class_weights_that_are_none_are_an_error(wrong: Any, message: str) -> None:
    with pytest.raises(HeadError) as caught:
        tune_labels(overlapping(), class_weight=wrong)
    assert str(caught.value) == f"the head could not be fitted: {message}"


@pytest.mark.parametrize("wrong", [3, [1, 2, 3], {"a": None}, {"a": "2"}], ids=str)
def test_class_weights_of_another_type_are_an_error(wrong: Any) -> None:
    with pytest.raises(HeadError, match="class_weight"):
        tune_labels(overlapping(), class_weight=wrong)


@pytest.mark.parametrize("folds", [1, 0, -1])
def test_one_fold_is_none(folds: int) -> None:
    with pytest.raises(HeadError, match=f"^cross-validation takes two folds or more; got {folds}$"):
        tune_labels(overlapping(), folds=folds)
