from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from featcache.errors import DataLayoutError, EmptyFolderError, shorten
from featcache_cli.main import main


@pytest.mark.parametrize("error", [DataLayoutError, EmptyFolderError])
def test_an_error_is_never_longer_than_a_screen(error: type[Exception]) -> None:
    text = str(error("start " + "x" * 808_987 + " the cure"))
    assert len(text) <= 1600
    assert text.startswith("start xxx")
    assert text.endswith("xxx the cure")
    assert f"[{808_987 + 15 - 1160 - 400} letters left out]" in text
    assert str(error("short")) == "short"


def test_of_many_lines_the_first_and_the_last_stay() -> None:
    text = shorten("\n".join(map(str, range(1000))))
    assert text.split("\n") == [*map(str, range(14)), "[981 lines left out]", *map(str, range(995, 1000))]
    assert shorten("a\nb") == "a\nb"


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl", "list.parquet", "list.txt"])
def test_a_json_list_given_as_a_manifest_is_refused_on_one_screen(tmp_path: Path, name: str) -> None:
    records = [{"path": f"photos/{number:06d}.jpg", "label": "ant"} for number in range(20_000)]
    (tmp_path / name).write_text(json.dumps(records))
    result = CliRunner().invoke(main, ["extract", str(tmp_path / name), "-o", str(tmp_path / "cache.h5")])
    assert result.exit_code == 1
    assert len(result.output) <= 1700
    assert name in result.output
