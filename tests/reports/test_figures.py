"""The pictures show what is in the files."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from caches import clouds
from commands import toy_cache, write_folder
from featcache.analysis.curves import Curve, Point
from featcache.cache.feature_cache import FeatureCache
from featcache.core.model_card import ModelCard
from featcache.core.specs import ExtractSpec, ViewSpec
from featcache.errors import CacheIncompleteError, FeatcacheError, HeadError, PictureError
from featcache.extraction.extract import extract
from featcache.heads.fit_head import fit_head
from featcache.metrics.calibration import reliability
from featcache.reports.cache_figures import map_figure, views_figure
from featcache.reports.model_figures import (
    confusion_figure,
    coverage_figure,
    curve_figure,
    has_sets,
    history_figure,
    novelty_figure,
    predictions_figure,
    reliability_figure,
)
from featcache.reports.projection import project
from featcache.reports.style import DrawFigure, save
from featcache.training.loop import EpochMetrics
from featcache.vision.augment import make_views
from featcache.vision.decode import decode
from featcache.vision.views.geometry import shrink
from outcomes import four_routes
from several import write_pictures
from toys import random_image, toy_backbone

COUNTS = {"train/ants": 7, "train/bees": 6, "val/ants": 12, "val/bees": 12}
SPEC = ExtractSpec("toy", "ab" * 32, ViewSpec(8, 10, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)), views=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Val has an ant, 000, that looks like a bee."""
    root = write_folder(tmp_path_factory.mktemp("pictures") / "photos", COUNTS)
    random_image(7, tint=1).save(root / "val/ants/000.png")
    return root


@pytest.fixture(scope="module")
def cache(data: Path) -> Path:
    return toy_cache(data, data.parent / "toy.h5")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file of images with several labels, and beside it a cache and a head."""
    data = write_pictures(tmp_path_factory.mktemp("several") / "data")
    extract(data, data.parent / "toy.h5", backbone=toy_backbone(), views=1, workers=2)
    fit_head(data.parent / "toy.h5", data.parent / "head")
    return data


def views_of(path: Path, spec: ViewSpec, numbers: range) -> NDArray[np.uint8]:
    content = path.read_bytes()
    return make_views(decode(content), spec, hashlib.sha256(content).digest(), numbers)


def rows_of(figure: Figure) -> list[tuple[str, list[NDArray[np.uint8]]]]:
    """Label and views of each row of a gallery."""
    rows: list[tuple[str, list[NDArray[np.uint8]]]] = []
    for axes in figure.axes:
        if axes.get_ylabel():  # in blocks side by side, too
            rows.append((axes.get_ylabel(), []))
        rows[-1][1].extend(np.asarray(image.get_array()) for image in axes.images)
    return rows


def files_of(figure: Figure, files: list[Path], spec: ViewSpec) -> list[Path]:
    """The files whose clean views stand first in the rows."""
    clean = {views_of(path, spec, range(1))[0].tobytes(): path for path in files}
    return [clean[views[0].tobytes()] for _, views in rows_of(figure)]


def refusal(make: Callable[[], object], error: type[FeatcacheError] = PictureError) -> str:
    with pytest.raises(error) as caught:
        make()
    return str(caught.value)


# Views


def test_the_views_are_those_that_the_cache_has_seen(data: Path, cache: Path) -> None:
    spec = FeatureCache.open(cache).spec.view
    figure = views_figure(cache, data, images=5)()
    paths = files_of(figure, sorted(data.glob("train/*/*.png")), spec)
    assert len(set(paths)) == 5
    for path, (label, views) in zip(paths, rows_of(figure), strict=True):
        assert label == path.parent.name
        assert_array_equal(np.stack(views), views_of(path, spec, range(3)))
    assert [axes.get_title() for axes in figure.axes[:3]] == ["view 0: clean", "view 1", "view 2"]
    assert figure.get_suptitle() == "2 augmented views (gentle) of each image"


def test_large_views_are_made_small(data: Path, tmp_path: Path) -> None:
    backbone = toy_backbone(image_size=200, resize_size=210)
    cache = extract(data, tmp_path / "large.h5", backbone=backbone, views=1, workers=2).cache
    ((_, views),) = rows_of(views_figure(cache, data, images=1)())
    whole = {
        shrink(views_of(path, cache.spec.view, range(1))[0], 160).tobytes(): path for path in data.glob("train/*/*.png")
    }
    path = whole[views[0].tobytes()]
    assert views[1].shape == (160, 160, 3)
    assert_array_equal(views[1], shrink(views_of(path, cache.spec.view, range(2))[1], 160))


def test_classes_take_turns_by_lot(data: Path, cache: Path) -> None:
    spec = FeatureCache.open(cache).spec.view
    files = sorted(data.glob("train/*/*.png"))
    assert [label for label, _ in rows_of(views_figure(cache, data, images=4)())] == ["ants", "bees"] * 2
    drawn = [files_of(views_figure(cache, data, 4, seed)(), files, spec) for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len(set(map(tuple, drawn))) > 1
    everything = files_of(views_figure(cache, data, images=50)(), files, spec)
    assert sorted(everything) == files
    assert everything[-1].parent.name == "ants"  # there are seven ants and six bees
    assert everything[:4] == drawn[0]


def test_more_than_eight_views_are_not_shown(data: Path, tmp_path: Path) -> None:
    cache = toy_cache(data, tmp_path / "toy.h5", views=9)
    ((_, views),) = rows_of(views_figure(cache, data, images=1)())
    assert len(views) == 9


def test_without_augmented_views_the_clean_one_is_shown(data: Path, tmp_path: Path) -> None:
    cache = toy_cache(data, tmp_path / "toy.h5", views=0)
    figure = views_figure(cache, data, images=2)()
    assert [len(views) for _, views in rows_of(figure)] == [1, 1]
    assert figure.get_suptitle() == "clean views; no augmented views are stored"


def test_skipped_images_are_not_shown(data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "photos"))
    (copy / "train/ants/003.png").write_bytes(b"no picture")
    cache = FeatureCache.open(toy_cache(copy, tmp_path / "toy.h5"))
    files = [
        copy / name for name in cache.samples.ids if name.startswith("train") and not name.endswith("ants/003.png")
    ]
    figure = views_figure(cache, copy, images=50)()
    assert sorted(files_of(figure, files, cache.spec.view)) == sorted(files)
    assert len(files) == 12


def test_without_a_readable_image_there_are_no_views(data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "photos"))
    for path in copy.glob("train/*/*"):
        path.write_bytes(path.as_posix().encode())
    cache = toy_cache(copy, tmp_path / "toy.h5")
    assert refusal(lambda: views_figure(cache, copy)) == f"{cache} has no readable train images"


def test_a_csv_and_several_labels_are_data_too(several: Path) -> None:
    figure = views_figure(several.parent / "toy.h5", several, images=8)()
    spec = FeatureCache.open(several.parent / "toy.h5").spec.view
    paths = files_of(figure, sorted(several.parent.glob("*.png")), spec)
    listed = dict(line.split(",")[:2] for line in several.read_text().splitlines()[1:])
    expected = ["|".join(sorted(listed[path.name].split("|"))) or "none" for path in paths]
    assert [label for label, _ in rows_of(figure)] == expected
    assert {"none", "blue", "green", "red"} <= set(expected)


def test_an_image_that_changed_or_is_gone_is_named(data: Path, cache: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "photos"))
    path = copy / FeatureCache.open(cache).samples.ids[0]
    path.write_bytes((copy / "val/bees/000.png").read_bytes())
    assert refusal(lambda: views_figure(cache, copy, images=50)) == (
        f"{path} is not the image that the cache was made from. See `featcache diff`."
    )
    path.unlink()
    assert refusal(lambda: views_figure(cache, copy, images=50)) == (
        f"{path} does not exist. Give the folder or the CSV that the images were taken from."
    )


# Predictions

ROWS = """\
val/ants/000.png,ants,bees,0.700000
val/ants/001.png,ants,ants,0.900000
val/ants/002.png,ants,ants,0.600000
val/ants/003.png,ants,bees,0.990000
val/ants/004.png,ants,ants,0.510000
val/bees/000.png,bees,ants,0.550000
val/bees/001.png,bees,bees,1.000000
val/bees/002.png,bees,bees,0.800000
"""
ORDER = [("val/ants/003", "✗ bees 99%"), ("val/ants/000", "✗ bees 70%"), ("val/bees/000", "✗ ants 55%"),
         ("val/ants/004", "✓ ants 51%"), ("val/ants/002", "✓ ants 60%"), ("val/bees/002", "✓ bees 80%"),
         ("val/ants/001", "✓ ants 90%"), ("val/bees/001", "✓ bees 100%")]  # fmt: skip


def model(folder: Path, rows: str = ROWS, spec: ExtractSpec = SPEC, multilabel: bool = False) -> Path:
    """A model that predicted these rows."""
    folder.mkdir()
    metrics = {"confusion": [[3, 2], [1, 2]]}
    classes = ("ants", "bees")
    ModelCard(
        "head", "head.safetensors", "linear", classes, spec, "pretrained", "penultimate", metrics, multilabel
    ).write(folder)
    (folder / "val.csv").write_text(f"image,label,predicted,probability\n{rows}")
    return folder


def titles(figure: DrawFigure) -> list[tuple[NDArray[np.uint8], str]]:
    """Pixels and title of each image of a grid."""
    return [(np.asarray(axes.images[0].get_array()), axes.get_title()) for axes in figure().axes if axes.images]


@pytest.mark.parametrize(
    ("images", "shown", "title"),
    [
        (24, range(8), "3 of 3 mistakes, the most confident first; 8 val images"),
        (6, range(6), "3 of 3 mistakes, the most confident first; 8 val images"),
        (4, range(4), "3 of 3 mistakes, the most confident first; 8 val images"),
        (3, [0, 1, 3], "2 of 3 mistakes, the most confident first; 8 val images"),
        (1, [0], "1 of 3 mistakes, the most confident first; 8 val images"),
    ],
)
def test_the_surest_mistakes_come_first_then_the_least_sure_that_are_right(
    images: int, shown: range | list[int], title: str, data: Path, tmp_path: Path
) -> None:
    picture = predictions_figure(model(tmp_path / "head"), data, images)
    shown_images = titles(picture)
    assert [text for _, text in shown_images] == [ORDER[index][1] for index in shown]
    for (pixels, _), index in zip(shown_images, shown, strict=True):
        assert_array_equal(pixels, views_of(data / f"{ORDER[index][0]}.png", SPEC.view, range(1))[0])
    assert picture().get_suptitle() == title


def test_where_few_are_right_mistakes_fill_the_cells(data: Path, tmp_path: Path) -> None:
    rows = "".join(f"val/ants/{row:03d}.png,ants,{'ants' if row == 3 else 'bees'},0.{90 - row}\n" for row in range(12))
    texts = [text for _, text in titles(predictions_figure(model(tmp_path / "head", rows), data, 8))]
    assert texts == [f"✗ bees {share}%" for share in (90, 89, 88, 86, 85, 84, 83)] + ["✓ ants 87%"]


def test_no_mistakes_are_told(data: Path, tmp_path: Path) -> None:
    rows = "val/ants/001.png,ants,ants,0.9\nval/bees/001.png,bees,bees,0.8\n"
    picture = predictions_figure(model(tmp_path / "head", rows), data)
    assert [text for _, text in titles(picture)] == ["✓ bees 80%", "✓ ants 90%"]
    assert picture().get_suptitle() == "no mistakes; 2 val images"


def test_heads_without_probabilities_are_shown_in_the_order_of_the_table(data: Path, tmp_path: Path) -> None:
    rows = "val/ants/001.png,ants,ants,\nval/ants/002.png,ants,bees,\nval/bees/001.png,bees,bees,\n"
    texts = [text for _, text in titles(predictions_figure(model(tmp_path / "head", rows), data))]
    assert texts == ["✗ bees", "✓ ants", "✓ bees"]


def test_of_several_labels_the_least_sure_one_counts(data: Path, tmp_path: Path) -> None:
    rows = (
        "val/ants/001.png,ants|bees,ants,0.700000\n"
        "val/ants/002.png,ants,ants|bees,0.990000|0.800000\n"
        "val/ants/003.png,bees,,\n"
        "val/ants/004.png,ants|bees,ants|bees,0.600000|0.900000\n"
    )
    picture = predictions_figure(model(tmp_path / "head", rows, multilabel=True), data)
    assert [text for _, text in titles(picture)] == ["✗ ants|bees 80%", "✗ ants 70%", "✗ none", "✓ ants|bees 60%"]
    assert [axes.get_xlabel() for axes in picture().axes] == ["label: ants", "label: ants|bees", "label: bees", ""]


def test_a_real_head_of_several_labels_is_shown(several: Path) -> None:
    drawn = titles(predictions_figure(several.parent / "head", several))
    assert len(drawn) == 8
    assert {text.split()[1] for _, text in drawn} <= {
        "none", "blue", "green", "red", "blue|green", "blue|red", "green|red", "blue|green|red"}  # fmt: skip


def test_an_image_that_is_gone_or_no_picture_is_named(data: Path, tmp_path: Path) -> None:
    head = model(tmp_path / "head")
    assert refusal(lambda: predictions_figure(head, tmp_path)) == (
        f"{tmp_path / 'val/ants/003.png'} does not exist. Give the folder or the CSV that the images were taken from."
    )
    copy = Path(shutil.copytree(data, tmp_path / "photos"))
    (copy / "val/ants/003.png").write_bytes(b"")
    assert refusal(lambda: predictions_figure(head, copy)) == (
        f"{copy / 'val/ants/003.png'} cannot be read: the file is empty (0 bytes)"
    )


def test_what_is_no_model_is_refused(data: Path, tmp_path: Path) -> None:
    for make in (lambda: predictions_figure(tmp_path, data), lambda: confusion_figure(tmp_path)):
        assert refusal(make, HeadError).startswith(f"{tmp_path} is not a saved model: it has no model.json.")
    head = model(tmp_path / "head")
    (head / "val.csv").unlink()
    for make in (lambda: predictions_figure(head, data), lambda: reliability_figure(head)):
        assert refusal(make, HeadError).startswith(f"{head} has no val.csv.")


# Numbers


def test_the_confusion_is_that_of_the_model(tmp_path: Path) -> None:
    axes = confusion_figure(model(tmp_path / "head"))().axes[0]
    assert_allclose(np.asarray(axes.images[0].get_array()), [[0.6, 0.4], [1 / 3, 2 / 3]])
    assert [text.get_text() for text in axes.texts] == ["3", "2", "1", "2"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["ants", "bees"]


def test_the_reliability_is_that_of_the_predictions(tmp_path: Path) -> None:
    top, _ = reliability_figure(model(tmp_path / "head"))().axes
    confidence = np.array([float(line.split(",")[3]) for line in ROWS.splitlines()])
    right = np.array([line.split(",")[1] == line.split(",")[2] for line in ROWS.splitlines()])
    sums = reliability(confidence, right)
    sums = sums[sums[:, 0] > 0]
    point = top.containers[0].lines[0]
    assert_allclose(point.get_xdata(), sums[:, 1] / sums[:, 0])
    assert_allclose(point.get_ydata(), sums[:, 2] / sums[:, 0])
    assert top.get_title().endswith("(n = 8)")


def overlapping() -> FeatureCache:
    """400 samples of four overlapping clouds, a fifth of them val."""
    x, y = clouds(400, 4)
    return FeatureCache.from_arrays(x, [f"c{label}" for label in y])


def test_the_coverage_is_that_of_the_report(tmp_path: Path) -> None:
    fit = fit_head(overlapping(), tmp_path / "head", head="ridge")
    top, bottom = coverage_figure(tmp_path / "head")().axes
    assert bottom.lines[0].get_ydata().tolist() == [one.mean_size for one in fit.sets]
    points = top.containers[0].lines[0]
    assert points.get_xdata().tolist() == [0.8, 0.9, 0.95, 0.99]
    assert points.get_ydata().tolist() == [one.coverage for one in fit.sets]


def test_a_head_of_averaged_views_has_no_sets_and_its_page_no_note(tmp_path: Path) -> None:
    """Its held-out scores are of the clean view, and saved all the same."""
    x, y = clouds(400, 4, views=3)
    fit_head(FeatureCache.from_arrays(x, [f"c{label}" for label in y]), tmp_path / "head", head="ridge", tta=2)
    assert (tmp_path / "head" / "held-out.safetensors").exists()
    assert not has_sets(tmp_path / "head")


def test_the_curve_of_unknown_samples_is_that_of_the_report(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(240) % 3
    cache = FeatureCache.from_arrays(rng.normal(size=(240, 6)) + 3 * np.eye(6)[y], y)
    fit = fit_head(cache, tmp_path / "head", head="lda")
    assert fit.novelty
    (axes,) = novelty_figure(tmp_path / "head")().axes
    _chance, curve, limit = axes.get_lines()
    assert curve.get_xdata().tolist() == pytest.approx(np.linspace(0, 1, 21).tolist())
    assert curve.get_ydata().tolist() == list(fit.novelty.curve)
    assert (limit.get_xdata()[0], limit.get_ydata()[0]) == (pytest.approx(0.05), fit.novelty.refused)
    two = FeatureCache.from_arrays(rng.normal(size=(80, 6)), y[:80] % 2)
    fit_head(two, tmp_path / "two", head="lda")
    assert "they take three classes or more" in refusal(lambda: novelty_figure(tmp_path / "two"))


def test_a_head_without_held_out_samples_has_no_coverage(tmp_path: Path) -> None:
    fit_head(overlapping(), tmp_path / "head", head="logreg")
    assert "has no figures of sets of labels" in refusal(lambda: coverage_figure(tmp_path / "head"))


def test_without_probabilities_there_is_no_reliability(tmp_path: Path) -> None:
    head = model(tmp_path / "head", ROWS + "val/bees/003.png,bees,bees,\n")
    assert refusal(lambda: reliability_figure(head)) == (
        f"{head} has no probabilities: fit it with --calibrate, or use another head."
    )


def test_several_labels_have_no_confusion_and_no_reliability(tmp_path: Path) -> None:
    head = model(tmp_path / "head", multilabel=True)
    end = f"needs one label per sample; those of {head} have several."
    assert refusal(lambda: confusion_figure(head)) == f"A confusion matrix {end}"
    assert refusal(lambda: reliability_figure(head)) == f"A reliability diagram {end}"


def test_the_history_is_that_of_the_report(tmp_path: Path) -> None:
    epochs = [EpochMetrics(1, 0.1, 1.5, 0.5, 1.25, 0.6, 2.0), EpochMetrics(2, 0.1, 1.0, 0.7, 0.75, 0.9, 2.0)]
    (tmp_path / "run.json").write_text(json.dumps({"history": [asdict(epoch) for epoch in epochs]}))
    left, right = history_figure(tmp_path)().axes
    assert [list(line.get_ydata()) for line in left.lines] == [[1.5, 1.0], [1.25, 0.75]]
    assert list(right.lines[1].get_ydata()) == [0.6, 0.9]


def test_a_head_of_epochs_has_a_history(cache: Path, tmp_path: Path) -> None:
    fit = fit_head(cache, tmp_path / "head", head="sgd", parameters={"epochs": 2, "lr": 0.5, "batch_size": 4})
    left, right = history_figure(tmp_path / "head")().axes
    assert_allclose(np.array(left.lines[0].get_ydata(), float), [epoch.loss for epoch in fit.history])
    assert list(right.lines[1].get_ydata()) == [epoch.val_accuracy for epoch in fit.history]
    assert save(history_figure(tmp_path / "head"), tmp_path / "history.png").stat().st_size > 0


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_training_that_diverged_has_a_history(epochs: int, tmp_path: Path) -> None:
    """In JSON a loss that is no finite number is null."""
    whole = [asdict(EpochMetrics(epoch, 0.1, 1.5, 0.5, 1.25, 0.6, 2.0)) for epoch in range(1, epochs)]
    lost = {**asdict(EpochMetrics(epochs, 0.1, 1.5, 0.5, 1.25, 0.9, 2.0)), "loss": None, "val_loss": None}
    (tmp_path / "run.json").write_text(json.dumps({"history": [*whole, lost]}))
    assert save(history_figure(tmp_path), tmp_path / "history.png").stat().st_size > 0
    if epochs > 1:
        left, right = history_figure(tmp_path)().axes
        assert np.isnan(left.lines[1].get_ydata()[-1])
        assert list(right.lines[2].get_xdata()) == [1, 1]  # the kept epoch, though the last seems better


def test_a_head_without_epochs_has_no_history(cache: Path, tmp_path: Path) -> None:
    fit_head(cache, tmp_path / "head", head="centroid")
    assert refusal(lambda: history_figure(tmp_path / "head")) == (
        f"{tmp_path / 'head'} was not trained in epochs: give a run of `featcache finetune` or a head of "
        "`fit-head --head sgd`."
    )
    assert refusal(lambda: history_figure(tmp_path)) == f"{tmp_path / 'run.json'} does not exist."


LABELS = Curve("labels", "ridge", (Point(0.5, 12, 2, (0.8, 0.9), 0.5, (0.7, 0.9)),
                                   Point(1.0, 24, 2, (0.95,), 1.5, (0.8, 0.98))), 153)  # fmt: skip
VIEWS = Curve("views", "knn", (Point(1.0, 24, 0, (0.9,), 0.25, (0.84, 0.94)),), 153)


def written(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def title(picture: DrawFigure) -> str:
    return str(picture().get_suptitle())


def test_a_curve_is_read_from_what_either_command_wrote(tmp_path: Path) -> None:
    alone = written(tmp_path / "curve.json", LABELS.to_dict())
    figure = curve_figure(alone)()
    assert list(figure.axes[0].lines[1].get_ydata()) == pytest.approx([0.85, 0.95])
    assert (
        title(curve_figure(alone))
        == title(curve_figure(alone, "labels"))
        == "ridge head, 12 to 24 labels: accuracy 0.850 to 0.950"
    )
    assert refusal(lambda: curve_figure(alone, "views")) == f"{alone} has no curve over views."
    result = four_routes()
    result.curves.extend([VIEWS, LABELS])
    report = written(tmp_path / "report.json", result.to_dict())
    assert title(curve_figure(report)) == title(curve_figure(report, "views")) == "knn head, 0 views: accuracy 0.900"
    assert title(curve_figure(report, "labels")) == "ridge head, 12 to 24 labels: accuracy 0.850 to 0.950"
    none = written(tmp_path / "none.json", four_routes().to_dict())
    assert refusal(lambda: curve_figure(none)) == f"{none} has no curve over views or labels."


@pytest.mark.parametrize(
    "value", [{}, {"curves": None}, {"curves": [3]}, {"points": []}, {"curves": [{"points": [1]}]}]
)
def test_a_file_without_a_curve_is_refused(value: object, tmp_path: Path) -> None:
    path = written(tmp_path / "some.json", value)
    assert refusal(lambda: curve_figure(path)) == (
        f"{path} has no curve: give the output of `featcache curve --json`, or the report.json of a benchmark."
    )


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff", b"3"])
def test_a_file_that_is_not_ours_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_bytes(content)
    assert refusal(lambda: curve_figure(path)).startswith(f"{path} is not JSON that featcache wrote: ")
    assert refusal(lambda: curve_figure(tmp_path / "gone.json")) == f"{tmp_path / 'gone.json'} does not exist."


# The map


def test_the_map_is_of_the_clean_features_of_val(data: Path, cache: Path) -> None:
    val = FeatureCache.open(cache).features("val")
    points = project(np.asarray(val.clean()))
    (axes,) = map_figure(cache)().axes
    for kind, group in enumerate(axes.collections):
        assert_allclose(group.get_offsets(), points[val.y == kind])
    assert [group.get_label() for group in axes.collections] == ["ants (12)", "bees (12)"]
    assert axes.get_title() == "features of 24 val images; 1 is among those of another class"
    assert not axes.artists


def test_split_number_and_method_are_as_asked(cache: Path) -> None:
    (axes,) = map_figure(cache, split="train", images=6, method="tsne", seed=3)().axes
    assert [group.get_label() for group in axes.collections] == ["ants (3)", "bees (3)"]
    assert axes.get_title() == "features of 6 train images; 0 are among those of another class"
    assert axes.get_xlabel() == "t-SNE, first axis"


def test_the_image_among_those_of_another_class_is_shown(data: Path, cache: Path) -> None:
    (axes,) = map_figure(cache, data)().axes
    (box,) = [artist for artist in axes.artists if isinstance(artist, AnnotationBbox)]
    spec = FeatureCache.open(cache).spec.view
    assert_array_equal(box.offsetbox.get_data(), views_of(data / "val/ants/000.png", spec, range(1))[0])
    assert any((box.xy == point).all() for point in axes.collections[0].get_offsets())
    assert not map_figure(cache, data, thumbnails=0)().axes[0].artists


def test_several_labels_are_classes_of_a_map(several: Path) -> None:
    (axes,) = map_figure(several.parent / "toy.h5", several, split="train")().axes
    names = {str(group.get_label()) for group in axes.collections}
    assert {"blue (3)", "blue|green (3)", "none (3)"} <= names
    assert len(names) == 8


def test_what_cannot_be_mapped_is_refused(data: Path, cache: Path, tmp_path: Path) -> None:
    assert refusal(lambda: map_figure(cache, split="test")).startswith(f"{cache} has no readable test images to draw")
    assert refusal(lambda: map_figure(cache, tmp_path)) == (
        f"{tmp_path / 'val/ants/000.png'} does not exist. Give the folder or the CSV that the images were taken from."
    )
    assert "has no layer 'layer3'" in refusal(lambda: map_figure(cache, layer="layer3"), CacheIncompleteError)


POINT = {"share": 1.0, "images": 8, "views": 1, "accuracies": [0.5], "seconds": 0.1, "interval": [0.2, 0.9]}
CURVE = {"over": "labels", "head": "linear", "n": 8, "points": [POINT]}


@pytest.mark.parametrize(
    "report",
    [
        {**CURVE, "n": "8"},
        {**CURVE, "over": None},
        {**CURVE, "points": []},
        *({**CURVE, "points": [{**POINT, name: "x"}]} for name in POINT),
        {**CURVE, "points": [{**POINT, "interval": [0.2]}]},
        {**CURVE, "points": [{**POINT, "images": -8}]},
        {**CURVE, "points": [{**POINT, "seconds": 10**400}]},
    ],
    ids=lambda report: json.dumps(report)[:60],
)
def test_a_curve_of_other_values_is_none(report: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(CURVE))
    curve_figure(path)()
    path.write_text(json.dumps(report))
    assert "curve" in refusal(lambda: curve_figure(path))


def test_an_epoch_of_other_values_is_damage(tmp_path: Path) -> None:
    epoch = asdict(EpochMetrics(1, 0.1, 1.0, 0.5, 1.0, 0.5, 2.0))
    for name in epoch.keys() - {"loss", "val_loss", "val_mean_average_precision"}:
        (tmp_path / "run.json").write_text(json.dumps({"history": [{**epoch, name: [0.5]}]}))
        assert "its history is invalid" in refusal(lambda: history_figure(tmp_path))
    (tmp_path / "run.json").write_text("[" * 100_000)
    assert "it is nested too deeply" in refusal(lambda: history_figure(tmp_path))


@pytest.mark.parametrize(
    "confusion", [None, [], [[3, 2], [1]], [[3, 2], 1], [["3", "2"], ["1", "2"]], [[3.5, 2], [1, 2]]]
)
def test_a_confusion_matrix_of_other_values_is_none(confusion: object, tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    card = json.loads((folder / "model.json").read_text())
    card["metrics"]["confusion"] = confusion
    (folder / "model.json").write_text(json.dumps(card))
    assert "its model.json has no confusion matrix" in refusal(lambda: confusion_figure(folder), HeadError)
