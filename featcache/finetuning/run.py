"""`FineTuneRun`: one fine-tuning run, which trains, saves checkpoints and resumes from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from featcache._utils.progress_bar import Progress
from featcache._utils.timing import PhaseTimer
from featcache.backbones.trainable import TrainableNetwork
from featcache.core.model_card import CHECKPOINT
from featcache.core.specs import ExtractSpec
from featcache.data.sample_loader import SampleLoader
from featcache.errors import FeatcacheError, RunError
from featcache.finetuning.initial_weights import InitialModel
from featcache.finetuning.resume import check_same_settings, complete_config
from featcache.finetuning.run_folder import BEST, NETWORK, RunFolder
from featcache.finetuning.run_logs import RunLogs
from featcache.heads.io import load_head
from featcache.heads.predict import classify
from featcache.metrics.classification import Accuracy
from featcache.metrics.multilabel import LabelAccuracy, judge
from featcache.training.checkpoint import SAVE_EVERY_S, damaged, load_checkpoint
from featcache.training.distributed import SINGLE_PROCESS, ProcessGroup
from featcache.training.evaluation import EvalResult
from featcache.training.live_batches import LiveBatches, uses_batch_statistics
from featcache.training.loop import Batches, EpochMetrics, TrainConfig, TrainState, evaluate_module, train
from featcache.training.loss import ClassificationLoss, class_weights
from featcache.training.network import BackboneWithHead

_MAX_SAVING_FRACTION = 0.05  # of the time


class FineTuneRun:
    """One fine-tuning run.

    Parameters
    ----------
    out : Path
        Its folder.
    backbone : TrainableNetwork
    spec : ExtractSpec
        Of the views.
    loader : SampleLoader
        Reads the samples of its manifest.
    mode : {"all", "head"}
        See `finetune`.
    initial : InitialModel
        The model at the start.
    config : TrainConfig
    timer : PhaseTimer
    view_config : dict
        What else decides the views, see `LiveData`.
    progress : Progress, optional
    on_epoch : Callable[[EpochMetrics], None], optional
        Called after each epoch, and when a run resumes, for each epoch before.
    process_group : ProcessGroup
        The processes that train together. The main process writes the files.
    log : sequence of str
        Formats of logs, see `RunLogs`.

    Attributes
    ----------
    state : TrainState
    config : dict
        What a resumed run must have in common, JSON values.
    notes : list of str
        Notes for the user, a line each.
    """

    def __init__(
        self,
        out: Path,
        backbone: TrainableNetwork,
        spec: ExtractSpec,
        loader: SampleLoader,
        mode: Literal["all", "head"],
        initial: InitialModel,
        config: TrainConfig,
        *,
        timer: PhaseTimer,
        view_config: Mapping[str, Any],
        progress: Progress | None = None,
        on_epoch: Callable[[EpochMetrics], None] | None = None,
        process_group: ProcessGroup = SINGLE_PROCESS,
        log: Sequence[str] = (),
    ) -> None:
        self.out, self.backbone, self.spec, self.mode = out, backbone, spec, mode
        self.loader, self.on_epoch, self.process_group = loader, on_epoch, process_group
        self.strategy = initial.strategy
        self.samples = samples = loader.manifest.samples
        self.logs = RunLogs(out, log)
        self.folder = RunFolder(out, spec, backbone.weights, samples, loader.skipped)
        self.initial_val: EvalResult | None = None  # before the first step, with a fitted head
        self.averaged_val: EvalResult | None = None  # of the average of initial and best weights
        self.notes: list[str] = []
        self._initial_weights = initial.copy_weights() if self.strategy.wise_ft is not None else {}
        try:
            weights = class_weights(config.class_weight, samples.labels[samples.rows("train")], samples.classes)
        except ValueError as error:
            raise RunError(str(error)) from error
        loss = ClassificationLoss(config.label_smoothing, weights)
        self.state = TrainState(initial.module, config, param_groups=initial.param_groups, loss=loss)
        self._batches = LiveBatches(backbone, spec, loader, mode, timer, progress, process_group)
        self._batches.batch_size = config.batch_size
        self._batches.merge_last_single = uses_batch_statistics(initial.module)
        self._saved_at, self._saving_s = time.monotonic(), 0.0
        self.config = {
            **spec.flat(),
            "train": mode,
            **asdict(config),
            **initial.config,
            **view_config,
            "images": samples.digest(),
        }

    def sync_unreadable(self) -> None:
        """Exchange which images are unreadable, so that all processes cut the same batches."""
        self._batches.sync_unreadable()

    def evaluate_initial_head(self) -> None:
        """Evaluate a fitted initial head on val, before the first step."""
        if self.strategy.init_head is not None and self.initial_val is None:
            self.initial_val = self._evaluate("val")

    def train(self) -> None:
        """Train from the checkpoint, or the start, to the end."""
        with self.backbone.exact():
            train(
                self.state,
                lambda epoch: self._save_between(self._batches.train(epoch)),
                lambda: self._save_between(self._batches.evaluation("val")),
                seed=self.spec.view.seed,
                on_epoch=self._finish_epoch,
                context=self._context,
                process_group=self.process_group,
            )

    def apply_wise_ft(self) -> None:
        """Save the average of the initial and the best weights, if the strategy includes it. It may be repeated."""
        network = self.state.module
        if self.strategy.wise_ft is None or not isinstance(network, BackboneWithHead):
            return
        self.process_group.barrier()
        network.load(self.out / BEST)
        network.interpolate_weights(self._initial_weights, self.strategy.wise_ft)
        self.averaged_val = self._evaluate("val")
        if self.process_group.is_main_process:
            self.folder.save_model(network, self.averaged_val)

    def load_checkpoint(self, allow_longer: bool = False) -> None:
        """Resume from the checkpoint. Raises RunError if it is damaged or of a run with other settings.

        allow_longer : whether the requested training may have more epochs or more patience.
        """
        state, config = load_checkpoint(self.out / CHECKPOINT)
        config = complete_config(config)
        if config["init_head"] != self.config["init_head"]:
            raise RunError(self._other_head(config["init_head"]))
        differing = check_same_settings(self.out, config, self.config, allow_longer)
        try:
            self._load_state(state)
        except (OSError, MemoryError, FeatcacheError):
            raise
        except Exception as error:  # wrong values, of any kind
            raise damaged(self.out / CHECKPOINT, error) from error
        if differing and self.state.config.schedule == "cosine" and self.state.history:
            self.notes.append(
                f"epochs 1 to {len(self.state.history)} used the learning rates of a cosine over {config['epochs']} "
                f"epochs, later ones those of a cosine over {self.state.config.epochs}"
            )
        if self.state.is_finished:
            self.notes.append(
                "the run was finished: nothing was trained. To train longer: more --epochs, with --resume"
            )
        for epoch in self.state.history:
            if self.on_epoch:
                self.on_epoch(epoch)
        if self.process_group.is_main_process:
            self.logs.write(self.state)

    def accuracy(self, weights: Literal["initial", "best", "saved"]) -> Accuracy | LabelAccuracy | None:
        """On val: of the initial head, of the best epoch, or of the saved weights. None if there is no such result."""
        results = {
            "initial": self.initial_val,
            "best": self.state.best_val,
            "saved": self.averaged_val or self.state.best_val,
        }
        result = results[weights]
        return self._judge(result) if result else None

    def test(self) -> Accuracy | LabelAccuracy | None:
        """Evaluate the saved weights on test. None if the data has no readable test images."""
        if not len(self.samples.rows("test")):
            return None
        self.process_group.barrier()
        if isinstance(self.state.module, BackboneWithHead):
            self.state.module.load(self.out / NETWORK)
            result = self._evaluate("test")
            labels, predicted = result.labels.numpy(), result.predicted.numpy()
            probabilities = result.probabilities
        else:
            head = load_head(self.out / "head.safetensors")
            shard = [(x.cpu().numpy(), y.cpu().numpy()) for x, y in self._batches.evaluation("test")]
            batches = [batch for shard in self.process_group.all_gather(shard) for batch in shard]
            if not batches:
                return None
            x, labels = (np.concatenate(column) for column in zip(*batches, strict=True))
            n_classes, multilabel = len(self.samples.classes), self.samples.multilabel
            predicted, probabilities = classify(head, x, n_classes, multilabel=multilabel)
        if self.process_group.is_main_process:
            self.folder.save_test_predictions(labels, predicted, probabilities)
        return judge(labels, predicted, probabilities, self.samples.classes)

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self.state.load_state_dict(dict(state))
        self._batches.position = state.get("position", 0)
        if not self.process_group.is_main_process:
            self.state.accumulator = None  # the main process counts what the checkpoint holds, and draws as it did
        self.loader.skipped.update(state["skipped"])
        self.initial_val = EvalResult(**state["first"]) if state.get("first") else None
        for result in filter(None, (self.state.best_val, self.initial_val)):
            self._judge(result)  # impossible classes are an error here, not after the last epoch

    def _other_head(self, existing: str | None) -> str:
        """Why a run cannot resume with the requested head. existing : the hash of the run's own head."""
        if existing is None:
            return f"{self.out} began without a fitted head. Resume without --init-head, or give another folder."
        if self.strategy.init_head is None:
            return (
                f"{self.out} began with a fitted head. Resume with --init-head and that head, or give another folder."
            )
        return (
            f"the head in {self.strategy.init_head} is not the head that {self.out} began with: it was fitted again, "
            "or is in another folder. Resume with that head, or give another folder to begin with this head."
        )

    def _judge(self, result: EvalResult) -> Accuracy | LabelAccuracy:
        return judge(result.labels.numpy(), result.predicted.numpy(), result.probabilities, self.samples.classes)

    def _context(self) -> AbstractContextManager[None]:
        """The precision of the forward pass. A head on features computes in fp32."""
        return self.backbone.autocast() if self.mode == "all" else self.backbone.exact()

    def _evaluate(self, split: str) -> EvalResult:
        return evaluate_module(self.state.module, self._batches.evaluation(split), self._context, self.process_group)

    def _save_between(self, batches: Batches) -> Batches:
        """The batches. The state is saved now and then between two of them, and when the work is interrupted.

        Several processes cannot agree on a batch. They resume after the last complete epoch.
        """
        while True:
            try:
                batch = next(batches, None)
                since_saved_s = time.monotonic() - self._saved_at
                if since_saved_s > max(SAVE_EVERY_S, self._saving_s / _MAX_SAVING_FRACTION):
                    self._save_checkpoint()
            except BaseException:
                self._save_checkpoint()
                raise
            if batch is None:
                return
            yield batch

    def _finish_epoch(self, state: TrainState) -> None:
        """Save the best weights, then the checkpoint. A kill in between only repeats the epoch."""
        last_val = state.last_val
        if state.best_val is None or last_val is None or not len(last_val.labels):
            raise RunError(
                f"{self.loader.manifest.source.name} has no readable val {self.loader.manifest.modality.plural}"
            )
        if state.best is None or state.best.diverged:
            raise RunError(
                f"training diverged in epoch {len(state.history)}: the loss on val is not finite. Nothing was saved. "
                f"Give an --lr below {state.config.lr:g}, with --overwrite or another folder."
            )
        self._batches.position = 0
        if not self.process_group.is_main_process:
            return
        if state.best is state.history[-1]:
            if self.strategy.wise_ft is not None and isinstance(state.module, BackboneWithHead):
                self.folder.save_best_weights(state.module)
            self.folder.save_model(state.module, state.best_val)
        self.folder.save_last_predictions(last_val)
        self._save_checkpoint()
        self.logs.write(state)
        if self.on_epoch:
            self.on_epoch(state.history[-1])

    def _save_checkpoint(self) -> None:
        """Replace the checkpoint, within an epoch or after it."""
        if self.process_group.size > 1 and (
            self.state.accumulator is not None or not self.process_group.is_main_process
        ):
            return
        started = time.monotonic()
        run_state = {
            "skipped": self.loader.skipped,
            "first": vars(self.initial_val) if self.initial_val else None,
            "position": self._batches.position,
        }
        self.folder.save_checkpoint({**run_state, **self.state.state_dict()}, self.config)
        self._saved_at = time.monotonic()
        self._saving_s = self._saved_at - started
