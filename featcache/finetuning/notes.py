"""`run_notes`: notes for the user on a fine-tuning run."""

from __future__ import annotations

from pathlib import Path

from featcache.core.model_card import ModelCard
from featcache.data.input_notes import remark_notes
from featcache.finetuning.run import FineTuneRun
from featcache.heads.imagenet import describe_choice, is_imagenet
from featcache.training.config import TrainConfig
from featcache.training.loop import EpochMetrics


def run_notes(run: FineTuneRun, weights_note: str | None) -> tuple[str, ...]:
    """Notes for the user, a line each."""
    init_head, ids = run.strategy.init_head, run.samples.ids
    notes = [weights_note] if weights_note else []
    if init_head is not None and is_imagenet(init_head):
        notes += describe_choice(init_head, run.samples.classes)
    elif init_head is not None and ModelCard.read(Path(init_head)).thresholds is not None:
        notes.append(f"the thresholds of {init_head} are not used: this run decides every label at 0.5")
    notes += run.notes
    notes += _stop_notes(run.state.history, run.state.config)
    remarks = {
        row: remark for shard in run.process_group.all_gather(run.loader.remarks) for row, remark in shard.items()
    }
    notes += remark_notes([(ids[row], remark) for row, remark in sorted(remarks.items())])
    return tuple(notes)


def _stop_notes(history: list[EpochMetrics], config: TrainConfig) -> list[str]:
    """Why the training ended before its last epoch."""
    if history[-1].diverged:
        best = max(history, key=lambda epoch: epoch.score)
        return [
            f"training diverged in epoch {len(history)} of {config.epochs}: the loss on val is not finite; epoch "
            f"{best.epoch} was saved; give a lower --lr"
        ]
    if len(history) < config.epochs:
        return [
            f"stopped after epoch {len(history)} of {config.epochs}: in {config.patience} epoch(s) neither the val "
            "score nor the val loss improved (--patience)"
        ]
    return []
