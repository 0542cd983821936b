from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import featcache
from commands import as_json, done, refused
from featcache.analysis.forecast.forecast import RECORD, TERMS, forecast


def test_what_is_printed_is_what_the_library_finds(cache: Path) -> None:
    values, direct = as_json("forecast", cache), forecast(cache).to_dict()
    direct["curve"] = [list(point) for point in direct["curve"]]
    del direct["seconds"]
    assert {name: values[name] for name in direct} == direct
    assert values["record"]["right"] == RECORD.right
    assert values["pays"] is False


def test_people_are_told_the_verdict_and_how_often_it_was_right(cache: Path) -> None:
    lines = done("forecast", cache).splitlines()
    assert [line.split()[0] for line in lines[:7]] == [
        "accuracy", "headroom", "gap", "labels", "purity", "H-score", "LogME",
    ]  # fmt: skip
    assert lines[7].startswith("The rule predicts that fine-tuning does not pay: the headroom is too small: ")
    assert lines[8] == f"{RECORD} {TERMS} (benchmarks/results/forecast.md)."


def test_every_option_reaches_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def stub(cache: str, **settings: Any) -> Any:
        seen.update(cache=cache, **settings)
        raise featcache.FeatcacheError("enough")

    monkeypatch.setitem(vars(featcache), "forecast", stub)
    assert refused("forecast", "c.h5", "--layer", "x", "--seed", 4) == "enough"
    assert callable(seen.pop("progress"))
    assert seen == {"cache": "c.h5", "layer": "x", "seed": 4}


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refused("forecast", tmp_path / "nothing.h5")
