"""Curves over labels and views: the draws, and that each point is what a single fit gives."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from caches import cache_of, cache_of_layers, clouds
from featcache.analysis.curves import Curve, Point, curve, draw, gain_from_doubling
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features
from featcache.core.samples import Samples
from featcache.errors import CacheIncompleteError, HeadError
from featcache.heads.fit_head import fit_head
from featcache.metrics.significance import wilson_interval


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    val, y = clouds(90, 3, seed=1)
    return cache_of(tmp_path / "c.h5", clouds(120, 3, views=5), (val[:, 0], y))


def features(counts: list[int], seed: int) -> Features:
    y = np.repeat(np.arange(len(counts)), counts)
    n = len(y)
    hashes = np.random.default_rng(seed).integers(0, 256, (n, 32), dtype=np.uint8)
    samples = Samples(tuple(map(str, range(n))), y, np.zeros(n, np.uint8), hashes, tuple("abcde"[: len(counts)]))
    return Features(np.arange(n, dtype=np.float32)[:, None, None], samples)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=5),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
    st.integers(0, 2**32 - 1),
)
def test_a_draw_is_a_share_of_each_class_and_lies_within_a_larger_one(
    counts: list[int], first: float, second: float, seed: int
) -> None:
    train = features(counts, seed)
    small, large = (draw(train, share, seed) for share in sorted((first, second)))
    expected = [min(count, max(2, round(min(first, second) * count))) for count in counts]
    assert np.bincount(train.y[small], minlength=len(counts)).tolist() == expected
    assert set(small.tolist()) <= set(large.tolist())
    assert np.all(np.diff(small) > 0)
    assert draw(train, 1.0, seed).tolist() == list(range(len(train.y)))


def test_repeats_draw_other_images() -> None:
    train = features([50, 50], 0)
    assert draw(train, 0.2, 0).tolist() != draw(train, 0.2, 1).tolist()


def test_all_labels_are_what_fit_head_gives_and_more_labels_are_better(cache: FeatureCache) -> None:
    steps: list[tuple[str, int, int]] = []
    result = curve(
        cache, head="linear", fractions=(0.05, 0.5, 1.0), repeats=3, progress=lambda *step: steps.append(step)
    )
    assert [point.images for point in result.points] == [6, 60, 120]
    assert [len(point.accuracies) for point in result.points] == [3, 3, 1]
    last = result.points[-1]
    assert last.accuracy == fit_head(cache, head="linear").accuracy.accuracy
    assert last.interval == wilson_interval(round(last.accuracy * 90), 90)
    assert result.points[0].accuracy < last.accuracy
    assert len(set(result.points[0].accuracies)) > 1
    assert steps == [("labels", done, 3) for done in (1, 2, 3)]
    fields = result.to_dict()
    assert (fields["over"], fields["head"], fields["n"]) == ("labels", "linear", 90)
    assert fields["points"][2]["accuracy"] == last.accuracy
    assert "  100%      120      4" in str(result)
    assert (result.layers, result.note) == (("penultimate",), "")
    assert str(result).startswith("linear on penultimate: val accuracy (n = 90) against labels\n")


@pytest.fixture
def layered(tmp_path: Path) -> FeatureCache:
    """Of two layers, the penultimate one tells nothing, and the other one the class."""

    def drawn(n: int, views: int, seed: int) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
        y = np.arange(n) % 3
        noise, told = np.random.default_rng(seed).normal(size=(2, n, views, 6)).astype(np.float32)
        return {"penultimate": noise, "blocks.3": told + 2 * np.eye(6, dtype=np.float32)[y][:, None]}, y

    return cache_of_layers(tmp_path / "layers.h5", drawn(150, 2, 0), drawn(90, 1, 1))


@pytest.mark.parametrize("over", ["labels", "views"])
def test_the_head_and_the_layers_are_those_of_fit_head_on_all_of_train(
    over: Literal["labels", "views"], layered: FeatureCache
) -> None:
    chosen = fit_head(layered)
    assert "blocks.3" in chosen.layers
    options: dict[str, Any] = {"fractions": (0.1, 1.0), "repeats": 2} if over == "labels" else {}
    result = curve(layered, over=over, **options)
    assert (result.head, result.layers) == (chosen.name, chosen.layers)
    said = "The head and the layers were chosen once, by cross-validation on all 150 training samples."
    assert result.note == str(result).splitlines()[1] == said
    named = curve(layered, over=over, head=chosen.name, layer=",".join(chosen.layers), **options)
    assert named.note == ""
    assert [point._replace(seconds=0) for point in result.points] == [
        point._replace(seconds=0) for point in named.points
    ]
    assert result.points[-1].accuracy == pytest.approx(chosen.accuracy.accuracy, abs=0.03)  # weights may differ
    assert all(len(point.train_accuracies) == len(point.accuracies) for point in result.points)
    assert Curve.from_dict(result.to_dict()) == result


def test_what_is_named_is_not_chosen(layered: FeatureCache) -> None:
    by_head = curve(layered, head="ridge", fractions=(1.0,))
    assert (by_head.head, by_head.layers) == ("ridge", fit_head(layered, head="ridge").layers)
    assert by_head.note == "The layers were chosen once, by cross-validation on all 150 training samples."
    by_layer = curve(layered, layer="penultimate", fractions=(1.0,))
    assert (by_layer.head, by_layer.layers) == (fit_head(layered, layer="penultimate").name, ("penultimate",))
    assert by_layer.note == "The head was chosen once, by cross-validation on all 150 training samples."
    neighbors = curve(layered, head="knn", fractions=(1.0,))
    assert (neighbors.layers, neighbors.note) == (("penultimate",), "")


def test_what_the_budget_leaves_out_is_said(layered: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featcache.heads.tuning.selection.BUDGET_S", 0.0)
    monkeypatch.setattr("featcache.heads.fit.BUDGET_S", 0.0)
    result = curve(layered, fractions=(1.0,))
    assert result.head == "lda"
    assert "linear was left out: the budget was spent." in result.note
    assert re.search(r"\d choices of layers were not compared: the budget was spent\.$", result.note)


@pytest.mark.parametrize("head", ["sgd", "forest"])
def test_a_head_that_chooses_nothing_has_no_curve(head: str, cache: FeatureCache) -> None:
    with pytest.raises(HeadError, match=f"^the head of a curve must be auto or one of .*lda.*; got {head}$"):
        curve(cache, head=head)


def test_shares_that_draw_the_same_are_one_point(cache: FeatureCache) -> None:
    result = curve(cache, fractions=(0.01, 0.02, 0.05), repeats=1, head="centroid")
    assert [point.images for point in result.points] == [6]


def test_views_go_from_none_to_all(cache: FeatureCache) -> None:
    result = curve(cache, over="views", head="ridge")
    assert [point.views for point in result.points] == [0, 1, 2, 4]
    assert result.points[-1].accuracy == fit_head(cache, head="ridge").accuracy.accuracy
    assert result.points[0].accuracy == fit_head(cache, head="ridge", use_views="clean").accuracy.accuracy


def test_the_accuracy_of_a_point_is_the_median() -> None:
    assert Point(0.1, 5, 0, (0.9, 0.5, 0.6), 1.0, (0.0, 1.0)).accuracy == 0.6


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_that_is_none_is_refused(share: float, cache: FeatureCache) -> None:
    with pytest.raises(HeadError, match=f"^a fraction of the labels must be above 0 and at most 1; got {share:g}$"):
        curve(cache, fractions=(share,))


def test_more_views_than_there_are_are_refused(cache: FeatureCache) -> None:
    with pytest.raises(CacheIncompleteError, match=r"^5 augmented views were asked for, but these features hold 4"):
        cache.features("train").with_views(5)


def test_a_curve_is_over_labels_or_views(cache: FeatureCache) -> None:
    with pytest.raises(HeadError, match=r"^a curve is over 'labels' or 'views'; got 'heads'$"):
        curve(cache, over="heads")  # type: ignore[arg-type]


def made(*points: tuple[int, float], train: float | None = None, over: str = "labels", n: int = 100) -> Curve:
    """Images and val accuracy of each point, with n val images; train : accuracy of each on train."""
    on_train = () if train is None else (train,)
    made_points = (Point(0.5, images, 0, (accuracy,), 0.1, (0.0, 1.0), on_train) for images, accuracy in points)
    return Curve(over, "linear", tuple(made_points), n)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("points", "gain"),
    [
        (((10, 0.6), (20, 0.8)), 0.1),  # halved errors are halved again
        (((10, 0.2), (20, 0.6), (40, 0.8)), 0.1),
        (((10, 0.8), (20, 0.8)), 0.0),
        (((10, 0.9), (20, 0.8)), 0.0),  # noise: more labels do no harm
        (((10, 0.9), (20, 1.0)), 0.0),
        (((10, 0.9), (40, 0.975)), 0.0125),  # two doublings, a quarter of the errors
        # errors of 0.02 times 4, 1/4 and 1 at 0, 1 and 3 doublings, as 0 is half an image: the line through their
        # logarithms falls by 3/7 in each
        (((5, 0.92), (10, 1.0), (40, 0.98)), 0.02 * (1 - 2 ** (-3 / 7))),
    ],
)
def test_errors_go_on_falling_as_a_power_of_the_images(points: tuple[tuple[int, float], ...], gain: float) -> None:
    assert gain_from_doubling(points, 100) == pytest.approx(gain, abs=1e-12)


def test_only_the_last_two_doublings_are_extrapolated() -> None:
    assert made((9, 0.1), (10, 0.2), (20, 0.6), (40, 0.8)).gain_from_doubling == pytest.approx(0.1)
    assert made((9, 0.1), (40, 0.8)).gain_from_doubling is None
    assert made((40, 0.7), (40, 0.8)).gain_from_doubling is None
    assert made().gain_from_doubling is None
    assert made((20, 0.6), (40, 0.8), over="views").gain_from_doubling is None


@pytest.mark.parametrize(
    ("train", "reading"),
    [
        (
            1.0,
            "0.0% of train and 20.0% of val wrongly: it fits train much better than val, as with too few labels.",
        ),
        (0.95, "5.0% of train and 20.0% of val wrongly: it fits train much better than val, as with too"),
        (0.85, "15.0% of train and 20.0% of val wrongly: it underfits: other layers or another network may help"),
    ],
)
def test_the_gap_between_train_and_val_tells_whether_labels_lack(train: float, reading: str) -> None:
    gain, gap = made((200, 0.6), (400, 0.8), train=train, n=1000).remarks
    assert gain.startswith("Twice the labels would add about 10.0 points, if errors continue to fall")
    assert gap.startswith(f"With 400 samples, the head predicts {reading}")


@pytest.mark.parametrize(
    ("train", "accuracy", "n", "said"),
    [
        # errors on train and half of val: 0.13 - 0.10; two standard errors: 2 * (0.113 / 400 + 0.16 / 4 / n) ** 0.5
        (0.87, 0.8, 300, 1),  # 0.0409
        (0.87, 0.8, 30_000, 1),  # 0.0337
        (0.865, 0.8, 30_000, 2),  # 0.035 against 0.0343
        (0.865, 0.8, 300, 1),
        (1.0, 0.99, 100, 1),  # one error on val, none on train
        (1.0, 0.97, 100, 1),  # 0.015 against 0.0171
        (1.0, 0.9, 100, 2),  # 0.05 against 0.03
    ],
)
def test_nothing_is_said_of_train_and_val_if_they_differ_by_noise(
    train: float, accuracy: float, n: int, said: int
) -> None:
    assert len(made((200, 0.6), (400, accuracy), train=train, n=n).remarks) == said


def test_the_remarks_are_of_the_most_images_in_any_order() -> None:
    points = ((40, 0.8), (10, 0.2), (20, 0.6))
    curves = [made(*order, train=1.0) for order in (points, sorted(points))]
    assert curves[0].gain_from_doubling == curves[1].gain_from_doubling == pytest.approx(0.1)
    assert curves[0].remarks == curves[1].remarks
    assert "With 40 samples" in curves[0].remarks[1]


def test_fractions_are_sorted_and_drawn_once(cache: FeatureCache) -> None:
    steps: list[tuple[str, int, int]] = []
    shuffled = curve(
        cache,
        fractions=(1.0, 0.25, 0.5, 0.25),
        repeats=2,
        head="ridge",
        progress=lambda *step: steps.append(step),
    )
    assert [point.images for point in shuffled.points] == [30, 60, 120]
    assert steps == [("labels", done, 3) for done in (1, 2, 3)]
    ascending = curve(cache, fractions=(0.25, 0.5, 1.0), repeats=2, head="ridge")
    assert shuffled.remarks == ascending.remarks


def test_the_typical_error_is_that_of_the_benchmark() -> None:
    """The sentence about twice the labels cites the median error of `benchmarks/label_curve.py`."""
    results = json.loads((Path(__file__).parents[2] / "benchmarks/results/label_curve.json").read_text())
    (remark,) = made((20, 0.6), (40, 0.8)).remarks
    assert remark.endswith(f"; the typical error of this figure is {results['median error, points']:.1f} points.")


def test_a_curve_without_errors_or_over_views_has_no_remark_on_labels() -> None:
    assert len(made((20, 0.9), (40, 1.0), train=1.0).remarks) == 1
    assert made((20, 0.9), train=1.0, over="views").remarks == made().remarks == ()


def test_the_accuracy_on_train_is_that_of_the_fitted_head(cache: FeatureCache) -> None:
    x, y = (part[:120] for part in (cache.features("train").clean(), cache.features("train").y))
    (point,) = curve(cache, fractions=(1.0,), head="ridge").points
    expected = float((fit_head(cache, head="ridge").estimator.predict(np.asarray(x, np.float32)) == y).mean())
    assert point.train_accuracies == (expected,)
    assert point.train_accuracy == expected < 1
    (half,) = curve(cache, fractions=(0.5,), head="centroid", repeats=3).points
    assert len(half.train_accuracies) == 3


def test_of_neighbours_there_is_no_accuracy_on_train(cache: FeatureCache) -> None:
    """An image is its own nearest neighbour."""
    result = curve(cache, fractions=(0.5, 1.0), repeats=1, head="knn")
    assert result.points[-1].train_accuracies == ()
    assert result.points[-1].train_accuracy is None
    assert len(result.remarks) == 1


def test_a_curve_of_an_older_version_has_no_accuracy_on_train() -> None:
    values = made((20, 0.6), (40, 0.8), train=0.9).to_dict()
    assert values["gain_from_doubling"] == pytest.approx(0.1)
    assert Curve.from_dict(values) == made((20, 0.6), (40, 0.8), train=0.9)
    del values["layers"], values["note"]
    for point in values["points"]:
        del point["train_accuracies"], point["train_accuracy"]
    assert Curve.from_dict(values) == made((20, 0.6), (40, 0.8))
    for name, wrong in (("layers", [3]), ("note", None)):
        with pytest.raises(TypeError, match="not those of a curve"):
            Curve.from_dict({**values, name: wrong})
    values["points"][0]["train_accuracies"] = [1.5]
    with pytest.raises(TypeError, match="not those of a curve"):
        Curve.from_dict(values)


def test_a_cache_without_views_has_no_curve_over_views(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cache = FeatureCache.from_arrays(rng.normal(size=(40, 4)), np.arange(40) % 2)
    with pytest.raises(HeadError, match=r"has no augmented views, so there is no curve .* DATA --views 4$"):
        curve(cache, over="views")
