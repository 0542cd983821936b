"""`FineTuneRun`: one fine-tuning run, with its batches, its checkpoints and its files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from featcache._utils.files import write_file
from featcache._utils.progress_bar import Progress
from featcache._utils.timing import PhaseTimer
from featcache.backbones.backbone import Backbone
from featcache.core.model_card import CHECKPOINT, ModelCard
from featcache.core.model_folder import attach
from featcache.core.specs import PENULTIMATE, ExtractSpec
from featcache.data.manifest import Manifest
from featcache.errors import FeatcacheError, OutputError, RunError
from featcache.finetuning.initial_weights import InitialModel
from featcache.finetuning.strategy import FineTuneStrategy
from featcache.heads import registry
from featcache.heads.io import load_head, save_head
from featcache.heads.linear import LinearHead
from featcache.heads.one_vs_rest import OneVsRestHead
from featcache.metrics.classification import Accuracy
from featcache.metrics.multilabel import LabelAccuracy, judge
from featcache.metrics.predictions import FILE, LAST, TEST, split_predictions_csv
from featcache.training.checkpoint import damaged, load_checkpoint, load_config, save_checkpoint
from featcache.training.distributed import SINGLE_PROCESS, ProcessGroup
from featcache.training.evaluation import EvalAccumulator, EvalResult
from featcache.training.live_batches import LiveBatches, normalises_by_batch
from featcache.training.loop import Batches, EpochMetrics, TrainConfig, TrainState, evaluate_module, train
from featcache.training.loss import ClassificationLoss, class_weights
from featcache.training.network import BackboneWithHead
from featcache.vision.decode import MAX_PIXELS
from featcache.vision.loader import ViewLoader

SAVE_EVERY_S = 300.0
"""Seconds within an epoch after which the state is saved, for a kill that cannot be answered."""

_SAVING_SHARE = 0.05  # of the time, at most, goes into that
_KEPT = "network.safetensors"
_TUNED = "network.tuned.safetensors"  # of the best epoch, where an average of it with the start is kept
_ENDS = ("epochs", "patience")  # of a recipe: they say when training ends, and change nothing before that


def refuse_early(out: Path, known: Mapping[str, Any], longer: bool) -> None:
    """Raise RunError where the checkpoint in a folder is of a run with other settings, before a network is loaded.

    known : what of `FineTuneRun.config` is known before that, `_ENDS` among it. longer : see `FineTuneRun.restore`.
    """
    if (out / CHECKPOINT).exists():
        refuse_other(out, _whole(load_config(out / CHECKPOINT)), known, longer)


def refuse_other(out: Path, before: Mapping[str, Any], now: Mapping[str, Any], longer: bool) -> list[str]:
    """The settings that differ from those of the run in a folder. Raises RunError, unless it is to end later alone."""
    differing = [name for name, value in now.items() if before.get(name) != value]
    ends = [(before[name], now[name]) for name in _ENDS]
    later = all(end is None or (begin is not None and end >= begin) for begin, end in ends)
    if differing and not (longer and later and set(differing) <= set(_ENDS)):
        texts = [f"{name}={before.get(name)}, you asked for {now[name]}" for name in differing]
        cure = "Resume with its own settings, give another folder, or begin anew with --overwrite."
        if later and set(differing) <= set(_ENDS):
            cure = "To train it longer, add --resume; or give another folder."
        raise RunError(f"{out} was run with {'; '.join(texts)}. {cure}")
    return differing


def _whole(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a checkpoint; older runs had none of the fields that they lack."""
    return {**FineTuneStrategy().config(), **asdict(TrainConfig()), "max_pixels": MAX_PIXELS, **config}


class FineTuneRun:
    """One fine-tuning run.

    Parameters
    ----------
    out : its folder. spec : of the views. mode : "all" or "head", see `finetune`. start : what it begins with.
    image_side : what the images are shrunk to, see `ImageCache`; None where they are whole.
    world : the processes that share it; the first of them writes.

    Attributes
    ----------
    notes : what a user should know, a line each.
    """

    def __init__(
        self,
        out: Path,
        backbone: Backbone,
        spec: ExtractSpec,
        manifest: Manifest,
        loader: ViewLoader,
        mode: Literal["all", "head"],
        start: InitialModel,
        recipe: TrainConfig,
        watch: PhaseTimer,
        image_side: int | None,
        progress: Progress | None,
        on_epoch: Callable[[EpochMetrics], None] | None,
        world: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.world = world
        self.out, self.backbone, self.spec, self.mode = out, backbone, spec, mode
        self.manifest, self.loader, self.on_epoch = manifest, loader, on_epoch
        self.plan = start.plan
        self.first: EvalResult | None = None  # of val, before any step, where the head was fitted before
        self.kept: EvalResult | None = None  # of val, where that is not the best epoch's
        self.notes: list[str] = []
        self._origin = start.weights() if self.plan.wise_ft is not None else {}
        samples = manifest.samples
        try:
            weights = class_weights(recipe.class_weight, samples.labels[samples.rows("train")], samples.classes)
        except ValueError as error:
            raise RunError(str(error)) from error
        objective = ClassificationLoss(recipe.label_smoothing, weights)
        self.training = TrainState(start.module, recipe, groups=start.groups, objective=objective)
        self._batches = LiveBatches(backbone, spec, loader, mode, watch, progress, world)
        self._batches.batch_size, self._batches.joins_single = recipe.batch_size, normalises_by_batch(start.module)
        self._saved_at, self._saving_s = time.monotonic(), 0.0
        self.config = {
            **spec.flat(),
            "train": mode,
            **asdict(recipe),
            **start.config,
            "max_pixels": loader.max_pixels,
            "images": samples.digest(),
            "image_side": image_side,
        }

    def screen(self) -> None:
        """Let several processes know together which images cannot be read, so that all cut the same batches."""
        self._batches.screen()

    def look(self) -> None:
        """Evaluate a fitted head on val as training finds it."""
        if self.plan.init_head is not None and self.first is None:
            self.first = self._evaluate("val")

    def train(self) -> None:
        """Train from where the checkpoint left it to the recipe's end."""
        with self.backbone.feature_extractor.exact():
            train(
                self.training,
                lambda epoch: self._saved(self._batches.train(epoch)),
                lambda: self._saved(self._batches.clean("val")),
                seed=self.spec.view.seed,
                on_epoch=self._finish_epoch,
                context=self._context,
                world=self.world,
            )

    def average(self) -> None:
        """Keep what lies between the start and the best epoch, where the plan says so; again gives the same."""
        module = self.training.module
        if self.plan.wise_ft is None or not isinstance(module, BackboneWithHead):
            return
        self.world.wait()
        module.load(self.out / _TUNED)
        module.mix(self._origin, self.plan.wise_ft)
        self.kept = self._evaluate("val")
        with self._writing():
            self._save(self.kept)

    def restore(self, longer: bool = False) -> None:
        """Take up the checkpoint, if it is one of the same run. Raises RunError.

        Parameters
        ----------
        longer : whether the recipe may end later than that of the run: after more epochs, or with more patience.
        """
        state, config = load_checkpoint(self.out / CHECKPOINT)
        config = _whole(config)
        if config["init_head"] != self.config["init_head"]:
            raise RunError(self._other_head(config["init_head"]))
        differing = refuse_other(self.out, config, self.config, longer)
        try:
            self._take_up(state)
        except (OSError, MemoryError, FeatcacheError):
            raise
        except Exception as error:  # of values that are not what they should be
            raise damaged(self.out / CHECKPOINT, error) from error
        if differing and self.training.recipe.schedule == "cosine" and self.training.history:
            self.notes.append(
                f"epochs 1 to {len(self.training.history)} had the rates of a cosine over {config['epochs']} epochs, "
                f"the others those of one over {self.training.recipe.epochs}"
            )
        if self.training.is_over:
            self.notes.append("this run had ended before: nothing was trained. Longer: more --epochs, with --resume")
        for epoch in self.training.history:
            if self.on_epoch:
                self.on_epoch(epoch)

    def _take_up(self, state: Mapping[str, Any]) -> None:
        self.training.restore(dict(state))
        self._batches.position = state.get("position", 0)
        if self.training.tally is not None and not self.world.first:
            self.training.tally = EvalAccumulator()  # what it holds is counted once, by the first process
        self.loader.skipped.update(state["skipped"])
        self.first = EvalResult(**state["first"]) if state.get("first") else None
        for kept in filter(None, (self.training.best_val, self.first)):
            self._judge(kept)  # classes that there are none of are an error here, not after the last epoch

    def _other_head(self, before: str | None) -> str:
        """Why a run cannot go on with the head that is asked for; before : the hash of its own one."""
        if before is None:
            return f"{self.out} began without a fitted head. Resume without --init-head, or give another folder."
        if self.plan.init_head is None:
            return f"{self.out} began with a fitted head. Resume with --init-head and that one, or give another folder."
        return (
            f"the head in {self.plan.init_head} is another than the one that {self.out} began with: it was fitted "
            "again, or is of another folder. Resume with that one, or give another folder to begin with this one."
        )

    def accuracy(self, which: Literal["first", "best", "kept"]) -> Accuracy | LabelAccuracy | None:
        """On val: before any step, of the best epoch, or of what was kept; None where there is none."""
        found = {"first": self.first, "best": self.training.best_val, "kept": self.kept or self.training.best_val}
        result = found[which]
        return self._judge(result) if result else None

    def test(self) -> Accuracy | LabelAccuracy | None:
        """Accuracy of the kept weights on test, where the data has one."""
        if not len(self.manifest.samples.rows("test")):
            return None
        self.world.wait()
        if isinstance(self.training.module, BackboneWithHead):
            self.training.module.load(self.out / _KEPT)
            found = self._evaluate("test")
            if self.world.first:
                attach(self.out, {TEST: self._predictions("test", found)})
            return self._judge(found)
        estimator = load_head(self.out / "head.safetensors")
        mine = [(x.cpu().numpy(), y.cpu().numpy()) for x, y in self._batches.clean("test")]
        pairs = [pair for share in self.world.gather(mine) for pair in share]
        if not pairs:
            return None  # none of them could be read
        several = self.manifest.samples.multilabel
        x, labels = (np.concatenate(column) for column in zip(*pairs, strict=True))
        answers = registry.classify(estimator, x, len(self._classes), multilabel=several)
        if self.world.first:
            content = split_predictions_csv(self.manifest.samples, "test", self.loader.skipped, labels, *answers)
            attach(self.out, {TEST: content})
        return judge(labels, *answers, self._classes)

    @property
    def _classes(self) -> tuple[str, ...]:
        return self.manifest.samples.classes

    def _judge(self, found: EvalResult) -> Accuracy | LabelAccuracy:
        return judge(found.labels.numpy(), found.predicted.numpy(), found.probabilities, self._classes)

    def _context(self) -> AbstractContextManager[None]:
        """What a forward pass computes in: of a head on features fp32."""
        extractor = self.backbone.feature_extractor
        return extractor.autocast() if self.mode == "all" else extractor.exact()

    def _evaluate(self, split: str) -> EvalResult:
        return evaluate_module(self.training.module, self._batches.clean(split), self._context, self.world)

    def _saved(self, batches: Batches) -> Batches:
        """The batches of an epoch; where something ends the work between two of them, the state is saved.

        Several processes cannot know that of each other: they go on after the last whole epoch.
        """
        while True:
            try:
                batch = next(batches, None)
                since = time.monotonic() - self._saved_at
                if since > max(SAVE_EVERY_S, self._saving_s / _SAVING_SHARE):
                    self._save_state()
            except BaseException:
                self._save_state()
                raise
            if batch is None:
                return
            yield batch

    def _finish_epoch(self, training: TrainState) -> None:
        """Best weights first, then the checkpoint: a kill in between repeats the epoch and nothing else."""
        last = training.last_val
        if training.best_val is None or last is None or not len(last.labels):
            raise RunError(f"{self.manifest.source.name} has no readable val images")
        if training.best is None or training.best.diverged:
            raise RunError(
                f"training diverged in epoch {len(training.history)}: the loss on val is no finite number. Nothing was "
                f"saved. Give a lower --lr than {training.recipe.lr:g}, with --overwrite or another folder."
            )
        self._batches.position = 0
        if not self.world.first:
            return
        with self._writing():
            if training.best is training.history[-1]:
                if self.plan.wise_ft is not None and isinstance(training.module, BackboneWithHead):
                    training.module.save(self.out / _TUNED)
                self._save(training.best_val)
            content = self._predictions("val", last)
            if content is None:
                (self.out / LAST).unlink(missing_ok=True)
            else:
                write_file(self.out / LAST, content)
        self._save_state()
        if self.on_epoch:
            self.on_epoch(training.history[-1])

    def _save_state(self) -> None:
        """Replace the checkpoint by one of now, within an epoch or after it."""
        if self.world.size > 1 and (self.training.tally is not None or not self.world.first):
            return
        started = time.monotonic()
        first = vars(self.first) if self.first else None
        own = {"skipped": self.loader.skipped, "first": first, "position": self._batches.position}
        with self._writing():
            save_checkpoint(self.out / CHECKPOINT, {**own, **self.training.state()}, self.config)
        self._saved_at = time.monotonic()
        self._saving_s = self._saved_at - started

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Errors of the disk, with what to do."""
        try:
            yield
        except OutputError as error:
            goes_on = ": it goes on from the state that was saved last" if (self.out / CHECKPOINT).exists() else ""
            raise OutputError(error.errno, f"{error} Run the same command again then{goes_on}.") from error

    def _save(self, val: EvalResult) -> None:
        """The weights as they are now, and what they predict of val."""
        if not self.world.first:
            return
        module, several = self.training.module, self.manifest.samples.multilabel
        if isinstance(module, BackboneWithHead):
            file, weights = _KEPT, module.to_bytes()
        else:
            layer = {name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}
            coef, intercept = layer["weight"], layer["bias"]
            labels = OneVsRestHead.from_weights(coef, intercept) if several else None
            head = labels or LinearHead.from_weights(coef, intercept, np.arange(len(self._classes)))
            file, weights = save_head(head)
        card = ModelCard(
            kind="network" if isinstance(module, BackboneWithHead) else "head",
            file=file,
            head="sgd",
            classes=self._classes,
            spec=self.spec,
            weights=self.backbone.weights,
            layer=PENULTIMATE,
            metrics=self._judge(val).to_dict(),
            multilabel=several,
        )
        card.write(self.out, weights, {FILE: self._predictions("val", val), TEST: None})

    def _predictions(self, split: str, found: EvalResult) -> bytes | None:
        """What was predicted of the images of a split, as CSV."""
        answers = found.labels.numpy(), found.predicted.numpy(), found.probabilities
        return split_predictions_csv(self.manifest.samples, split, self.loader.skipped, *answers)
