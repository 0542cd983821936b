"""Folders and commands for the tests of the command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from click.testing import CliRunner, Result

import featcache
from featcache.extraction.extract import extract
from featcache.metrics.predictions import FILE, predictions_csv
from toys import random_image, toy_backbone

ROOT = Path(featcache.__file__).parents[1]
PATHS = os.pathsep.join(map(str, (ROOT, ROOT / "cli", ROOT / "tests/helpers")))
"""Where processes that tests start find what they import: PYTHONPATH."""
COUNTS = {"train/ants": 7, "train/bees": 6, "val/ants": 3, "val/bees": 2}
WIDE = {"COLUMNS": "1000"}
"""A terminal so wide that each message is one line, for tests that compare them."""
SMALL = ("--backbone", "mobilenet_v3_small", "--weights", "none", "--image-size", "32", "--workers", "2")


def write_folder(root: Path, counts: dict[str, int] | None = None, seed: int = 0) -> Path:
    """PNG images, all different, tinted by class."""
    counts = counts or COUNTS
    classes = sorted({Path(folder).name for folder in counts})
    for place, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True)
        for number in range(count):
            image = random_image(10_000 * seed + 1000 * place + number, tint=classes.index(Path(folder).name))
            image.save(root / folder / f"{number:03d}.png")
    return root


def toy_cache(data: Path, path: Path, views: int = 2) -> Path:
    """A cache of the toy backbone's three features: the tint, so that every head is right."""
    extract(data, path, backbone=toy_backbone(), views=views, workers=2, dtype="float32")
    return path


def drop_hashes(model: Path) -> None:
    """Remove the hashes from model.json, as a model of before or one that somebody tampers with has none."""
    card = json.loads((model / "model.json").read_text(encoding="utf-8"))
    del card["sha256"]
    (model / "model.json").write_text(json.dumps(card), encoding="utf-8")


def write_predictions(folder: Path, *given: Any) -> None:
    """val.csv alone, without a model; see `predictions_csv`."""
    (folder / FILE).write_bytes(predictions_csv(*given))


def featcache_cli(*arguments: object) -> Result:
    from featcache_cli.main import main

    return CliRunner(env=WIDE).invoke(main, [str(argument) for argument in arguments])


def done(*arguments: object) -> str:
    """Standard output of a command that must succeed."""
    result = featcache_cli(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def as_json(*arguments: object) -> dict[str, Any]:
    """The one JSON object that a command prints."""
    found = json.loads(done(*arguments, "--json"), parse_constant=_no_json)
    assert isinstance(found, dict)
    return found


def _no_json(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


def refused(*arguments: object, status: int = 1) -> str:
    """The message of a command that must fail without a traceback."""
    result = featcache_cli(*arguments)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return result.stderr.partition("Error: ")[2].strip()


def in_process(code: str, *arguments: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run Python code in a fresh interpreter. timeout : in seconds."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "cli")])
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **WIDE, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def deliver(number: signal.Signals) -> None:
    """Do what Python does when a signal comes, without the system.

    Libraries that a test before has loaded may have taken away the stack that the system would deliver it on: the
    worker then dies of a segmentation fault. Real signals are for processes of their own.
    """
    handler = signal.getsignal(number)
    if callable(handler):
        handler(number, None)


def read_until(stream: IO[str], pattern: str) -> str:
    """What a process writes until the pattern has come; its end before that is a failure."""
    text = ""
    while not re.search(pattern, text):
        character = stream.read(1)
        assert character, f"ended without {pattern!r}: {text}"
        text += character
    return text
