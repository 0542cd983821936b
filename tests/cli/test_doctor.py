"""`featcache doctor`: its exit statuses, its files, its options."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import featcache
from caches import cache_of, clouds
from commands import as_json, done, featcache_cli, refused, toy_cache
from diagnoses import find, kinds
from featcache.analysis.doctor.findings import Check, DoctorReport, Issue, IssueExample, Severity
from featcache.reports.cache_figures import issues_figure


def diagnosis(*severities: Severity) -> DoctorReport:
    issues = tuple(Issue(f"kind {severity}", severity, "what", "remedy") for severity in severities)
    return DoctorReport(Path("c.h5"), "penultimate", 3, (Check("images", "summary", issues),), 0.5)


@pytest.mark.parametrize(
    ("severities", "status"), [((), 0), (("note",), 0), (("note", "warning"), 3), (("error", "warning", "note"), 4)]
)
def test_the_exit_status_is_that_of_the_worst_finding(
    severities: tuple[Severity, ...], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(featcache), "doctor", lambda *_, **__: diagnosis(*severities))
    assert featcache_cli("doctor", "c.h5").exit_code == status
    assert json.loads(featcache_cli("doctor", "c.h5", "--json").stdout)["status"] == status


def test_the_worst_comes_first() -> None:
    assert kinds(diagnosis("note", "error", "warning")) == ["kind error", "kind warning", "kind note"]
    report = diagnosis("note", "note", "error")
    first = "c.h5, penultimate: 3 images, 0.5 s: 1 error, 2 notes"
    assert str(report).splitlines()[:3] == [first, "", "ERROR kind error: what"]
    assert report.to_text(verbose=True).splitlines()[:2] == [first, "ERROR    images     summary"]


def test_checks_without_a_problem_are_one_line_and_have_figures_with_verbose(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = (
        Check("images", "summary"),
        Check("views", "not checked: there are none", ran=False),
        Check("duplicates", "2 pairs", limits="9 of 99 images were compared"),
        Check("labels", "not checked: there are none", ran=False),
    )
    report = DoctorReport(Path("c.h5"), "penultimate", 99, checks, 0.5)
    monkeypatch.setitem(vars(featcache), "doctor", lambda *_, **__: report)
    assert done("doctor", "c.h5").splitlines() == [
        "c.h5, penultimate: 99 images, 0.5 s: no issues",
        "no problem found: images, duplicates",
        "not checked: views, labels (there are none)",
        "limited: duplicates (9 of 99 images were compared)",
    ]
    assert [" ".join(line.split()) for line in done("doctor", "c.h5", "--verbose").splitlines()[1:]] == [
        "ok images summary",
        "- views not checked: there are none",
        "ok duplicates 2 pairs (9 of 99 images were compared)",
        "- labels not checked: there are none",
    ]


def test_a_long_list_is_cut_in_text_and_whole_in_csv(tmp_path: Path) -> None:
    images = tuple(IssueExample(f"{row},\n.png", "train", "a", "b", score=row / 64) for row in range(20))
    check = Check("images", "summary", (Issue("kind", "note", "what", "remedy", images),))
    report = DoctorReport(Path("c.h5"), "penultimate", 20, (check,), 0.5)
    assert "     0,\\n.png: a, probably b (0)\n" in str(report)
    assert str(report).endswith("     and 12 more: --list FILE.csv lists all images")
    report.write_list(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["severity", "finding", "image", "split", "label", "suggested", "other", "score"]
    assert rows[20] == ["note", "kind", "19,\n.png", "train", "a", "b", "", "0.296875"]


def test_every_option_reaches_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    got: dict[str, Any] = {}
    monkeypatch.setitem(
        vars(featcache), "doctor", lambda *paths, **options: got.update(options, paths=paths) or diagnosis()
    )
    done("doctor", "c.h5", "photos", "--layer", "layer3", "--weights", "w.pth", "--device", "cpu", "--seed", 3)
    assert callable(got.pop("progress"))
    assert got.pop("backbone") is None
    assert got == {"paths": ("c.h5", "photos"), "layer": "layer3", "weights": "w.pth", "device": "cpu", "seed": 3}


def test_a_sound_cache_is_said_to_be(cache: Path, data: Path) -> None:
    text = done("doctor", cache)
    assert text.startswith(f"{cache}, penultimate: 18 images, ")
    assert ": no issues\n" in text
    assert as_json("doctor", cache, data)["status"] == 0


@pytest.fixture
def leaking(data: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A folder with a copy of a train image in val, and its cache."""
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    shutil.copy(folder / "train/ants/000.png", folder / "val/ants/copy.png")
    from featcache.extraction.extract import extract
    from toys import toy_backbone

    extract(folder, tmp_path / "a.h5", backbone=toy_backbone(), views=1, allow_leak=True, workers=2)
    return folder, tmp_path / "a.h5"


def test_a_leak_is_drawn_listed_and_exits_with_4(leaking: tuple[Path, Path], tmp_path: Path) -> None:
    folder, cache = leaking
    result = featcache_cli("doctor", cache, folder, "-o", tmp_path / "a.png", "--list", tmp_path / "a.csv", "--dark")
    assert result.exit_code == 4, result.output
    assert "ERROR copies across splits: 1 pair of exact duplicates\n" in result.stdout
    assert "     val/ants/copy.png: ants, like train/ants/000.png (1)\n" in result.stdout
    assert (
        "error,copies across splits,val/ants/copy.png,val,ants,,train/ants/000.png,1\n"
        in (tmp_path / "a.csv").read_text()
    )
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert tuple(pixels[-1, -1]) == (13, 17, 22)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100


def test_the_picture_has_both_of_a_pair_and_no_more_than_asked(leaking: tuple[Path, Path]) -> None:
    folder, cache = leaking
    leak = find(featcache.doctor(cache), "copies across splits")
    assert leak is not None
    doubts = tuple(IssueExample(f"train/bees/00{row}.png", "train", "bees", "ants", score=0.9) for row in range(5))
    doubted = Issue("wrong labels", "note", "5 of 19", "look", doubts)
    picture = issues_figure(cache, [leak, doubted], folder, images=8)
    assert picture is not None
    figure = picture()
    titles = [(axes.get_title(), axes.get_xlabel()) for axes in figure.axes if axes.images]
    assert titles == [
        ("ants", "train/ants/000.png"),
        ("ants", "val/ants/copy.png"),
        *[("bees", "probably ants")] * 4,
    ]
    headings = [part.get_suptitle() for part in figure.subfigs]
    assert headings == ["copies across splits: 1 pair of exact duplicates", "wrong labels: 5 of 19"]


def test_a_ranking_is_drawn_after_the_findings_and_is_none_of_them(leaking: tuple[Path, Path]) -> None:
    folder, cache = leaking
    images = tuple(IssueExample(f"train/bees/00{row}.png", "train", "bees", "ants", score=0.9) for row in range(2))
    ranking = Issue("least likely labels", "note", "2 labels", "look", images)
    picture = issues_figure(cache, [], folder, rankings=[ranking])
    assert picture is not None
    figure = picture()
    assert figure.get_suptitle() == "0 issues in a.h5"
    assert [part.get_suptitle() for part in figure.subfigs] == ["least likely labels: 2 labels"]
    assert [axes.get_title() for axes in figure.axes if axes.images] == ["bees"] * 2


def test_a_picture_that_is_gone_or_changed_is_left_out_and_the_status_stays(
    leaking: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, cache = leaking
    names = [f"train/bees/00{row}.png" for row in range(5)]
    doubts = tuple(IssueExample(name, "train", "bees", "ants", score=0.9) for name in names)
    (folder / names[0]).unlink()
    shutil.copy(folder / names[3], folder / names[2])
    picture = issues_figure(cache, [Issue("wrong labels", "note", "5 of 19", "look", doubts)], folder)
    assert picture is not None
    figure = picture()
    assert len([axes for axes in figure.axes if axes.images]) == 3
    assert (
        figure.get_suptitle()
        == "1 issue in a.h5; 2 images are not drawn, because their files are missing or have changed"
    )
    (folder / "val/ants/copy.png").unlink()
    result = featcache_cli("doctor", cache, folder, "-o", tmp_path / "a.png")
    assert result.exit_code == 4, result.output
    assert result.stdout.endswith(f"no images to draw for {tmp_path / 'a.png'}\n")


def test_nothing_to_draw_is_a_message(cache: Path, data: Path, tmp_path: Path) -> None:
    assert done("doctor", cache, data, "-o", tmp_path / "a.png").endswith(
        f"no images to draw for {tmp_path / 'a.png'}\n"
    )
    assert not (tmp_path / "a.png").exists()
    assert "-o needs DATA: it draws images of DATA" in featcache_cli("doctor", cache, "-o", tmp_path / "a.png").stderr
    assert "a.txt is not a picture file: its name must end in .png, .svg or .pdf" in refused(
        "doctor", cache, data, "-o", tmp_path / "a.txt", status=2
    )
    assert "gone is not a folder" in refused("doctor", cache, "--list", tmp_path / "gone/a.csv", status=2)
    assert refused("doctor", tmp_path / "gone.h5").startswith(f"{tmp_path / 'gone.h5'} does not exist")
    assert "has no layer 'layer3'" in refused("doctor", cache, "--layer", "layer3")


def test_warnings_exit_with_3(tmp_path: Path) -> None:
    x, y = clouds(60, 2, views=2, d=20)
    x[:, 1:] = x[::-1, 1:]
    cache_of(tmp_path / "a.h5", (x, y), (clouds(20, 2, d=20, seed=4)[0][:, 0], y[:20]))
    result = featcache_cli("doctor", tmp_path / "a.h5")
    assert (result.exit_code, "WARNING unrelated views" in result.stdout) == (3, True)


def test_toy_is_made_by_hand(data: Path, tmp_path: Path) -> None:
    """A network that no name loads: what does not need it is looked at all the same."""
    path = toy_cache(data, tmp_path / "t.h5")
    checks = {check["name"]: check for check in as_json("doctor", path, data)["checks"]}
    assert (checks["network"]["looked"], checks["pixels"]["looked"]) == (False, True)
