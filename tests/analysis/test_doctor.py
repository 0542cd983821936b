"""Each planted fault is report, with the images that have it; sound caches stay sound."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from caches import SPEC, cache_of, clouds
from diagnoses import find, kinds
from featcache.analysis.doctor import doctor as doctor_module
from featcache.analysis.doctor import label_errors, neighbors
from featcache.analysis.doctor.doctor import doctor
from featcache.analysis.doctor.findings import DoctorReport, IssueExample
from featcache.analysis.doctor.label_errors import _doubted
from featcache.backbones.backbone import Backbone
from featcache.backbones.load import load_backbone
from featcache.cache import writer
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.writer import CacheWriter
from featcache.core.samples import Samples
from featcache.errors import CacheIncompleteError
from featcache.extraction.extract import extract
from featcache.heads.kinds import linear
from featcache.heads.tuning.tuning_data import TuningData
from featcache.vision.demo_datasets import write_digits

N, M, D, CLASSES = 200, 80, 30, 4


class Sound:
    """Features of four clouds that have no fault; a test plants one, in place, before the cache is written."""

    def __init__(self) -> None:
        self.x, self.y = clouds(N, CLASSES, views=3, d=D, seed=1)
        val, self.y_val = clouds(M, CLASSES, views=1, d=D, seed=2)
        self.val = val[:, 0]
        self.sha256 = np.random.default_rng(2).integers(0, 256, (N + M, 32), dtype=np.uint8)

    def write(self, folder: Path) -> FeatureCache:
        return cache_of(folder / "a.h5", (self.x, self.y), (self.val, self.y_val), self.sha256)

    def examine(self, folder: Path) -> DoctorReport:
        return doctor(self.write(folder))


def name(row: int, label: int) -> str:
    return f"train/{'abcd'[label]}/{row:04d}.png" if row < N else f"val/{'abcd'[label]}/{row:04d}.png"


def images_of(report: DoctorReport, kind: str) -> set[str]:
    finding = find(report, kind)
    assert finding is not None, kinds(report)
    return {example.image for example in finding.images}


def test_sound_features_have_no_finding(tmp_path: Path) -> None:
    report = Sound().examine(tmp_path)
    assert (kinds(report), report.status, report.images) == ([], 0, N + M)
    assert [check.name for check in report.checks if check.ran] == [
        "images", "values", "views", "duplicates", "outliers", "classes", "labels", "overlap"
    ]  # fmt: skip
    first, *lines = str(report).splitlines()
    assert "280 images" in first
    assert lines == [
        "no problem found: images, values, views, duplicates, outliers, classes, labels, overlap",
        "not checked: input (the preprocessing of toy is not known)",
    ]
    text = report.to_text(verbose=True)
    assert "ok       classes    a head is right on 100.0% of 200 images that it was not fitted to (the " in text


def test_wrong_labels_are_doubted_and_no_others(tmp_path: Path) -> None:
    sound = Sound()
    train, val = np.array([0, 20, 40, 60, 100, 120, 160, 196]), np.array([0, 40, 76])
    assert not sound.y[train].any()
    assert not sound.y_val[val].any()
    sound.y[train], sound.y_val[val] = 1, 1
    report = sound.examine(tmp_path)
    assert kinds(report) == ["wrong labels"]
    (finding,) = report.findings
    assert (finding.severity, report.status) == ("warning", 3)
    assert {(example.label, example.suggested) for example in finding.images} == {("b", "a")}
    wrong = {name(int(row), 1) for row in [0, *train, *(N + val)]}
    assert {example.image for example in finding.images} <= wrong
    assert len(finding.images) >= 7  # of 11: wrong labels make heads less sure, and thresholds are what heads are
    scores = [example.score or 0.0 for example in finding.images]
    assert scores == sorted(scores, reverse=True)


def test_two_doubted_labels_are_a_note(tmp_path: Path) -> None:
    sound = Sound()
    sound.y[[8, 21]] = (sound.y[[8, 21]] + 1) % 4
    report = sound.examine(tmp_path)
    assert (kinds(report, "note"), report.status) == (["wrong labels"], 0)


def test_the_least_likely_labels_are_ranked_where_none_is_doubted(tmp_path: Path) -> None:
    """The only wrong label has 0.97 for another class, of whose own images the head is surer on average."""
    sound = Sound()
    sound.y[133] = 2
    report = sound.examine(tmp_path)
    assert (kinds(report), report.status) == ([], 0)
    (ranking,) = report.rankings
    assert ranking.kind == "least likely labels"
    assert ranking.what == "1 other label is not the most likely one. They may well be right"
    (example,) = ranking.images
    assert (example.image, example.label, example.suggested) == ("train/c/0133.png", "c", "b")
    assert example.score == pytest.approx(0.96, abs=0.02)
    assert report.to_dict()["rankings"] == [json.loads(json.dumps(ranking.to_dict()))]
    head, *lines = str(report).splitlines()
    assert head.endswith(": no issues")
    assert f"CHECK least likely labels: {ranking.what}" in lines
    report.write_list(tmp_path / "list.csv")
    with (tmp_path / "list.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["finding"], row["image"], row["suggested"]) == (ranking.kind, example.image, "b")


def test_no_label_is_both_doubted_and_ranked_and_a_ranking_is_short(tmp_path: Path) -> None:
    sound = Sound()
    sound.x += 3 * np.random.default_rng(0).normal(size=(N, 1, D)).astype(np.float32)
    wrong = np.array([0, 20, 40, 60, 100, 120, 160, 196])
    sound.y[wrong] = 1
    report = sound.examine(tmp_path)
    (ranking,) = report.rankings
    doubted = images_of(report, "wrong labels")
    assert len(ranking.images) == 12
    assert not doubted & {example.image for example in ranking.images}
    assert "; the 12 least likely ones are listed. They may well be right" in ranking.what
    scores = [example.score or 0.0 for example in ranking.images]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("scores", "checked", "severity"),
    [([0.9] * 2, 20, "note"), ([0.9] * 3, 20, "warning"), ([0.9] * 3, 1000, "note"), ([0.7] * 9, 20, "note")],
)
def test_doubts_are_a_warning_where_heads_are_sure_of_many(scores: list[float], checked: int, severity: str) -> None:
    check = _doubted([IssueExample("a.png", "train", "a", "b", score=score) for score in scores], checked, checked)
    assert [finding.severity for finding in check.findings] == [severity]


def test_copies_are_told_by_where_they_are(tmp_path: Path) -> None:
    sound = Sound()
    for copy, of in ((4, 0), (9, 2), (N + 8, 16)):  # one of its class, one of another, one in val
        sound.sha256[copy] = sound.sha256[of]
    sound.x[4], sound.x[9], sound.val[8] = sound.x[0], sound.x[2], sound.x[16, 0]
    report = sound.examine(tmp_path)
    assert report.status == 4
    assert (images_of(report, "copies"), find(report, "copies").severity) == ({name(4, 0)}, "note")  # type: ignore[union-attr]
    leak = find(report, "copies across splits")
    assert leak is not None
    assert [(example.image, example.split, example.other) for example in leak.images] == [
        (name(N + 8, 0), "val", name(16, 0))
    ]
    assert leak.severity == "error"
    conflict = find(report, "copies with other labels")
    assert conflict is not None
    assert [(example.image, example.label, example.other) for example in conflict.images] == [
        (name(9, 1), "b", name(2, 2))
    ]
    assert not any("near" in kind for kind in kinds(report))


def test_near_duplicates_are_told_by_where_they_are(tmp_path: Path) -> None:
    sound = Sound()
    rng = np.random.default_rng(0)
    sound.x[4] = sound.x[0] + 0.02 * rng.normal(size=D)
    sound.val[8] = sound.x[16, 0] + 0.02 * rng.normal(size=D)
    sound.x[9], sound.y[9] = sound.x[2] + 0.02 * rng.normal(size=D), 1
    report = sound.examine(tmp_path)
    assert images_of(report, "near duplicates") == {name(4, 0)}
    assert images_of(report, "near duplicates across splits") == {name(N + 8, 0)}
    assert images_of(report, "near duplicates with other labels") == {name(9, 1)}
    assert report.status == 3
    assert "like train/a/0016.png" in str(report)


@pytest.mark.parametrize("group", [12, 20, 36])
def test_a_burst_across_the_split_is_found(group: int, tmp_path: Path) -> None:
    """Frames of one scene: each has more neighbours that are alike than are looked at."""
    sound = Sound()
    rng = np.random.default_rng(0)
    train, val = np.arange(4, 4 * (group // 2) + 4, 4), np.arange(4, 4 * (group - group // 2) + 4, 4)
    sound.x[train, 0] = sound.x[0, 0] + 0.05 * rng.normal(size=(len(train), D))
    sound.val[val] = sound.x[0, 0] + 0.05 * rng.normal(size=(len(val), D))
    report = sound.examine(tmp_path)
    assert kinds(report) == ["near duplicates across splits", "near duplicates"]
    frames = {name(int(row), 0) for row in [0, *train, *(N + val)]}
    named = {
        image for finding in report.findings for example in finding.images for image in (example.image, example.other)
    }
    assert named <= frames
    assert len(named) >= group
    assert len(images_of(report, "near duplicates across splits")) >= 0.75 * len(val)


def test_infinity_in_any_view_is_an_error_that_names_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of another writer: this one refuses them."""
    monkeypatch.setattr(writer, "_are_finite", lambda values: np.ones(len(values), bool))
    sound = Sound()
    sound.x[7, 2, 3], sound.val[5, 0] = np.inf, np.nan
    report = sound.examine(tmp_path)
    assert (kinds(report), report.status) == (["not finite"], 4)
    assert images_of(report, "not finite") == {name(7, 3), name(N + 5, 1)}


def test_a_class_without_train_images_is_said_to_be_and_its_labels_are_not_doubted(tmp_path: Path) -> None:
    sound = Sound()
    sound.y_val[::8] = 4
    sound.val[::8] += 3
    report = sound.examine(tmp_path)
    assert "wrong labels" not in kinds(report)
    finding = find(report, "missing in train")
    assert finding is not None
    assert (finding.what, finding.severity) == ("train has no readable images of e", "warning")
    assert "imbalance" not in kinds(report)
    assert f"limited: labels ({N + M - 10} of {N + M} labels were checked)" in str(report).splitlines()


def layered(folder: Path, sound: Sound) -> FeatureCache:
    """The features in a narrow layer in small units, beside 90 features in large units that say nothing."""
    cache = sound.write(folder)
    noise = 50 + 100 * np.random.default_rng(5).normal(size=(N + M, 3, 90)).astype(np.float32)
    noise[..., 1] = 1e6  # never moves
    spec = dataclasses.replace(cache.spec, layers=("penultimate", "wide"))
    dims = {"penultimate": D, "wide": 90}
    with CacheWriter(folder / "layers.h5", spec, cache.samples, dims, cache.provenance) as writer:
        narrow = 0.001 * sound.x
        writer.write(np.arange(N), {"penultimate": narrow, "wide": noise[:N]})
        writer.write(np.arange(N, N + M), {"penultimate": 0.001 * sound.val[:, None], "wide": noise[N:, :1]})
        return writer.finish({})


def test_layers_are_judged_as_equally_wide(tmp_path: Path) -> None:
    sound = Sound()
    wrong = np.array([0, 20, 40, 60])
    sound.y[wrong] = 1
    report = doctor(layered(tmp_path, sound), layer="all")
    doubted = images_of(report, "wrong labels")
    assert doubted <= {name(int(row), 1) for row in wrong}
    assert len(doubted) >= 3  # of 4, as of the narrow layer alone
    assert set(kinds(report)) == {"wrong labels", "dead dimensions"}


def test_dead_dimensions_and_collapse_are_errors(tmp_path: Path) -> None:
    sound = Sound()
    sound.x[..., :20], sound.val[:, :20] = 0, 0
    report = sound.examine(tmp_path)
    assert (kinds(report, "error"), report.status) == (["dead dimensions"], 4)
    sound = Sound()
    sound.x, sound.val = 50 + 0.01 * sound.x, 50 + 0.01 * sound.val
    (tmp_path / "b").mkdir()
    report = sound.examine(tmp_path / "b")
    assert kinds(report, "error") == ["collapse"]
    assert [check.name for check in report.checks if not check.ran] == ["input", "views", "duplicates", "outliers"]


def test_views_that_are_the_clean_one_are_an_error(tmp_path: Path) -> None:
    sound = Sound()
    sound.x[:, 1:] = sound.x[:, :1]
    assert kinds(sound.examine(tmp_path), "error") == ["identical views"]


def test_views_of_other_images_are_a_warning(tmp_path: Path) -> None:
    sound = Sound()
    sound.x[:, 1:] = sound.x[np.random.default_rng(0).permutation(N), 1:]
    assert kinds(sound.examine(tmp_path), "warning", "error") == ["unrelated views"]


def test_labels_that_features_say_nothing_of_are_an_error(tmp_path: Path) -> None:
    sound = Sound()
    np.random.default_rng(0).shuffle(sound.y)
    report = sound.examine(tmp_path)
    assert (kinds(report), report.status) == (["no better than guessing"], 4)
    assert [check.name for check in report.checks if not check.ran] == ["input", "labels", "overlap"]


def test_most_images_of_one_class_are_no_guessing(tmp_path: Path) -> None:
    sound = Sound()
    sound.y[:], sound.y_val[:] = 0, 0
    rare = np.array([5, 50, 100, 150, 180, 190, 195, 199])
    sound.y[rare] = 1
    report = sound.examine(tmp_path)  # of eight there is too little to say, though a head knows nothing of them
    assert find(report, "no better than guessing").severity == "note"  # type: ignore[union-attr]
    assert {"imbalance", "missing in val"} <= set(kinds(report, "note"))
    sound.y[::10] = 1
    sound.x[sound.y == 1, :, 0] += 20
    (tmp_path / "b").mkdir()
    assert "no better than guessing" not in kinds(sound.examine(tmp_path / "b"))


def test_classes_that_cannot_be_told_apart_overlap(tmp_path: Path) -> None:
    sound = Sound()
    for y in (sound.y, sound.y_val):
        former = np.flatnonzero(y < 2)
        y[former] = np.random.default_rng(len(y)).permutation(y[former])
    report = sound.examine(tmp_path)
    finding = find(report, "overlap")
    assert finding is not None
    assert "1 pair of classes is often confused: a and b " in finding.what
    assert (finding.severity, report.status) == ("note", 0)  # hard to tell apart, and sound all the same


def test_outliers_and_blank_pictures_are_notes(tmp_path: Path) -> None:
    sound = Sound()
    sound.x[13] += 10 * np.random.default_rng(0).normal(size=D)
    sound.val[5] *= 1e-3
    report = sound.examine(tmp_path)
    assert name(13, 1) in images_of(report, "outliers")
    assert images_of(report, "blank") == {name(N + 5, 1)}
    assert kinds(report, "warning", "error") == []


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000))
def test_the_order_of_the_images_changes_no_finding(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    def planted(order: NDArray[np.int64]) -> set[tuple[str, str]]:
        sound = Sound()
        sound.y[[3, 17, 60, 61, 102, 150, 177, 199]] -= 1
        sound.y %= 4
        sound.x[4] = sound.x[0] + 0.02
        sound.x[13] += 10 * np.random.default_rng(0).normal(size=D)
        sound.x, sound.y, sound.sha256[:N] = sound.x[order], sound.y[order], sound.sha256[:N][order]
        report = sound.examine(tmp_path_factory.mktemp("order"))
        rows = {name(row, int(sound.y[row])): int(order[row]) for row in range(N)}
        pairs = ((finding.kind, example) for finding in report.findings for example in finding.images)
        return {(kind, str(sorted(rows[n] for n in (example.image, example.other) if n))) for kind, example in pairs}

    assert planted(np.random.default_rng(seed).permutation(N)) == planted(np.arange(N))


def test_of_many_images_some_are_compared_by_lot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "MAX_IMAGES", 120)
    report = Sound().examine(tmp_path)
    assert kinds(report) == []
    assert str(report).splitlines()[-2:] == [
        "limited: duplicates, outliers (120 of 280 images were compared)",
        "limited: labels (200 of 280 labels were checked)",
    ]
    text = report.to_text(verbose=True)
    assert "0 pairs of near duplicates among 120 images, drawn from 280 (120 of 280 images were compared)" in text
    assert "of 120 images that it was not fitted to" in text
    assert [check["limits"] for check in report.to_dict()["checks"][4:5]] == ["120 of 280 images were compared"]


def test_of_very_many_images_each_is_compared_with_similar_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbors, "_MOST_EXACT", 100)
    monkeypatch.setattr(neighbors, "_GROUP_ROWS", 100)
    sound = Sound()
    sound.val[8] = sound.x[16, 0] + 0.02 * np.random.default_rng(0).normal(size=D)
    report = sound.examine(tmp_path)
    assert images_of(report, "near duplicates across splits") == {name(N + 8, 0)}
    reason = "each image was compared with 276 similar ones, so that a few may be missed"
    assert f"limited: duplicates, outliers ({reason})" in str(report).splitlines()


@pytest.mark.parametrize(("most", "heads"), [(800, ["linear"]), (799, ["lda"])])
def test_one_head_is_fitted_whose_time_is_bounded(
    most: int, heads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[str] = []

    def recorded(name: str, tune: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            fitted.append(name)
            return tune(*arguments, **options)

        return call

    monkeypatch.setattr(linear, "tune", recorded("linear", linear.tune))
    monkeypatch.setattr(TuningData, "tune_closed_form", recorded("lda", TuningData.tune_closed_form))
    monkeypatch.setattr(label_errors, "_MAX_LINEAR", most)  # 200 train images of 4 classes
    assert kinds(Sound().examine(tmp_path)) == []
    assert fitted == heads


def test_lda_that_cannot_be_solved_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise np.linalg.LinAlgError("not positive definite")

    monkeypatch.setattr(TuningData, "tune_closed_form", fails)
    monkeypatch.setattr(label_errors, "_MAX_LINEAR", 0)
    report = Sound().examine(tmp_path)
    reason = "not checked: lda could not be fitted: not positive definite"
    summaries = {check.name: check.summary for check in report.checks if not check.ran}
    assert [summaries[name] for name in ("classes", "labels", "overlap")] == [reason] * 3


def test_skipped_images_are_left_out_and_named(tmp_path: Path) -> None:
    x, y = clouds(60, 2, views=3, d=D)
    ids = tuple(f"{row}.png" for row in range(80))
    sha256 = np.random.default_rng(2).integers(0, 256, (80, 32), dtype=np.uint8)
    split = np.array([0] * 60 + [1] * 20, np.uint8)
    samples = Samples(ids, np.append(y, np.arange(20) % 2), split, sha256, ("a", "b"))
    spec = dataclasses.replace(SPEC, dtype="float32")
    with CacheWriter(tmp_path / "a.h5", spec, samples, {"penultimate": D}, {}) as writer:
        rows = np.array([row for row in range(60) if row != 7])
        writer.write(rows, {"penultimate": x[rows]})
        writer.write(np.arange(60, 80), {"penultimate": clouds(20, 2, d=D, seed=3)[0]})
        cache = writer.finish({7: "the file is empty"})
    report = doctor(cache)
    assert (kinds(report), report.status, report.images) == (["skipped"], 0, 79)
    assert images_of(report, "skipped") == {"7.png"}
    assert "the file is empty" in str(report)


def test_several_labels_an_image_leave_out_what_is_of_one(tmp_path: Path) -> None:
    x, _ = clouds(60, 2, views=3, d=D)
    x[8] = x[2] + 0.01
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, (60, 3)).astype(np.uint8)
    labels[8] = labels[2]
    labels[9:12] = labels[8] = labels[2] = [1, 1, 0]
    samples = Samples(
        tuple(f"{row}.png" for row in range(60)), labels, np.zeros(60, np.uint8),
        rng.integers(0, 256, (60, 32), dtype=np.uint8), ("a", "b", "c"),
    )  # fmt: skip
    spec = dataclasses.replace(SPEC, dtype="float32")
    with CacheWriter(tmp_path / "a.h5", spec, samples, {"penultimate": D}, {}) as writer:
        writer.write(np.arange(60), {"penultimate": x})
        report = doctor(writer.finish({}))
    assert kinds(report) == ["near duplicates"]
    assert report.findings[0].images[0].label == "a|b"
    assert [check.name for check in report.checks if not check.ran] == ["input", "classes", "labels", "overlap"]


def test_a_few_images_are_too_few(tmp_path: Path) -> None:
    x, y = clouds(6, 2, views=2, d=D)
    report = doctor(cache_of(tmp_path / "a.h5", (x, y), (x[:2, 0] + 1, y[:2])))
    assert report.status == 0
    assert "8 images are too few" in str(report)


def test_what_is_found_goes_into_json_and_csv(tmp_path: Path) -> None:
    sound = Sound()
    sound.sha256[N + 8], sound.val[8] = sound.sha256[16], sound.x[16, 0]
    report = sound.examine(tmp_path)
    values = json.loads(json.dumps(report.to_dict()))
    assert (values["status"], values["findings"][0]["kind"]) == (4, "copies across splits")
    assert values["checks"][0]["kinds"] == ["copies across splits"]
    assert values["findings"][0]["images"][0]["image"] == name(N + 8, 0)
    report.write_list(tmp_path / "list.csv")
    with (tmp_path / "list.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {"severity": "error", "finding": "copies across splits", "image": name(N + 8, 0), "split": "val",
                   "label": "a", "suggested": "", "other": name(16, 0), "score": "1"}  # fmt: skip


def test_a_layer_that_is_not_there_and_progress(tmp_path: Path) -> None:
    cache = Sound().write(tmp_path)
    with pytest.raises(CacheIncompleteError, match="has no layer 'layer3'"):
        doctor(cache, layer="layer3")
    steps: list[Any] = []
    doctor(cache, progress=lambda *step: steps.append(step))
    check_progress(steps)


def check_progress(steps: list[Any]) -> None:
    """One bar, whose fraction rises from 0 to 1."""
    assert {(what, total) for what, _, total in steps} == {("doctor", 1000)}
    done = [done for _, done, _ in steps]
    assert (done[0], done[-1]) == (0, 1000)
    assert done == sorted(done)
    assert done.count(1000) == 1


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two hundred digits from 0 to 4, and their features of the embedded network at 48 pixels."""
    folder = write_digits(tmp_path_factory.mktemp("doctor") / "digits")
    for label in "56789":
        shutil.rmtree(folder / label)
    for path in folder.rglob("*.png"):
        if int(path.stem) >= 400:
            path.unlink()
    return folder, extract(folder, folder.parent / "a.h5", views=1, image_size=48).cache.path


def test_digits_are_sound(digits: tuple[Path, Path]) -> None:
    data, path = digits
    steps: list[Any] = []
    report = doctor(path, data, progress=lambda *step: steps.append(step))
    assert kinds(report, "warning", "error") == []
    assert [check.name for check in report.checks if not check.ran] == []
    check_progress(steps)
    flipped = _flipped(path, 0.05)
    doubted = images_of(flipped[0], "wrong labels")
    hits = len(doubted & flipped[1])
    assert hits >= len(flipped[1]) - 2  # of 8; measured: 7, and three false alarms
    assert len(doubted) - hits <= 4


def test_digits_divided_by_255_twice_are_an_error(digits: tuple[Path, Path], tmp_path: Path) -> None:
    backbone = load_backbone()
    twice = Backbone(
        backbone.module, name=backbone.name, mean=(127.5,) * 3, std=(127.5,) * 3, image_size=backbone.image_size
    )
    cache = extract(digits[0], tmp_path / "a.h5", backbone=twice, views=0, image_size=48).cache
    report = doctor(cache)
    assert report.status == 4
    assert {"dead dimensions", "collapse"} <= set(kinds(report, "error"))
    assert "input scale" in kinds(report, "error")  # the name tells the scale, without the network


def _flipped(path: Path, fraction: float) -> tuple[DoctorReport, set[str]]:
    """The report of a cache with a fraction of wrong labels in train, and the ids of these images."""
    cache = FeatureCache.open(path)
    rows, c = cache.samples.rows("train"), len(cache.samples.classes)
    rng = np.random.default_rng(0)
    chosen = rng.choice(rows, round(fraction * len(rows)), replace=False)
    labels = cache.samples.labels.copy()
    labels[chosen] = (labels[chosen] + rng.integers(1, c, len(chosen))) % c
    cache.samples = dataclasses.replace(cache.samples, labels=labels)
    return doctor(cache), {cache.samples.ids[row] for row in chosen}


def test_ants_and_bees_are_sound_and_wrong_labels_are_found(ants_bees: Path, tmp_path: Path) -> None:
    path = extract(ants_bees, tmp_path / "a.h5", views=0).cache.path
    report = doctor(path, ants_bees)
    assert (report.status, kinds(report, "warning", "error")) == (0, [])
    wrong = find(report, "wrong labels")
    assert wrong is None or len(wrong.images) <= 3
    diagnosis, flipped = _flipped(path, 0.05)
    doubted = images_of(diagnosis, "wrong labels")
    assert find(diagnosis, "wrong labels").severity == "warning"  # type: ignore[union-attr]
    assert len(doubted & flipped) >= 10  # of 12
    assert len({image for image in doubted if image.startswith("train")} - flipped) <= 5


def test_a_class_whose_train_images_cannot_be_read_is_missing_in_train(tmp_path: Path) -> None:
    sound = Sound()
    cache = sound.write(tmp_path)
    cache.done[cache.samples.labels == 2] = 0
    finding = find(doctor(cache), "missing in train")
    assert finding is not None
    assert finding.what == "train has no readable images of c"
