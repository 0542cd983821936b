from __future__ import annotations

from pathlib import Path

from commands import as_json, done, refused
from featcache.metrics.predictions import compare_heads


def test_two_heads_of_one_cache_are_compared(cache: Path, tmp_path: Path) -> None:
    for name in ("linear", "centroid"):
        done("fit-head", cache, "-o", tmp_path / name, "--head", name)
    arguments = ("compare-heads", tmp_path / "linear", tmp_path / "centroid")
    direct = compare_heads(tmp_path / "linear", tmp_path / "centroid")
    assert done(*arguments) == f"{direct}\n"
    values = as_json(*arguments)
    assert {name: values[name] for name in direct.to_dict()} == direct.to_dict()
    assert direct.test.n == 5


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    assert refused("compare-heads", tmp_path, tmp_path).startswith(f"{tmp_path} has no val.csv. ")
