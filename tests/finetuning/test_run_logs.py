"""Logs of a fine-tuning run: the figures of its report, each once, also after a kill."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from featcache._utils import environment
from featcache.errors import MissingExtraError, RunError
from featcache.finetuning.finetune import FineTune, finetune
from featcache.finetuning.run_logs import check_formats
from featcache.training.checkpoint import load_checkpoint, save_checkpoint
from featcache.training.loop import EpochMetrics
from forks import fork
from trainable import CONFIG, SEED, finetune_and_die, trainable_backbone

STEPS = 3  # 13 images in batches of 4: the last one joins the batch before
needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="the extra tensorboard is not installed"
)


def tune(data: Path, out: Path, **options: Any) -> FineTune:
    return finetune(data, out, **{"backbone": trainable_backbone(), "config": CONFIG, "seed": SEED, **options})


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def timeless(out: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines(out)]


def scalars(out: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads: tag to steps and values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_lines_are_the_epochs_and_their_steps(split_folder: Path, tmp_path: Path) -> None:
    run = tune(split_folder, tmp_path / "run", log=["jsonl"])
    found = lines(tmp_path / "run")
    epochs = [line for line in found if "step_loss" not in line]
    assert epochs == [
        {"step": STEPS * epoch.epoch, **{name: value for name, value in vars(epoch).items() if value is not None}}
        for epoch in run.history
    ]
    steps = [line for line in found if "step_loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 4 * STEPS + 1))
    for epoch in run.history:
        losses = [line["step_loss"] for line in steps if line["epoch"] == epoch.epoch]
        assert (4 * losses[0] + 4 * losses[1] + 5 * losses[2]) / 13 == pytest.approx(epoch.loss)
    assert [line["epoch"] for line in found] == [epoch for epoch in (1, 2, 3, 4) for _ in range(STEPS + 1)]
    assert not (tmp_path / "run/tensorboard").exists()


@needs_tensorboard
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("moment", ["after the epoch", "before the log is written", "while the checkpoint is written"])
def test_a_killed_run_has_each_figure_once(moment: str, split_folder: Path, tmp_path: Path) -> None:
    both = ("jsonl", "tensorboard")
    tune(split_folder, tmp_path / "whole", log=both)
    process = fork(finetune_and_die, str(split_folder), str(tmp_path / "run"), moment, 2, both)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    tune(split_folder, tmp_path / "run")  # the logs go on although the option is missing
    assert timeless(tmp_path / "run") == timeless(tmp_path / "whole")
    read, expected = scalars(tmp_path / "run"), scalars(tmp_path / "whole")
    assert len(read.pop("seconds")) == len(expected.pop("seconds")) == CONFIG.epochs
    assert read == expected


@needs_tensorboard
def test_tensorboard_reads_the_same_figures(split_folder: Path, tmp_path: Path) -> None:
    run = tune(split_folder, tmp_path / "run", log=["tensorboard", "jsonl", "tensorboard"])
    found = scalars(tmp_path / "run")
    fields = {
        "lr": "lr",
        "seconds": "seconds",
        "train/loss": "loss",
        "train/accuracy": "accuracy",
        "val/loss": "val_loss",
        "val/accuracy": "val_accuracy",
    }
    assert set(found) == {*fields, "train/step_loss"}
    for tag, field in fields.items():
        assert [step for step, _ in found[tag]] == [1, 2, 3, 4]
        assert [value for _, value in found[tag]] == pytest.approx([getattr(epoch, field) for epoch in run.history])
    steps = [(line["step"], line["step_loss"]) for line in lines(tmp_path / "run") if "step_loss" in line]
    assert [step for step, _ in found["train/step_loss"]] == [step for step, _ in steps]
    assert [value for _, value in found["train/step_loss"]] == pytest.approx([loss for _, loss in steps])
    assert len(list((tmp_path / "run/tensorboard").iterdir())) == 1


def test_an_epoch_that_was_interrupted_has_its_steps_once(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featcache.finetuning.run import FineTuneRun

    tune(split_folder, tmp_path / "whole", log="jsonl")
    save_between = FineTuneRun._save_between

    def stop(self: FineTuneRun, batches: Any) -> Any:
        for number, batch in enumerate(save_between(self, batches)):
            if (
                number == 1
                and len(self.state.history) == 1
                and batch[0].requires_grad is False
                and self.state.accumulator
            ):
                self._save_checkpoint()
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(FineTuneRun, "_save_between", stop)
    with pytest.raises(KeyboardInterrupt):
        tune(split_folder, tmp_path / "run", log="jsonl")
    monkeypatch.setattr(FineTuneRun, "_save_between", save_between)
    assert [line["epoch"] for line in lines(tmp_path / "run")] == [1] * (STEPS + 1)
    tune(split_folder, tmp_path / "run", log="jsonl")
    assert timeless(tmp_path / "run") == timeless(tmp_path / "whole")


def test_a_log_may_be_asked_for_later_and_a_new_run_has_none_of_the_old(split_folder: Path, tmp_path: Path) -> None:
    run = tune(split_folder, tmp_path / "run")
    assert not (tmp_path / "run/log.jsonl").exists()
    tune(split_folder, tmp_path / "run", log=["jsonl"])
    assert [line["loss"] for line in lines(tmp_path / "run") if "loss" in line] == [each.loss for each in run.history]
    tune(split_folder, tmp_path / "run", overwrite=True)
    assert not (tmp_path / "run/log.jsonl").exists()


def test_a_run_of_before_has_no_steps_but_its_epochs(split_folder: Path, tmp_path: Path) -> None:
    run = tune(split_folder, tmp_path / "run")
    checkpoint = tmp_path / "run/last.pt"
    state, config = load_checkpoint(checkpoint)
    del state["step_losses"]
    save_checkpoint(checkpoint, state, config)
    tune(split_folder, tmp_path / "run", log=["jsonl"])
    assert [(line["step"], line["val_loss"]) for line in lines(tmp_path / "run")] == [
        (0, epoch.val_loss) for epoch in run.history
    ]


def test_losses_that_are_not_finite_are_null(split_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="diverged"):
        tune(split_folder, tmp_path / "run", config=dataclasses.replace(CONFIG, lr=1e30), log=["jsonl"])
    assert not (tmp_path / "run/log.jsonl").exists()  # nothing of such a run is saved


def test_an_unknown_format_and_a_missing_extra_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^log is 'csv'; it must be jsonl or tensorboard$"):
        finetune("photos", tmp_path / "run", log=["csv"])
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        finetune("photos", tmp_path / "run", log=["tensorboard"])
    assert str(caught.value) == (
        'this needs tensorboard, which is not installed: pip install -e ".[tensorboard]" in the clone'
    )
    assert list(tmp_path.iterdir()) == []
    assert check_formats("jsonl") == ("jsonl",)


def test_metrics_of_several_labels_are_in_the_lines() -> None:
    from featcache.finetuning.run_logs import _scalars

    metrics = vars(EpochMetrics(1, 0.1, 0.5, 0.5, 0.5, 0.5, 1.0, 0.25))
    assert dict(_scalars({"step": 1, **metrics}))["val/mean_average_precision"] == 0.25
