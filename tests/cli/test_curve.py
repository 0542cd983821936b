from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import featcache
from commands import as_json, done, refused
from featcache.analysis.curves import curve


def without_seconds(values: dict[str, Any]) -> dict[str, Any]:
    points = [{name: value for name, value in point.items() if name != "seconds"} for point in values["points"]]
    return {name: values[name] for name in ("over", "head", "note", "n")} | {"points": points}


def test_labels_are_the_default(cache: Path) -> None:
    values = as_json("curve", cache, "--repeats", 2, "--head", "centroid")
    direct = curve(cache, repeats=2, head="centroid").to_dict()
    for point in direct["points"]:
        point["accuracies"], point["interval"] = list(point["accuracies"]), list(point["interval"])
    assert without_seconds(values) == without_seconds(direct)
    assert values["points"][-1]["images"] == 13


def test_views_are_drawn(cache: Path, tmp_path: Path) -> None:
    text = done("curve", cache, "--over", "views", "-o", tmp_path / "views.png")
    assert len(text.splitlines()) == 3 + len(curve(cache, over="views").points) == 6
    with Image.open(tmp_path / "views.png") as picture:
        assert picture.size[0] > 500


def test_the_head_is_that_of_fit_head_unless_it_is_named(cache: Path) -> None:
    values = as_json("curve", cache, "--over", "views")
    chosen = as_json("fit-head", cache)
    assert (values["head"], values["layers"]) == (chosen["head"], chosen["layers"])
    assert "chosen once, by cross-validation on all 13 training samples." in values["note"]
    named = as_json("curve", cache, "--over", "views", "--head", "knn", "--layer", "penultimate")
    assert (named["head"], named["layers"], named["note"]) == ("knn", ["penultimate"], "")


def test_what_is_drawn_is_what_show_draws_of_what_is_printed(cache: Path, tmp_path: Path) -> None:
    text = done("curve", cache, "--over", "views", "-o", tmp_path / "a.svg", "--json")
    (tmp_path / "curve.json").write_text(text)
    done("show", "curve", tmp_path / "curve.json", "-o", tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_every_option_reaches_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def stub(cache: str, **settings: Any) -> Any:
        seen.update(cache=cache, **settings)
        raise featcache.FeatcacheError("enough")

    monkeypatch.setitem(vars(featcache), "curve", stub)
    refused("curve", "c.h5", "--head", "lda", "--repeats", 3, "--layer", "x", "--seed", 4)
    assert callable(seen.pop("progress"))
    assert seen == {"cache": "c.h5", "over": "labels", "head": "lda", "repeats": 3, "layer": "x", "seed": 4}


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refused("curve", tmp_path / "nothing.h5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "curve.txt"), "curve.txt is not a picture file: its name must end in .png, .svg or .pdf"),
        (("-o", "nowhere/curve.png"), "nowhere is not a folder"),
        (("--over", "views", "--repeats", 3), "--repeats needs --over labels: views are not drawn at random"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_work(arguments: tuple[object, ...], message: str) -> None:
    assert message in refused("curve", "nothing.h5", *arguments, status=2)
