"""`as_linear`: the linear layer predicts like the classifier, on images that neither has seen."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer, StandardScaler
from sklearn.svm import SVC

import several
from featcache.heads.binary_relevance import BinaryRelevance
from featcache.heads.fit import fit
from featcache.heads.linear import LinearHead
from featcache.heads.linear_layer import CERTAIN_LOGIT, LinearWeights, as_linear, layer
from featcache.heads.one_vs_rest import OneVsRestHead
from featcache.heads.predict import classify
from featcache.heads.registry import find_head, heads_with
from featcache.heads.training_data import FitOptions, TrainingData
from tuned import TUNED

LAST = {
    "linear": LinearHead,
    "logreg": lambda: LogisticRegression(max_iter=1000),
    "no intercept": lambda: LogisticRegression(fit_intercept=False),
    "lda": lambda: LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
    "lda svd": LinearDiscriminantAnalysis,
}


def data(seed: int, classes: tuple[int, ...], d: int = 4) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Overlapping clouds far from the origin, each column of another width."""
    rng = np.random.default_rng(seed)
    y = np.array(classes)[np.arange(40) % len(classes)]
    x = rng.normal(size=(40, d)) + rng.normal(size=(max(classes) + 1, d))[y]
    return x * 10.0 ** rng.integers(-1, 2, d) + 5 * rng.normal(size=d), y


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    last=st.sampled_from(sorted(LAST)),
    classes=st.sampled_from([(0, 1), (0, 1, 2), (1, 3), (0, 2, 4)]),
    scalers=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=2),
    constant=st.booleans(),
)
def test_a_pipeline_and_its_layer_have_the_same_probabilities(
    seed: int, last: str, classes: tuple[int, ...], scalers: list[tuple[bool, bool]], constant: bool
) -> None:
    x, y = data(seed, classes)
    x[:, 1] = 3.0 if constant else x[:, 1]
    steps = [StandardScaler(with_mean=mean, with_std=std) for mean, std in scalers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of without_scaling features on which a solver stops early: as good as any
        pipe = make_pipeline(*steps, LAST[last]()).fit(x, y)
    head = as_linear(pipe)
    assert isinstance(head, LinearHead)
    new = np.concatenate([x, np.random.default_rng(seed).permuted(x, axis=0)])
    expected = pipe.predict_proba(new)
    np.testing.assert_allclose(head.predict_proba(new), expected, rtol=1e-6, atol=1e-9)
    sure = np.ptp(np.sort(expected, axis=1)[:, -2:], axis=1) > 1e-6
    np.testing.assert_array_equal(head.predict(new)[sure], pipe.predict(new)[sure])
    full = np.zeros((len(new), 5))
    full[:, list(classes)] = expected
    weight, bias = layer(head, 5)
    np.testing.assert_allclose(softmax(new @ weight.T + bias, axis=1), full, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scaled", ["outside", "inside", "no"])
def test_one_classifier_a_label_becomes_one_layer(scaled: str) -> None:
    x, y = data(3, (0, 1))
    labels = np.column_stack([y, x[:, 2] > x[:, 2].mean(), np.ones(40), np.zeros(40)]).astype(np.int64)
    inner = LogisticRegression(max_iter=2000)
    whole = BinaryRelevance(make_pipeline(StandardScaler(), inner) if scaled == "inside" else inner)
    whole = make_pipeline(StandardScaler(), whole) if scaled == "outside" else whole
    whole.fit(x, labels)
    head = as_linear(whole)
    assert isinstance(head, OneVsRestHead)
    np.testing.assert_allclose(head.predict_proba(x), whole.predict_proba(x), atol=1e-9)
    np.testing.assert_array_equal(head.predict(x), whole.predict(x))
    result = layer(head, 4)
    np.testing.assert_allclose(expit(x @ result.weight.T + result.bias), whole.predict_proba(x), atol=1e-9)
    assert result.bias[2:].tolist() == [CERTAIN_LOGIT, -CERTAIN_LOGIT]
    assert result.depends_on_input.tolist() == [True, True, False, False]


def test_our_heads_are_what_they_are() -> None:
    for head in (LinearHead(), OneVsRestHead()):
        assert as_linear(head) is head


class LogisticRegressionOfMine(ClassifierMixin, BaseEstimator):
    pass


LogisticRegressionOfMine.__name__ = "LogisticRegression"


@pytest.mark.parametrize(
    "estimator",
    [
        RidgeClassifier(),
        SVC(kernel="linear"),
        GaussianNB(),
        SGDClassifier(loss="log_loss"),
        make_pipeline(StandardScaler(), GaussianNB()),
        make_pipeline(Normalizer(), LogisticRegression()),
        make_pipeline(MinMaxScaler(), LogisticRegression()),
        make_pipeline(StandardScaler(), Normalizer(), LogisticRegression()),
    ],
    ids=str,
)
def test_what_is_no_softmax_of_a_linear_layer_is_not_folded(estimator: Any) -> None:
    x, y = data(0, (0, 1, 2))
    assert as_linear(estimator.fit(x, y)) is None


def test_a_label_that_is_no_layer_leaves_none() -> None:
    x, y = data(0, (0, 1))
    assert as_linear(BinaryRelevance(GaussianNB()).fit(x, y[:, None])) is None


def test_a_class_of_the_same_name_from_elsewhere_is_not_trusted() -> None:
    assert as_linear(LogisticRegressionOfMine()) is None


def test_liblinear_has_a_sigmoid_for_each_of_several_classes() -> None:
    x, y = data(0, (0, 1))
    two = LogisticRegression(solver="liblinear").fit(x, y)
    np.testing.assert_allclose(as_linear(two).predict_proba(x), two.predict_proba(x), rtol=1e-9)
    several = LogisticRegression(max_iter=5000).fit(*data(0, (0, 1, 2)))
    assert as_linear(several) is not None
    several.solver = "liblinear"  # newer versions of scikit-learn refuse to fit it
    assert as_linear(several) is None


@pytest.mark.parametrize("multi_class", ["ovr", "multinomial"])
def test_an_option_of_older_versions_is_not_folded(multi_class: str) -> None:
    model = LogisticRegression(max_iter=5000).fit(*data(0, (0, 1)))
    model.multi_class = multi_class  # whose probabilities of two classes are the sigmoid of 2 z, or several sigmoids
    assert as_linear(model) is None


def test_two_classes_share_their_logit() -> None:
    head = LinearHead.from_weights(np.array([[2.0, -4.0]]), np.array([6.0]), np.array([0, 1]))
    assert [part.tolist() for part in layer(head, 2)] == [[[-1, 2], [1, -2]], [-3, 3]]


def test_a_class_that_train_lacked_has_no_probability_wherever_the_logits_lie() -> None:
    head = LinearHead.from_weights(np.array([[1.0], [2.0], [6.0]]), np.array([-900.0, -901, -902]), np.array([0, 2, 3]))
    result = layer(head, 4)
    assert [part.tolist() for part in result] == [[[-2], [0], [-1], [3]], [1, -CERTAIN_LOGIT, 0, -1]]
    assert result.depends_on_input.tolist() == [True, False, True, True]
    x = np.array([[0.0], [5.0], [-5.0]], np.float32)
    probabilities = softmax((x @ result.weight.T + result.bias).astype(np.float32), axis=1)
    np.testing.assert_allclose(probabilities, classify(head, x, 4)[1], rtol=1e-5, atol=1e-42)
    assert probabilities[:, 1].max() < 1e-42


def test_a_class_that_has_learnt_nothing_but_its_share_is_not_taken_for_an_absent_one() -> None:
    assert LinearWeights(np.zeros((2, 3)), np.array([-0.5, 0.5])).depends_on_input.tolist() == [True, True]


@pytest.mark.parametrize("head", [*TUNED, *heads_with("estimator"), "sgd"])
def test_heads_are_linear_layers_where_they_are_said_to_be(head: str) -> None:
    x, y = data(0, (0, 1, 2))
    train = several.features(x[:, None].astype(np.float32), y)
    parameters = {"epochs": 1} if head == "sgd" else {}
    fitted = fit(head, TrainingData(train, train), FitOptions(parameters)).estimator
    assert (as_linear(fitted) is not None) == find_head(head).linear
