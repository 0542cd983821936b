"""The examples in docstrings of public classes and functions that train, predict, evaluate, export and serve."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import featcache


@pytest.mark.parametrize("name", ["Classifier", "Prediction", "TrainConfig", "evaluate", "export", "finetune", "serve"])
def test_the_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (examples,) = doctest.DocTestFinder(recurse=False).find(getattr(featcache, name), name, globs={})
    assert examples.examples
    report: list[str] = []
    result = doctest.DocTestRunner().run(examples, out=report.append)
    assert result.failed == 0, "".join(report)
