"""`featcache show`: each picture as a file, its options, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import numpy as np
import pytest
from PIL import Image

from commands import as_json, done, featcache_cli, in_process, refused
from featcache.errors import PictureError
from featcache.heads.fit_head import fit_head
from featcache.reports import cache_figures, model_figures
from featcache_cli.main import main

PICTURES = ("views", "predictions", "why", "confusion", "reliability", "history", "curve", "map")


def _group() -> click.Group:
    command = main.get_command(click.Context(main), "show")
    assert isinstance(command, click.Group)
    return command


@pytest.fixture(scope="module")
def heads(cache: Path) -> Path:
    """A folder with a linear head, one of epochs, and what `curve --json` printed."""
    folder = cache.parent / "shown"
    fit_head(cache, folder / "head")
    fit_head(cache, folder / "sgd", head="sgd", parameters={"epochs": 2})
    (folder / "curve.json").write_text(done("curve", cache, "--over", "views", "--head", "centroid", "--json"))
    return folder


@pytest.fixture(scope="module")
def arguments(data: Path, cache: Path, heads: Path) -> dict[str, tuple[Path, ...]]:
    """What each picture is of."""
    head = heads / "head"
    return {"views": (cache, data), "predictions": (head, data), "confusion": (head,), "reliability": (head,),
            "history": (heads / "sgd",), "curve": (heads / "curve.json",), "map": (cache, data)}  # fmt: skip


SAID = {
    "views": ["view 0: clean", "view 2", "ants", "bees", "2 augmented views (gentle) of each image"],
    "predictions": ["no mistakes; 5 val images"],
    "confusion": ["5 of 5 right on val (100.0%)", "predicted class", "true class"],
    "reliability": ["accuracy", "samples"],
    "history": ["cross-entropy (nats)", "accuracy", "epoch"],
    "curve": [
        "centroid head, 0 to 2 views: accuracy 1.000 to 1.000",
        "augmented views of each sample",
        "seconds to tune and fit",
    ],
    "map": ["features of 5 val images; 0 are among those of another class", "PCA, first axis", "ants (3)", "bees (2)"],
}


def test_without_a_picture_its_help_is_printed_once_and_alone() -> None:
    result = featcache_cli("show")
    assert result.exit_code == 2
    assert "Error" not in result.output
    assert result.output.count("Usage:") == 1


@pytest.mark.parametrize("name", SAID)  # of why see tests/models/test_activation_maps.py: it needs the network
def test_a_picture_is_written_and_its_path_printed(
    name: str, arguments: dict[str, tuple[Path, ...]], tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    assert done("show", name, *arguments[name], "-o", path, "--dark") == f"{path}\n"
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert tuple(pixels[0, 0]) == (13, 17, 22)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
    assert as_json("show", name, *arguments[name], "-o", tmp_path / "a.svg")["picture"] == str(tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text
    letters = ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")
    assert set(SAID[name]) <= {"".join(element.itertext()) for element in letters}
    assert sorted(element.name for element in tmp_path.iterdir()) == ["a.png", "a.svg"]


def test_the_help_names_all_pictures() -> None:
    assert tuple(_group().commands) == PICTURES
    lines = done("show", "--help").split("Commands:\n")[1].splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_each_picture_and_option_has_help(name: str) -> None:
    text = done("show", name, "--help")
    assert text == done("show", name, "-h")
    command = _group().commands[name]
    assert (command.help or "").strip().endswith(".")
    listed = [option for option in command.params if isinstance(option, click.Option)]
    assert {"-o", "--dark", "--json"} <= {option.opts[0] for option in listed}
    assert [option.opts[-1] for option in listed if not option.help] == []
    assert all(option.opts[-1] in text for option in listed)


@pytest.mark.parametrize(
    ("name", "words", "function", "expected"),
    [
        ("views", ("c.h5", "photos", "--images", 7, "--seed", 3), "views_figure", (("c.h5", "photos", 7, 3), {})),
        ("predictions", ("head", "photos", "--images", 9), "predictions_figure", (("head", "photos", 9, None), {})),
        ("confusion", ("head",), "confusion_figure", (("head",), {})),
        ("reliability", ("head",), "reliability_figure", (("head",), {})),
        ("history", ("run",), "history_figure", (("run",), {})),
        ("curve", ("report.json",), "curve_figure", (("report.json", None), {})),
        ("curve", ("report.json", "--over", "labels"), "curve_figure", (("report.json", "labels"), {})),
        ("map", ("c.h5",), "map_figure", (("c.h5", None), {"method": "pca", "split": "val", "images": 2000,
                                            "thumbnails": 12, "layer": "penultimate", "seed": 0})),
        ("map", ("c.h5", "photos", "--method", "tsne", "--split", "train", "--images", 50, "--thumbnails", 3,
                 "--layer", "layer3", "--seed", 5), "map_figure",
         (("c.h5", "photos"), {"method": "tsne", "split": "train", "images": 50, "thumbnails": 3, "layer": "layer3",
                               "seed": 5})),
    ],
)  # fmt: skip
def test_every_option_reaches_the_library(
    name: str, words: tuple[object, ...], function: str, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[Any] = []

    def stop(*arguments: Any, **settings: Any) -> None:
        got.append((arguments, settings))
        raise PictureError("enough")

    module = cache_figures if hasattr(cache_figures, function) else model_figures
    monkeypatch.setattr(module, function, stop)
    assert refused("show", name, *words, "-o", "a.png") == "enough"
    assert got == [expected]


@pytest.mark.parametrize("name", PICTURES)
def test_a_bad_name_is_refused_before_the_work(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = ("nothing", "nowhere") if name in ("views", "predictions", "why") else ("nothing",)
    assert "a.txt is not a picture file: its name must end in .png, .svg or .pdf" in refused(
        "show", name, *paths, "-o", "a.txt", status=2
    )
    assert "gone is not a folder" in refused("show", name, *paths, "-o", "gone/a.png", status=2)
    assert "'-o' / '--out'" in refused("show", name, *paths, status=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("views", "c.h5"), "'DATA'"),
        (("views", "c.h5", "photos", "--images", 0), "0 is not in the range"),
        (("map", "c.h5", "--method", "isomap"), "'isomap'"),
        (("map", "c.h5", "--images", 2), "2 is not in the range"),
        (("curve", "c.json", "--over", "time"), "'time'"),
        (("pie", "c.json"), "There is no command 'pie'"),
    ],
)
def test_what_cannot_be_asked_is_a_usage_error(words: tuple[object, ...], message: str) -> None:
    assert message in refused("show", *words, "-o", "a.png", status=2)


@pytest.mark.parametrize("name", PICTURES)
def test_what_is_not_there_is_a_message(name: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    paths = (gone, tmp_path) if name in ("views", "predictions", "why") else (gone,)
    message = refused("show", name, *paths, "-o", tmp_path / "a.png")
    assert message.startswith(f"{gone / 'run.json' if name == 'history' else gone} ")
    assert list(tmp_path.iterdir()) == []


def test_what_is_of_another_kind_is_a_message(cache: Path, heads: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    assert refused("show", "history", heads / "head", "-o", out).startswith(
        f"{heads / 'head'} was not trained in epochs"
    )
    assert refused("show", "curve", heads / "head/run.json", "-o", out).startswith(
        f"{heads / 'head/run.json'} has no curve"
    )
    assert refused("show", "curve", tmp_path, "-o", out) == f"{tmp_path}: Is a directory"
    assert "Not a directory" in refused("show", "history", cache, "-o", out)
    assert refused("show", "map", cache, "--split", "unlabeled", "-o", out).startswith(
        f"{cache} has no readable unlabeled images to draw; it has "
    )


def test_without_umap_its_extra_is_named(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    assert refused("show", "map", cache, "--method", "umap", "-o", tmp_path / "a.png") == (
        'this needs UMAP, which is not installed: pip install -e ".[umap]" in the clone'
    )


def test_a_folder_in_place_of_the_picture_is_refused(heads: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    assert refused("show", "confusion", heads / "head", "-o", tmp_path / "a.png", status=2) == (
        f"Invalid value for '-o' / '--out': {tmp_path / 'a.png'} is a folder; give a file"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_benchmarks_report_has_curves(heads: Path, tmp_path: Path) -> None:
    curve = json.loads((heads / "curve.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps({"curves": [curve]}))
    assert done("show", "curve", tmp_path / "report.json", "-o", tmp_path / "a.png") == f"{tmp_path / 'a.png'}\n"
    assert refused("show", "curve", tmp_path / "report.json", "--over", "labels", "-o", tmp_path / "b.png") == (
        f"{tmp_path / 'report.json'} has no curve over labels."
    )


def test_help_waits_for_no_library_and_numbers_not_for_torch(heads: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from featcache_cli.main import main\n"
        "main(['show', 'confusion', '--help'], standalone_mode=False)\n"
        "assert not {'matplotlib', 'numpy', 'torch'} & set(sys.modules)\n"
        "main(['show', 'confusion', *sys.argv[1:]], standalone_mode=False)\n"
        "assert 'matplotlib' in sys.modules and 'torch' not in sys.modules\n"
    )
    ran = in_process(code, heads / "head", "-o", tmp_path / "a.svg")
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "a.svg").exists()
