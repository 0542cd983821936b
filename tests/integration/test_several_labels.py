"""Images with several labels from the CSV file to the prediction: what is refused, and what comes out."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from commands import as_json, done, drop_hashes, refused, write_predictions
from featcache.analysis.benchmark.compare import benchmark
from featcache.analysis.curves import label_curve, view_curve
from featcache.backbones import load as backbone_loading
from featcache.backbones.backbone import Backbone
from featcache.backbones.engines.base import PendingFeatures
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.format.container import write_header
from featcache.cache.format.layout import CACHE
from featcache.cache.verify import diff, verify
from featcache.core.model_card import FILE, ModelCard
from featcache.core.splitting import assign_folds
from featcache.data.manifest import read_manifest
from featcache.errors import DataLayoutError, HeadError, NotACacheError
from featcache.extraction.extract import extract
from featcache.extraction.update import update
from featcache.heads.fit_head import fit_head
from featcache.heads.io import load_head
from featcache.heads.one_vs_rest import OneVsRestHead
from featcache.heads.predict import average_views, classify, evaluate_head
from featcache.metrics.multilabel import LabelAccuracy, evaluate_labels
from featcache.metrics.predictions import compare_heads
from featcache.models.classifier import Classifier
from several import MIXTURES, list_pictures, write_pictures
from toys import ToyNet, toy_backbone

CLASSES = ("blue", "green", "red")
VAL = list(range(24, 32))  # pictures of each mixture
TRUTH = ["red", "green", "blue", "green|red", "blue|red", "blue|green", "blue|green|red", ""]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CSV file of 24 + 8 pictures."""
    return write_pictures(tmp_path_factory.mktemp("several") / "data")


@pytest.fixture(scope="module")
def cache(data: Path) -> FeatureCache:
    return cached(data, data.parent.parent / "toy.h5")


def cached(data: Path, path: Path, **options: Any) -> FeatureCache:
    """Features of the toy network: how bright each channel is, which tells the colours."""
    options = {"views": 2, "dtype": "float32", "workers": 2, **options}
    return extract(data, path, backbone=toy_backbone(), **options).cache


@pytest.fixture
def head(cache: FeatureCache, tmp_path: Path) -> Path:
    fit_head(cache, tmp_path / "head")
    return tmp_path / "head"


@pytest.fixture
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a saved head loads by the name in its card is the toy."""
    monkeypatch.setattr(backbone_loading, "load_backbone", lambda *_, **__: toy_backbone())


def figures(fit: Any) -> LabelAccuracy:
    assert isinstance(fit.accuracy, LabelAccuracy)
    return fit.accuracy


def pictures(data: Path, rows: list[int] = VAL) -> list[Path]:
    return [data.parent / f"{row:02d}.png" for row in rows]


def table(folder: Path) -> list[list[str]]:
    with (folder / "val.csv").open(newline="") as file:
        return list(csv.reader(file))


# Fitting


def test_a_head_finds_all_labels(cache: FeatureCache, tmp_path: Path) -> None:
    fit = fit_head(cache, tmp_path / "head")
    found = json.loads(json.dumps(fit.to_dict()))
    assert (found["accuracy"], found["mean_average_precision"], found["macro_f1"], found["n"]) == (1.0, 1.0, 1.0, 8)
    assert (found["classes"], found["images"], found["head"]) == (list(CLASSES), 24, "linear")
    assert found["average_precision"] == found["recall"] == found["class_precision"] == [1.0] * 3
    assert found["selection"]["entrants"][0]["mean_average_precision"] == 1.0
    assert len(found["selection"]["temperature"]) == 3
    assert found == json.loads((tmp_path / "head" / "run.json").read_text())
    card = ModelCard.read(tmp_path / "head")
    assert (card.multilabel, card.classes, card.file) == (True, CLASSES, "head.safetensors")
    assert card.metrics == json.loads(json.dumps(figures(fit).to_dict()))


def test_wrong_labels_of_val_are_counted(data: Path, tmp_path: Path) -> None:
    """24, red, is called red and blue; 31, black, is called green: two of eight images, and two labels of 24."""
    wrong = write_pictures(tmp_path / "data", {24: "red|blue", 31: "green"})
    fit = fit_head(cached(wrong, tmp_path / "toy.h5"))
    found = figures(fit)
    interval = binomtest(6, 8).proportion_ci(method="wilson")
    assert (found.accuracy, found.images) == (0.75, (5, 5, 4))
    assert (found.accuracy_low, found.accuracy_high) == pytest.approx((interval.low, interval.high))
    assert found.recall == (0.8, 0.8, 1.0)
    assert found.class_precision == (1.0, 1.0, 1.0)
    assert found.macro_f1 == pytest.approx((8 / 9 + 8 / 9 + 1) / 3)
    assert found.micro_f1 == pytest.approx(24 / 26)
    right = fit_head(cached(data, tmp_path / "right.h5"))
    np.testing.assert_array_equal(fit.estimator.coef_, right.estimator.coef_)  # val is not learnt from


def test_the_text_names_strengths_figures_and_the_temperature(cache: FeatureCache) -> None:
    fit = fit_head(cache)
    lines = str(fit).splitlines()
    assert lines[0] == "5-fold cross-validation, 24 training samples:"
    assert lines[2].startswith("  linear C=")
    assert lines[2].split()[4] == "by"
    start = lines.index("head linear, val:")
    assert lines[start + 1] == "mAP 1.0000, all labels right 1.0000 (95 % interval 0.6756 to 1.0000, n = 8)"
    assert lines[start + 4 : start + 7] == [f"  {name:5}  1.0000  1.0000  1.0000     4" for name in CLASSES]
    assert fit.selection is not None
    assert fit.before is not None
    assert isinstance(fit.selection.temperature, tuple)
    low, high = min(fit.selection.temperature), max(fit.selection.temperature)
    assert lines[start + 7].startswith(
        f"before its temperatures of {low:.3g} to {high:.3g} by label: log-loss {fit.before.log_loss:.4f}, "
    )


def test_figures_before_the_temperature_are_those_of_the_logits_times_it(cache: FeatureCache) -> None:
    fit, val = fit_head(cache), cache.features("val")
    assert fit.selection is not None
    odds = fit.estimator.decision_function(np.asarray(val.clean())) * fit.selection.temperature
    loss = np.logaddexp(0, np.where(val.y, -odds, odds)).mean()
    assert fit.before is not None
    assert fit.before.log_loss == pytest.approx(loss, rel=1e-4)
    assert fit.before.log_loss != pytest.approx(figures(fit).log_loss, rel=1e-3)


def test_a_test_split_is_judged_too(tmp_path: Path) -> None:
    path = write_pictures(tmp_path / "data", {31: "green"})
    path.write_text(path.read_text().replace("30.png,red|green|blue,val", "30.png,red|green|blue,test")
                    .replace("31.png,green,val", "31.png,green,test"))  # fmt: skip
    fit = fit_head(cached(path, tmp_path / "toy.h5"))
    assert isinstance(fit.report.test, LabelAccuracy)
    assert (fit.report.test.n, fit.report.test.accuracy, fit.report.test.recall) == (2, 0.5, (1.0, 0.5, 1.0))
    assert fit.to_dict()["test"]["mean_average_precision"] == fit.report.test.mean_average_precision
    assert "test:\nmAP " in str(fit)


@pytest.mark.parametrize("use", ["all", "mean", "clean"])
def test_views_and_settings_are_used_as_asked(use: Any, cache: FeatureCache) -> None:
    flat = cache.features("train").flatten(use)
    expected = OneVsRestHead(0.5, class_weight={2: 3.0}).fit(np.asarray(flat.x), flat.y, flat.weights)
    fit = fit_head(cache, head="linear", parameters={"C": 0.5, "class_weight": {2: 3.0}}, use_views=use)
    np.testing.assert_allclose(fit.estimator.coef_, expected.coef_, atol=1e-4)
    assert (fit.selection, fit.before, fit.name) == (None, None, "linear")


def test_class_weights_of_fixed_settings_are_given_by_name_too(cache: FeatureCache) -> None:
    by_name = fit_head(cache, head="linear", parameters={"C": 0.5, "class_weight": {"red": 3.0}}).estimator
    by_index = fit_head(cache, head="linear", parameters={"C": 0.5, "class_weight": {2: 3.0}}).estimator
    np.testing.assert_array_equal(by_name.coef_, by_index.coef_)


def test_views_of_val_are_averaged(data: Path, tmp_path: Path) -> None:
    cache = cached(data, tmp_path / "tta.h5", val_views=2, augment="tutorial")
    fit = fit_head(cache, tmp_path / "head", head="linear", tta=2, parameters={"C": 0.02})
    val = cache.features("val")
    shares = np.mean([fit.estimator.predict_proba(np.asarray(val.x)[:, view]) for view in range(3)], axis=0)
    expected = evaluate_labels(val.y, shares, CLASSES)
    assert figures(fit).log_loss == pytest.approx(expected.log_loss)
    assert figures(fit).accuracy == expected.accuracy
    assert [row[2] for row in table(tmp_path / "head")[1:]] == [
        "|".join(name for name, share in zip(CLASSES, row, strict=True) if share > 0.5) for row in shares
    ]
    alone = evaluate_head(fit.estimator, val)
    assert alone.log_loss != pytest.approx(expected.log_loss, rel=1e-3)


def test_labels_are_predicted_where_they_are_more_probable_than_not() -> None:
    head = OneVsRestHead.from_weights(np.eye(3), np.zeros(3))
    shares = np.array([[0.4, 0.6, 0.5], [0.99, 0.01, 0.51]])
    predicted, found = classify(head, np.log(shares / (1 - shares)), 3, multilabel=True)
    assert predicted.tolist() == [[0, 1, 0], [1, 0, 1]]
    np.testing.assert_allclose(found, shares, atol=1e-6)


def test_views_are_averaged_before_labels_are_predicted() -> None:
    shares = np.array([[0.9, 0.4], [0.2, 0.4], [0.2, 0.7], [0.4, 0.2]])
    predicted, mean = average_views((shares > 0.5).astype(np.int64), shares, 2, 2)
    np.testing.assert_allclose(mean, [[0.55, 0.4], [0.3, 0.45]])
    assert predicted.tolist() == [[1, 0], [0, 0]]


# Other heads


def test_any_head_with_probabilities_is_fitted_to_each_label(cache: FeatureCache) -> None:
    fit = fit_head(cache, head="logreg", use_views="clean")
    x, y = np.asarray(cache.features("train").clean()), cache.features("train").y
    for label in range(3):
        expected = LogisticRegression(max_iter=1000).fit(x, y[:, label])
        np.testing.assert_allclose(fit.estimator.estimators_[label].coef_, expected.coef_, rtol=1e-5)
    assert (fit.name, figures(fit).mean_average_precision) == ("logreg", 1.0)


def test_an_image_counts_once_however_many_views_it_has(cache: FeatureCache) -> None:
    """As it does for images with one label, so that C means the same."""
    fit = fit_head(cache, head="logreg")
    flat = cache.features("train").flatten()
    expected = LogisticRegression(max_iter=1000).fit(np.asarray(flat.x), flat.y[:, 0], flat.weights)
    np.testing.assert_allclose(fit.estimator.estimators_[0].coef_, expected.coef_, rtol=0.05)


def test_any_head_is_cross_validated_when_asked(cache: FeatureCache) -> None:
    fit = fit_head(cache, head="logreg", cv=3, use_views="clean", parameters={"C": 0.05})
    train = cache.features("train")
    x, fold = np.asarray(train.clean()), assign_folds(train.y, train.samples.sha256, 3)
    shares = np.zeros(train.y.shape)
    for number in range(3):
        inner = LogisticRegression(C=0.05, max_iter=1000)
        one = OneVsRestClassifier(inner).fit(x[fold != number], train.y[fold != number])
        shares[fold == number] = one.predict_proba(x[fold == number])
    expected = evaluate_labels(train.y, shares, CLASSES)
    assert fit.selection is not None
    found = fit.selection.chosen.accuracy
    assert isinstance(found, LabelAccuracy)
    assert (fit.selection.images, fit.selection.folds, fit.selection.chosen.head) == (24, 3, "logreg")
    assert (found.log_loss, found.accuracy) == pytest.approx((expected.log_loss, expected.accuracy))
    assert found.mean_average_precision == pytest.approx(expected.mean_average_precision)


def test_fixed_settings_are_cross_validated_too(cache: FeatureCache) -> None:
    fit = fit_head(cache, head="linear", cv=3, use_views="clean", parameters={"C": 0.05})
    theirs = fit_head(cache, cv=3, use_views="clean", parameters={"C": 0.05}, head="logreg")
    assert fit.selection is not None
    assert theirs.selection is not None
    assert fit.selection.chosen.accuracy.log_loss == pytest.approx(theirs.selection.chosen.accuracy.log_loss, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("linear", {}),
        ("linear", {"parameters": {"C": 1.0}}),
        ("linear", {"parameters": {"C": 1.0}, "scaling": "standard"}),
        ("logreg", {"cv": 2}),
        ("logreg", {"scaling": "l2"}),
        ("knn", {}),
        ("lda", {}),
        ("centroid", {}),
        ("sklearn.naive_bayes.GaussianNB", {}),
        ("featcache.heads.linear.LinearHead", {}),
    ],
    ids=str,
)
def test_a_saved_head_gives_the_same_probabilities(
    name: str, options: dict[str, Any], cache: FeatureCache, tmp_path: Path
) -> None:
    fit = fit_head(cache, tmp_path / "head", head=name, **options)
    card = ModelCard.read(tmp_path / "head")
    assert (card.head, card.multilabel) == (name, True)
    x = np.random.default_rng(0).normal(0, 3, (40, 3))
    again = load_head(tmp_path / "head" / card.file)
    shares = again.predict_proba(x)
    assert shares.shape == (40, 3)
    assert len({tuple(row) for row in (shares > 0.5).tolist()}) > 3
    np.testing.assert_allclose(shares, fit.estimator.predict_proba(x), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    "given", [OneVsRestHead(), "featcache.heads.one_vs_rest.OneVsRestHead"], ids=["object", "path"]
)
def test_a_head_of_several_labels_is_fitted_as_it_is(given: Any, cache: FeatureCache) -> None:
    assert figures(fit_head(cache, head=given)).accuracy == 1.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"head": "sgd"}, "sgd is for samples with one label; use linear, or another head with probabilities"),
        ({"head": "svm"}, "svm has no probabilities, which labels are judged by; use linear, or one that has"),
        ({"head": "ridge"}, "ridge has no probabilities, which labels are judged by; use linear, or one that has"),
        ({"head": "svm", "calibrate": True}, "calibrate is for samples with one label"),
        ({"calibrate": True}, "calibrate is for samples with one label"),
        ({"budget_s": 5.0}, "budget_s is for samples with one label"),
        ({"head": "logreg", "budget_s": 5.0}, "budget_s is for samples with one label"),
        ({"scaling": "l2"}, "scaling is for heads that are not tuned: fix their settings with -p, or name another"),
        ({"use_views": "cycle"}, "cycle trains on one view an epoch, as sgd and attention do; use all, mean or clean"),
        ({"head": "logreg", "cv": 1}, "cross-validation takes two folds or more; got 1"),
        ({"head": "linaer"}, "there is no head 'linaer'. Use attention, auto, "),
        (
            {"head": "linear", "parameters": {"c": 1}},
            "featcache.heads.one_vs_rest.OneVsRestHead has no parameter 'c'; it has C, class_weight, ",
        ),
        (
            {"head": "linear", "parameters": {"C": 0}},
            "OneVsRestHead could not be fitted: C must be greater than 0 and finite; got 0",
        ),
        (
            {"parameters": {"class_weight": {"pink": 2}}},
            "the head could not be fitted: class_weight names 'pink'; the classes are blue, green, red",
        ),
    ],
    ids=str,
)
def test_what_several_labels_cannot_have_is_refused(given: dict[str, Any], message: str, cache: FeatureCache) -> None:
    with pytest.raises(HeadError) as caught:
        fit_head(cache, **given)
    assert str(caught.value).startswith(message)


def test_a_head_that_finds_no_label_is_judged(cache: FeatureCache) -> None:
    """Probabilities of 0 throughout, as nearest neighbours give of rare labels."""
    options = {"head": "sklearn.dummy.DummyClassifier", "parameters": {"strategy": "constant", "constant": 0}}
    fit = fit_head(cache, cv=2, **options)
    assert (figures(fit).recall, figures(fit).accuracy) == ((0.0, 0.0, 0.0), 1 / 8)
    assert fit.selection is not None
    assert fit.selection.chosen.accuracy.accuracy == 3 / 24


@pytest.mark.filterwarnings("ignore:Label .* is present in all training examples")
def test_a_label_of_all_training_images_can_be_saved(tmp_path: Path) -> None:
    always = {row: "|".join({*MIXTURES[row % 8].split("|"), "red"} - {""}) for row in range(24)}
    cache = cached(write_pictures(tmp_path / "data", always), tmp_path / "toy.h5")
    assert figures(fit_head(cache)).recall[2] == 1.0
    fit_head(cache, tmp_path / "head", head="logreg")


# Files


def test_val_csv_names_labels_and_their_probabilities(cache: FeatureCache, head: Path) -> None:
    estimator = load_head(head / "head.safetensors")
    shares = estimator.predict_proba(np.asarray(cache.features("val").clean()))
    rows = table(head)
    assert rows[0] == ["image", "label", "predicted", "probability"]
    assert [row[:3] for row in rows[1:]] == [
        [f"{row}.png", label, label] for row, label in zip(VAL, TRUTH, strict=True)
    ]
    for (_, _, predicted, text), share in zip(rows[1:], shares, strict=True):
        named = [CLASSES.index(name) for name in predicted.split("|") if name]
        assert [float(one) for one in text.split("|") if one] == pytest.approx(share[named], abs=1e-6)
        assert (share > 0.5).sum() == len(named)


def test_two_heads_are_compared_by_the_images_with_all_labels_right(cache: FeatureCache, head: Path) -> None:
    """The other one is wrong in one label of two images, and gives no probabilities."""
    other = head.parent / "other"
    samples = cache.features("val").samples
    guess = samples.labels.astype(np.int64)
    guess[[0, 3], 1] = 1 - guess[[0, 3], 1]
    other.mkdir()
    write_predictions(other, samples, guess, None)
    assert [row[1:] for row in table(other)[1:5]] == [
        ["red", "green|red", ""], ["green", "green", ""], ["blue", "blue", ""], ["green|red", "red", ""],
    ]  # fmt: skip
    found = compare_heads(head, other)
    assert (found.right, found.test.n, found.test.only_first, found.test.only_second) == ((8, 6), 8, 2, 0)
    assert found.to_dict()["accuracy"] == [1.0, 0.75]
    assert done("compare-heads", head, other) == f"{found}\n"


def test_heads_of_other_labels_are_not_compared(head: Path, tmp_path: Path) -> None:
    other = cached(write_pictures(tmp_path / "data", {27: "red"}), tmp_path / "other.h5")
    fit_head(other, tmp_path / "other", head="linear", parameters={"C": 1.0})
    with pytest.raises(HeadError, match="were evaluated on other samples or labels: 8 and 8 val samples, 8 in common"):
        compare_heads(head, tmp_path / "other")


@pytest.mark.usefixtures("_toy")
def test_pictures_get_the_labels_that_the_cache_said(data: Path, cache: FeatureCache, head: Path) -> None:
    found = Classifier.load(head, device="cpu").predict([*pictures(data), data], batch_size=3)
    assert [one.label for one in found] == [*TRUTH, None]
    assert found[-1].error is not None
    shares = load_head(head / "head.safetensors").predict_proba(np.asarray(cache.features("val").clean()))
    told = np.array([[dict(one.top)[name] for name in CLASSES] for one in found[:-1]])
    np.testing.assert_allclose(told, shares, atol=1e-4)
    for one in found[:-1]:
        assert [share for _, share in one.top] == sorted((share for _, share in one.top), reverse=True)


@pytest.mark.usefixtures("_toy")
def test_the_command_says_the_same(data: Path, head: Path) -> None:
    found = as_json("predict", head, *pictures(data), "--top", 1)["predictions"]
    assert [one["label"] for one in found] == TRUTH
    assert all(len(one["top"]) == 1 for one in found)
    direct = Classifier.load(head, device="cpu").predict(pictures(data), top=1)
    assert [one["probability"] for one in found] == [one.probability for one in direct]


@pytest.mark.usefixtures("_toy")
def test_views_of_a_picture_are_averaged(data: Path, tmp_path: Path) -> None:
    cache = cached(data, tmp_path / "tta.h5", val_views=2)
    fit_head(cache, tmp_path / "head", tta=2)
    found = Classifier.load(tmp_path / "head", device="cpu").predict(pictures(data), tta=2)
    rows = table(tmp_path / "head")[1:]
    assert [one.label for one in found] == [row[2] for row in rows]
    for one, row in zip(found, rows, strict=True):
        said = dict(zip(row[2].split("|"), row[3].split("|"), strict=True)) if row[2] else {}
        assert {name: dict(one.top)[name] for name in said} == pytest.approx(
            {name: float(share) for name, share in said.items()}, abs=1e-4
        )


# Forged files


def forged(head: Path, **fields: Any) -> Path:
    card = json.loads((head / FILE).read_text())
    (head / FILE).write_text(json.dumps({**card, **fields}))
    return head


@pytest.mark.usefixtures("_toy")
@pytest.mark.parametrize("classes", [["blue", "green"], ["blue", "green", "red", "violet"]], ids=len)
def test_names_that_are_not_as_many_as_the_labels_are_refused(classes: list[str], data: Path, head: Path) -> None:
    with pytest.raises(HeadError, match=r"classes|labels, and model\.json names"):
        Classifier.load(forged(head, classes=classes), device="cpu").predict(pictures(data))


@pytest.mark.usefixtures("_toy")
@pytest.mark.parametrize("shape", [(2, 3), (4, 3), (3, 2), (3, 4), (1, 3)], ids=str)
def test_weights_of_another_shape_are_refused(shape: tuple[int, int], data: Path, head: Path) -> None:
    save_file({"coef": np.ones(shape), "intercept": np.ones(shape[0])}, head / "head.safetensors")
    drop_hashes(head)
    with pytest.raises(HeadError, match=r"features and|labels, and model\.json names"):
        Classifier.load(head, device="cpu").predict(pictures(data))


@pytest.mark.usefixtures("_toy")
def test_weights_of_no_label_are_refused(head: Path) -> None:
    save_file({"coef": np.ones((0, 3)), "intercept": np.ones(0)}, head / "head.safetensors")
    with pytest.raises(HeadError):
        Classifier.load(head, device="cpu")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"coef": np.ones((3, 3)), "intercept": np.ones(2)}, "its weights do not fit each other"),
        ({"coef": np.ones(3), "intercept": np.ones(3)}, "its weights do not fit each other"),
        ({"coef": np.full((3, 3), np.nan), "intercept": np.ones(3)}, "its weights are not finite"),
        ({"coef": np.ones((3, 3)), "intercept": np.full(3, np.inf)}, "its weights are not finite"),
        ({"coef": np.ones((3, 3))}, "'intercept'"),
    ],
)
def test_weights_that_mean_nothing_are_refused(arrays: dict[str, NDArray[Any]], said: str, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    save_file(arrays, path)
    with pytest.raises(HeadError) as caught:
        load_head(path)
    assert str(caught.value) == f"{path} is not a head that can be loaded safely: {said}"


@pytest.mark.usefixtures("_toy")
@pytest.mark.parametrize("value", [1, "yes", None, [True]], ids=str)
def test_a_card_that_does_not_say_yes_or_no_is_refused(value: Any, head: Path) -> None:
    with pytest.raises(HeadError, match=r"model\.json is damaged: its multilabel is "):
        Classifier.load(forged(head, multilabel=value), device="cpu")


@pytest.mark.usefixtures("_toy")
def test_a_head_of_several_labels_whose_card_denies_it_is_refused(data: Path, head: Path) -> None:
    with pytest.raises(HeadError):
        Classifier.load(forged(head, multilabel=False), device="cpu").predict(pictures(data))


@pytest.mark.usefixtures("_toy")
def test_a_card_from_before_there_were_several_labels_has_one(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_folder({"train/ants": 4, "train/bees": 4, "val/ants": 1, "val/bees": 1})
    fit_head(cached(folder, tmp_path / "one.h5"), tmp_path / "head")
    card = json.loads((tmp_path / "head" / FILE).read_text())
    assert card.pop("multilabel") is False
    (tmp_path / "head" / FILE).write_text(json.dumps(card))
    images = [folder / "val/ants/000.png", folder / "val/bees/000.png"]
    assert [one.label for one in Classifier.load(tmp_path / "head", device="cpu").predict(images)] == ["ants", "bees"]


# The cache


def test_info_counts_labels(cache: FeatureCache) -> None:
    found = as_json("info", cache.path)
    assert found["multilabel"] is True
    assert found["images_by_class"] == {
        "train": {"blue": 12, "green": 12, "red": 12},
        "val": {"blue": 4, "green": 4, "red": 4},
        "test": {"blue": 0, "green": 0, "red": 0},
    }
    assert (found["images"], found["images_by_split"]) == (32, {"train": 24, "val": 8, "test": 0})
    assert done("info", cache.path).splitlines()[2] == "classes     3 (blue, green, red), several an image"


def test_the_cache_gives_the_labels_back(data: Path, cache: FeatureCache) -> None:
    expected = read_manifest(data).samples
    again = FeatureCache.open(cache.path).samples
    assert (again.labels.dtype, again.labels.tolist()) == (np.uint8, expected.labels.tolist())
    assert again.digest() == expected.digest()
    assert cache.features("val").y.tolist()[:4] == [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 1, 1]]
    assert verify(cache.path, data).ok
    assert diff(cache.path, data).same


class Counting(Backbone):
    """The toy, counting the views that it is shown."""

    shown = 0

    def submit(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        type(self).shown += len(pixels)
        return super().submit(pixels)


@pytest.mark.parametrize("changed", [{3: "red", 5: "", 7: "blue|green", 25: "red|green"}, {0: "red|violet"}], ids=str)
def test_changed_labels_take_no_extraction(
    changed: dict[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {name: getattr(toy_backbone(), name) for name in ("image_size", "resize_size", "mean", "std", "name")}
    monkeypatch.setattr(backbone_loading, "load_backbone", lambda *_, **__: Counting(ToyNet(), **options))
    data = write_pictures(tmp_path / "data")
    before = cached(data, tmp_path / "toy.h5")
    features = np.array(before.features("train").x)
    assert update(before.path, data).nothing
    list_pictures(data.parent, changed)
    assert diff(before.path, data).changes == {"with another label": [f"{row:02d}.png" for row in changed]}
    result = update(before.path, data)
    assert result.changes == {"with another label": [f"{row:02d}.png" for row in changed]}
    assert (result.carried, result.extracted, Counting.shown) == (32, 0, 0)
    after = FeatureCache.open(before.path)
    assert after.samples.labels.tolist() == read_manifest(data).samples.labels.tolist()
    assert after.samples.classes == read_manifest(data).samples.classes
    np.testing.assert_array_equal(after.features("train").x, features)
    assert verify(after.path, data).ok


def damage(path: Path, row: int, value: int) -> None:
    """Another number in the labels, sealed as if it had been there."""
    raw = bytearray(path.read_bytes())
    first, second, _ = bytes(raw).split(b"\n", 2)
    header, body = int(first.split()[2]), json.loads(second)
    raw[body["arrays"]["labels"][0] + row] = value
    path.write_bytes(raw)
    with path.open("r+b") as file:
        write_header(file, CACHE, header, body)


def test_labels_other_than_0_and_1_are_damage(cache: FeatureCache, tmp_path: Path) -> None:
    path = tmp_path / "copy.h5"
    path.write_bytes(cache.path.read_bytes())
    damage(path, 4, 1)  # green of the second row, as it was
    assert FeatureCache.open(path).samples.digest() == cache.samples.digest()
    for value in (2, 255):
        damage(path, 4, value)
        with pytest.raises(NotACacheError) as caught:
            FeatureCache.open(path)
        assert str(caught.value) == (
            f"{path} is a damaged feature cache: a label is not one of its classes. Remove it and extract again."
        )


@pytest.mark.parametrize("shape", [[32, 2], [32, 4], [31, 3], [32, 3, 1], [96]], ids=str)
def test_labels_of_another_shape_are_damage(shape: list[int], cache: FeatureCache, tmp_path: Path) -> None:
    path = tmp_path / "copy.h5"
    raw = cache.path.read_bytes()
    first, second, _ = raw.split(b"\n", 2)
    header, body = int(first.split()[2]), json.loads(second)
    body["arrays"]["labels"][1] = shape
    path.write_bytes(raw)
    with path.open("r+b") as file:
        write_header(file, CACHE, header, body)
    with pytest.raises(NotACacheError, match="is a damaged feature cache: labels has shape "):
        FeatureCache.open(path)


def test_a_label_changed_without_the_seal_is_found(cache: FeatureCache, tmp_path: Path) -> None:
    raw = bytearray(cache.path.read_bytes())
    raw[json.loads(bytes(raw).split(b"\n", 2)[1])["arrays"]["labels"][0]] ^= 1
    (tmp_path / "copy.h5").write_bytes(raw)
    with pytest.raises(NotACacheError, match="its tables do not match their hash"):
        FeatureCache.open(tmp_path / "copy.h5")


# What is for one label


def test_what_trains_on_one_label_is_refused(data: Path, tmp_path: Path) -> None:
    said = (
        "{} trains on one label an image, and images in "
        f"{data} have several. Use finetune, or extract and fit-head, which train on several."
    )
    with pytest.raises(DataLayoutError) as caught:
        benchmark(data, out=tmp_path / "report")
    assert str(caught.value) == said.format("benchmark")
    assert refused("benchmark", data, "-o", tmp_path / "report") == said.format("benchmark")
    assert refused("demo", tmp_path / "demo", "--dataset", data) == said.format("demo")


def test_curves_are_of_images_with_all_labels_right(cache: FeatureCache) -> None:
    labels, views = label_curve(cache, shares=(0.5, 1.0), repeats=2), view_curve(cache)
    assert [point.views for point in views.points] == [0, 1, 2]
    assert labels.points[-1].accuracies == views.points[-1].accuracies == (fit_head(cache).accuracy.accuracy,)
    assert labels.points[0].images < labels.points[1].images == 24
    with pytest.raises(HeadError, match="ridge has no probabilities"):
        label_curve(cache, head="ridge")
