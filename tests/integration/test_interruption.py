"""An interrupted fine-tuning goes on within the epoch, a longer one after its end; a full disk loses nothing."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from commands import PATHS, SMALL, done, read_until, refused, write_folder
from featcache.core.model_card import ModelCard
from featcache.errors import FeatcacheError, RunError
from featcache.finetuning import run as run_module
from featcache.finetuning.finetune import FineTune, finetune
from featcache.training.loop import EpochMetrics, TrainConfig
from trainable import CONFIG, SEED, trainable_backbone

STEP = dataclasses.replace(CONFIG, schedule="step", step_size=2)


class StopError(Exception):
    """What a progress callback raises to stop the work."""


def stop_at(what: str, done: int) -> Callable[[str, int, int], None]:
    def progress(step: str, count: int, total: int) -> None:
        if (step, count) == (what, done):
            raise StopError

    return progress


def tune(data: Path, out: Path, **options: Any) -> FineTune:
    return finetune(data, out, **{"backbone": trainable_backbone(), "config": CONFIG, "seed": SEED, **options})


def timeless(run: FineTune) -> list[EpochMetrics]:
    return [dataclasses.replace(epoch, seconds=0.0) for epoch in run.history]


def contents(out: Path) -> dict[str, bytes]:
    """Of all files that do not hold times."""
    others = ("run.json", "last.pt", "run.lock")
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name not in others}


def assert_same(found: FineTune, expected: FineTune) -> None:
    assert timeless(found) == timeless(expected)
    assert found.report.accuracy == expected.report.accuracy
    assert contents(found.path) == contents(expected.path)


@pytest.mark.parametrize("mode", ["all", "head"])
@pytest.mark.parametrize(
    ("what", "done", "trained"),
    [("epoch 1", 4, 9), ("epoch 2", 8, 5), ("epoch 2", 13, 0), ("val", 5, 0)],
    ids=["first epoch", "second epoch", "after its last batch", "while it is evaluated"],
)
def test_a_run_stopped_within_an_epoch_goes_on_there_to_the_same_result(
    what: str, done: int, trained: int, mode: Any, split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tune(split_folder, tmp_path / "whole", mode=mode)
    with pytest.raises(StopError):
        tune(split_folder, tmp_path / "cut", mode=mode, progress=stop_at(what, done))
    shown: list[tuple[str, int]] = []
    torch.manual_seed(5)
    found = tune(split_folder, tmp_path / "cut", mode=mode, progress=lambda what, done, _: shown.append((what, done)))
    assert_same(found, expected)
    step = "epoch 1" if what == "val" else what
    again = [count for name, count in shown if name == step]
    assert (len(again) > 0) == (trained > 0)
    assert all(count > done for count in again)  # what was trained on is not trained on again


def test_a_run_stopped_again_and_again_reaches_the_same_result(split_folder: Path, tmp_path: Path) -> None:
    """With an unreadable image, which the count of rows must not trip over."""
    (split_folder / "train/ants/003.png").write_bytes(b"")
    expected = tune(split_folder, tmp_path / "whole")
    reports: list[int] = []

    def stop_after_each_batch(what: str, count: int, _total: int) -> None:
        if what.startswith("epoch"):
            reports.append(count)
            raise StopError

    for _ in range(3 * CONFIG.epochs):
        with pytest.raises(StopError):
            tune(split_folder, tmp_path / "cut", progress=stop_after_each_batch)
    assert len(reports) == 3 * CONFIG.epochs
    assert reports[0] in (4, 5)
    assert_same(tune(split_folder, tmp_path / "cut"), expected)


def test_the_state_is_saved_within_an_epoch_for_a_kill_that_cannot_be_answered(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(run_module, "_MAX_SAVING_FRACTION", float("inf"))
    expected = tune(split_folder, tmp_path / "whole")
    copies: list[bytes] = []

    def copy(what: str, _done: int, _total: int) -> None:
        if what == "epoch 2":
            copies.append((tmp_path / "run/last.pt").read_bytes())

    tune(split_folder, tmp_path / "run", progress=copy)
    assert len(copies) == len(set(copies)) == 3
    for content in copies:  # as a kill just after it would have left it
        (tmp_path / "run/last.pt").write_bytes(content)
        assert_same(tune(split_folder, tmp_path / "run"), expected)


@pytest.mark.parametrize("resume", [False, True])
def test_the_same_call_again_changes_nothing_and_says_so(resume: bool, split_folder: Path, tmp_path: Path) -> None:
    first = tune(split_folder, tmp_path / "run")
    before = contents(tmp_path / "run")
    again = tune(split_folder, tmp_path / "run", resume=resume)
    assert contents(tmp_path / "run") == before
    assert again.history == first.history
    assert "the run was finished: nothing was trained. To train longer: more --epochs, with --resume" in str(again)
    assert "had ended before" not in str(first)


@pytest.mark.parametrize("resume", [False, True])
def test_other_settings_are_refused_naming_them(resume: bool, split_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    tune(split_folder, out)
    before = contents(out)
    with pytest.raises(RunError) as caught:
        tune(split_folder, out, resume=resume, config=dataclasses.replace(CONFIG, lr=0.5, epochs=9))
    assert str(caught.value) == (
        f"{out} was run with epochs=4, you asked for 9; lr=0.02, you asked for 0.5. "
        "Resume with the same settings, give another folder, or begin again with --overwrite."
    )
    assert contents(out) == before


def test_more_epochs_are_refused_without_resume_and_fewer_in_any_case(split_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    tune(split_folder, out, config=dataclasses.replace(STEP, epochs=2))
    with pytest.raises(RunError, match=r"with epochs=2, you asked for 3\. To train it longer, add --resume; or give"):
        tune(split_folder, out, config=dataclasses.replace(STEP, epochs=3))
    with pytest.raises(RunError, match=r"with epochs=2, you asked for 1\. Resume with the same settings"):
        tune(split_folder, out, config=dataclasses.replace(STEP, epochs=1), resume=True)


@pytest.mark.parametrize("schedule", ["step", "constant"])
def test_a_run_made_longer_is_the_run_that_was_that_long_from_the_start(
    schedule: Any, split_folder: Path, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(STEP, schedule=schedule)
    expected = tune(split_folder, tmp_path / "whole", config=recipe)
    tune(split_folder, tmp_path / "run", config=dataclasses.replace(recipe, epochs=2))
    assert_same(tune(split_folder, tmp_path / "run", config=recipe, resume=True), expected)


def test_a_longer_cosine_has_the_rates_of_the_long_one_from_there_on(split_folder: Path, tmp_path: Path) -> None:
    whole = tune(split_folder, tmp_path / "whole")
    tune(split_folder, tmp_path / "run", config=dataclasses.replace(CONFIG, epochs=2))
    found = tune(split_folder, tmp_path / "run", resume=True)
    rates = [epoch.lr for epoch in found.history]
    assert rates == pytest.approx([0.02, 0.01, *(epoch.lr for epoch in whole.history[2:])])
    assert (
        "epochs 1 to 2 used the learning rates of a cosine over 2 epochs, later ones those of a cosine over 4"
        in found.notes
    )


def test_patience_ends_a_run_early_and_more_of_it_goes_on(split_folder: Path, tmp_path: Path) -> None:
    """At such a rate the val loss rises at once."""
    recipe = TrainConfig(epochs=9, batch_size=5, lr=5.0, momentum=0.9, schedule="constant")
    whole = tune(split_folder, tmp_path / "whole", config=dataclasses.replace(recipe, patience=None))
    history = whole.history

    def stale(end: int, patience: int) -> bool:
        return all(
            epoch.val_accuracy <= max(one.val_accuracy for one in history[: epoch.epoch - 1])
            and epoch.val_loss >= min(one.val_loss for one in history[: epoch.epoch - 1])
            for epoch in history[end - patience : end]
        )

    ends = {patience: next(end for end in range(patience + 1, 10) if stale(end, patience)) for patience in (1, 2)}
    for patience, end in ends.items():
        found = tune(
            split_folder, tmp_path / "run", config=dataclasses.replace(recipe, patience=patience), resume=patience == 2
        )
        assert timeless(found) == timeless(whole)[:end]
        assert (
            f"stopped after epoch {end} of 9: in {patience} epoch(s) neither the val score nor the val loss improved"
            in str(found)
        )
    assert ends[1] < ends[2]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_the_same_command_typed_twice_trains_once(split_folder: Path, tmp_path: Path) -> None:
    out, refusals = tmp_path / "run", []

    def again(epoch: EpochMetrics) -> None:
        if epoch.epoch == 1:
            with pytest.raises(RunError, match="is being trained by another process") as caught:
                tune(split_folder, out)
            refusals.append(caught.value)

    found = tune(split_folder, out, on_epoch=again)
    assert len(refusals) == 1
    assert len(found.history) == CONFIG.epochs
    assert not (out / "run.lock").exists()
    (out / "run.lock").touch()  # as a killed process leaves it
    assert tune(split_folder, out).history == found.history


SLOW_STEPS = """
import sys, time
from torch.optim.optimizer import register_optimizer_step_post_hook
from featcache_cli import progress
from featcache_cli.main import main
progress.EVERY_S = 0.05
SLOW
main(sys.argv[1:])
"""
SLEEP = "register_optimizer_step_post_hook(lambda *_: time.sleep(0.3))"
IN_C = """import hashlib
register_optimizer_step_post_hook(lambda *_: hashlib.pbkdf2_hmac("sha256", b"a", b"b", 1_500_000))"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
@pytest.mark.parametrize("slow", [SLEEP, IN_C], ids=["between", "within a call of more than a second"])
def test_sigterm_and_the_same_command_again(slow: str, tmp_path: Path) -> None:
    counts = {"train/ants": 20, "train/bees": 20, "val/ants": 3, "val/bees": 2}
    data, out = write_folder(tmp_path / "data", counts), tmp_path / "run"
    words = list(map(str, ("finetune", data, "-o", out, "--epochs", 1, "--batch-size", 4, *SMALL)))
    command = [sys.executable, "-c", SLOW_STEPS.replace("SLOW", slow), *words]
    environment = {**os.environ, "PYTHONPATH": PATHS}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        read_until(process.stderr, r"epoch 1: [2-9] of")
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM, rest
    assert "nothing is lost. Run the same command again to resume." in rest
    assert "Traceback" not in rest
    assert torch.load(out / "last.pt", weights_only=True)["under_way"] is not None
    assert "1 epochs in" in done(*words)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no RLIMIT_FSIZE")
@pytest.mark.parametrize("mode", ["all", "head"])
def test_a_full_disk_is_an_error_and_the_run_goes_on_when_there_is_room(
    mode: Any, split_folder: Path, tmp_path: Path
) -> None:
    """No file may grow beyond some size, once the first epoch is over: weights and checkpoint in turn do not fit."""
    expected = tune(split_folder, tmp_path / "whole", mode=mode)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "whole").iterdir()}
    out = tmp_path / "run"
    saved: dict[str, bytes] = {}

    def fill(epoch: EpochMetrics) -> None:
        if epoch.epoch == 1 and not saved:
            saved.update(contents(out), **{"last.pt": (out / "last.pt").read_bytes()})
        if epoch.epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

    for limit in sorted({100, *(size - 10 for size in sizes.values() if size > 110)}):
        try:
            with pytest.raises(FeatcacheError, match="limit on file sizes") as caught:
                tune(split_folder, out, mode=mode, on_epoch=fill)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert str(caught.value).startswith(str(out))
        assert str(caught.value).endswith("Then run the same command again. It resumes from the last saved state.")
        ModelCard.read(out)
        assert [path.name for path in out.iterdir() if path.name.endswith(".draft")] == []
        if limit == 100:
            assert (out / "last.pt").read_bytes() == saved.pop("last.pt")
            assert {name: content for name, content in contents(out).items() if name in saved} == saved
    assert_same(tune(split_folder, out, mode=mode), expected)


def test_a_full_disk_at_the_command_line_has_no_traceback(tmp_path: Path) -> None:
    data, out = write_folder(tmp_path / "data"), tmp_path / "run"
    options = ("--epochs", 2, "--batch-size", 5, *SMALL)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (1000, 8_000_000):  # not even the list of predictions; the weights, but not the checkpoint
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            message = refused("finetune", data, "-o", out, *options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "cannot be written: it is larger than the limit on file sizes" in message
    assert "2 epochs in" in done("finetune", data, "-o", out, *options)


def test_seconds_of_an_interrupted_epoch_are_those_of_both_parts(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_then_stop(what: str, done: int, _total: int) -> None:
        if what == "epoch 1":
            time.sleep(0.1)
        if (what, done) == ("epoch 1", 8):
            raise StopError

    with pytest.raises(StopError):
        tune(split_folder, tmp_path / "run", progress=slow_then_stop)
    assert tune(split_folder, tmp_path / "run").history[0].seconds > 0.1
