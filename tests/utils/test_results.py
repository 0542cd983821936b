"""Results as JSON values: one base class turns the fields of each into them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commands import ROOT
from featcache._utils.results import NotebookResult, Result, as_records


@dataclass(frozen=True)
class Pair:
    first: Path
    second: tuple[float, ...] = ()


@dataclass(frozen=True)
class Inner(Result):
    width: float = math.nan

    def _json_fields(self) -> dict[str, Any]:
        return {**super()._json_fields(), "wide": self.width > 1}


@dataclass(frozen=True, repr=False)
class Outer(Result, NotebookResult):
    path: Path
    inner: Inner
    pairs: list[Pair]
    by_name: dict[str, Inner | None] = field(default_factory=dict)


def test_to_dict_converts_what_a_result_holds() -> None:
    result = Outer(Path("a"), Inner(2.0), [Pair(Path("b"), (1.0, math.inf))], {"x": Inner(), "y": None})
    values = result.to_dict()
    assert values == {
        "path": "a",
        "inner": {"width": 2.0, "wide": True},
        "pairs": [{"first": "b", "second": [1.0, None]}],
        "by_name": {"x": {"width": None, "wide": False}, "y": None},
    }
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_records_name_the_items_of_tuples() -> None:
    assert as_records([("a.jpg", "truncated")], "path", "reason") == [{"path": "a.jpg", "reason": "truncated"}]
    assert as_records([], "path", "reason") == []


def test_no_result_writes_to_dict_by_hand() -> None:
    """A cache is no result, and a card is read again."""
    files = {
        path.name for path in (ROOT / "featcache").rglob("*.py") if "def to_dict(" in path.read_text(encoding="utf-8")
    }
    assert files == {"results.py", "feature_cache.py", "model_card.py"}
