"""`Run`: one fine-tuning run, with its batches, its checkpoints and its files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from featcache import heads
from featcache.atomic import atomic_write, deferred_errors
from featcache.backbones import Backbone
from featcache.card import CHECKPOINT, ModelCard
from featcache.errors import RunError, first_line
from featcache.files import Progress
from featcache.headfile import dump_head, load_head
from featcache.linear import LinearHead
from featcache.loader import ViewLoader
from featcache.manifest import Manifest
from featcache.metrics import Accuracy, evaluate
from featcache.network import Network
from featcache.plan import Plan
from featcache.predictions import LAST, keep_predictions
from featcache.report import Stopwatch
from featcache.rng import epoch_order
from featcache.spec import PENULTIMATE, ExtractSpec
from featcache.starting import Start
from featcache.training import Batches, Epoch, Pass, Recipe, Training, evaluate_module, train
from featcache.world import ALONE, World

_VAL_BATCH = 32
_KEPT = "network.safetensors"
_TUNED = "network.tuned.safetensors"  # of the best epoch, where an average of it with the start is kept


class Run:
    """One fine-tuning run.

    Parameters
    ----------
    out : its folder. spec : of the views. mode : "all" or "head", see `finetune`. start : what it begins with.
    image_side : what the images are shrunk to, see `ImageCache`; None where they are whole.
    world : the processes that share it; the first of them writes.
    """

    def __init__(
        self,
        out: Path,
        backbone: Backbone,
        spec: ExtractSpec,
        manifest: Manifest,
        loader: ViewLoader,
        mode: Literal["all", "head"],
        start: Start,
        recipe: Recipe,
        watch: Stopwatch,
        image_side: int | None,
        progress: Progress | None,
        on_epoch: Callable[[Epoch], None] | None,
        world: World = ALONE,
    ) -> None:
        self.world = world
        self.out, self.backbone, self.spec, self.mode = out, backbone, spec, mode
        self.manifest, self.loader, self.watch = manifest, loader, watch
        self.progress, self.on_epoch = progress, on_epoch
        self.plan = start.plan
        self.first: Pass | None = None  # of val, before any step, where the head was fitted before
        self.kept: Pass | None = None  # of val, where that is not the best epoch's
        self._origin = start.weights() if self.plan.wise_ft is not None else {}
        self.training = Training(start.module, recipe, groups=start.groups)
        self.config = {
            **spec.flat(),
            "train": mode,
            **asdict(recipe),
            **start.config,
            "images": manifest.samples.digest(),
            "image_side": image_side,
        }

    def screen(self) -> None:
        """Let several processes know together which images cannot be read, so that all cut the same batches."""
        if self.world.size == 1:
            return
        for _ in self.loader.batches(self.world.share(np.arange(len(self.manifest.samples))), [0], _VAL_BATCH):
            pass
        for found in self.world.gather(self.loader.skipped):
            self.loader.skipped.update(found)

    def look(self) -> None:
        """Evaluate a fitted head on val as training finds it."""
        if self.plan.init_head is not None and self.first is None:
            self.first = self._evaluate("val")

    def train(self) -> None:
        """Train from the epoch after the last to the recipe's last."""
        with self.backbone.frozen.exact():
            train(
                self.training,
                self._train_batches,
                lambda: self._clean_batches("val"),
                seed=self.spec.view.seed,
                on_epoch=self._finish_epoch,
                context=self._context,
                world=self.world,
            )

    def average(self) -> None:
        """Keep what lies between the start and the best epoch, where the plan says so; again gives the same."""
        module = self.training.module
        if self.plan.wise_ft is None or not isinstance(module, Network):
            return
        self.world.wait()
        module.load(self.out / _TUNED)
        module.mix(self._origin, self.plan.wise_ft)
        self.kept = self._evaluate("val")
        self._save(self.kept)

    def restore(self) -> None:
        """Take up the checkpoint, if it is one of the same run."""
        path = self.out / CHECKPOINT
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            found = {**Plan().config(), **json.loads(state["config"])}  # older ones are of plain runs
        except (OSError, MemoryError):  # which say nothing about its content
            raise
        except Exception as error:  # truncated, empty, or a file that wants to run code
            raise RunError(
                f"{path} is not a checkpoint that can be loaded safely ({first_line(error)}). Remove it to start anew."
            ) from error
        if found["init_head"] != self.config["init_head"]:
            raise RunError(self._other_head(found["init_head"]))
        differing = [
            f"{name}={found.get(name)}, you asked for {value}"
            for name, value in self.config.items()
            if found.get(name) != value
        ]
        if differing:
            raise RunError(
                f"{self.out} was run with {'; '.join(differing)}. Resume with its own settings, or give another folder."
            )
        self.training.restore(state)
        self.loader.skipped.update(state["skipped"])
        self.first = Pass(**state["first"]) if state.get("first") else None
        for epoch in self.training.history:
            if self.on_epoch:
                self.on_epoch(epoch)

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

    def accuracy(self, which: Literal["first", "best", "kept"]) -> Accuracy | None:
        """On val: before any step, of the best epoch, or of what was kept; None where there is none."""
        found = {"first": self.first, "best": self.training.best_val, "kept": self.kept or self.training.best_val}
        result = found[which]
        return evaluate(result.labels.numpy(), result.predicted.numpy(), self._classes) if result else None

    def test(self) -> Accuracy | None:
        """Accuracy of the kept weights on test, where the data has one."""
        if not len(self.manifest.samples.rows("test")):
            return None
        self.world.wait()
        if isinstance(self.training.module, Network):
            self.training.module.load(self.out / _KEPT)
            found = self._evaluate("test")
            self._keep("test", found.labels.numpy(), found.predicted.numpy())
            return evaluate(found.labels.numpy(), found.predicted.numpy(), self._classes)
        estimator = load_head(self.out / "head.safetensors")
        mine = [(x.cpu().numpy(), y.cpu().numpy()) for x, y in self._clean_batches("test")]
        pairs = [pair for share in self.world.gather(mine) for pair in share]
        if not pairs:
            return None  # none of them could be read
        predicted, _ = heads.classify(estimator, np.concatenate([x for x, _ in pairs]), len(self._classes))
        labels = np.concatenate([y for _, y in pairs])
        self._keep("test", labels, predicted)
        return evaluate(labels, predicted, self._classes)

    @property
    def _classes(self) -> tuple[str, ...]:
        return self.manifest.samples.classes

    def _context(self) -> AbstractContextManager[None]:
        """What a forward pass computes in: of a head on features fp32."""
        return self.backbone.frozen.autocast() if self.mode == "all" else self.backbone.frozen.exact()

    def _evaluate(self, split: str) -> Pass:
        return evaluate_module(self.training.module, self._clean_batches(split), self._context, self.world)

    def _train_batches(self, epoch: int) -> Batches:
        samples = self.manifest.samples
        rows = samples.rows("train")
        order = rows[epoch_order(samples.sha256[rows], self.spec.view.seed, epoch)]
        batches = self._batches if self.world.size == 1 else self._shared_batches
        return batches(f"epoch {epoch}", order, epoch, self.training.recipe.batch_size)

    def _clean_batches(self, split: str) -> Batches:
        """This process's share of a split, which it evaluates."""
        rows = self.manifest.samples.rows(split)
        if self.world.size > 1:
            rows = self.world.share(self._readable(rows))
        return self._batches(split, rows, 0, _VAL_BATCH)

    def _batches(self, what: str, rows: np.ndarray[Any, Any], view: int, batch_size: int) -> Iterator[Any]:
        done, batches = 0, self.loader.batches(rows, [view], batch_size)
        while True:
            with self.watch.phase("data"):
                batch = next(batches, None)
            if batch is None:
                return
            yield self._inputs(batch.pixels[:, 0]), torch.from_numpy(batch.labels).to(self.backbone.device)
            done += len(batch.rows)
            if self.progress:
                self.progress(what, done, len(rows))

    def _shared_batches(self, what: str, rows: np.ndarray[Any, Any], view: int, batch_size: int) -> Iterator[Any]:
        """This process's part of every batch, empty where the last one has too few images for all processes."""
        rows = self._readable(rows)
        shares = [self.world.share(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size)]
        each = len(self.world.share(range(batch_size)))
        yield from self._batches(what, np.concatenate([rows[:0], *shares]), view, each)
        size = self.spec.view.image_size
        for _ in (share for share in shares if not len(share)):
            nothing = torch.empty(0, dtype=torch.int64, device=self.backbone.device)
            yield self._inputs(np.empty((0, size, size, 3), np.uint8)), nothing

    def _readable(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return rows[~np.isin(rows, list(self.loader.skipped))]

    def _inputs(self, pixels: np.ndarray[Any, Any]) -> Tensor:
        """What the trained module sees: pixels for a network, features for a head."""
        if self.mode == "all":
            return self.backbone.normalise(pixels)
        return torch.from_numpy(self.backbone.embed(pixels)).to(self.backbone.device)

    def _finish_epoch(self, training: Training) -> None:
        """Best weights first, then the checkpoint: a kill in between repeats the epoch and nothing else."""
        last = training.last_val
        if training.best_val is None or last is None or not len(last.labels):
            raise RunError(f"{self.manifest.source.name} has no readable val images")
        if not self.world.first:
            return
        if training.best is training.history[-1]:
            if self.plan.wise_ft is not None and isinstance(training.module, Network):
                training.module.save(self.out / _TUNED)
            self._save(training.best_val)
        self._keep("val", last.labels.numpy(), last.predicted.numpy(), LAST)
        first = vars(self.first) if self.first else None
        state = {"config": json.dumps(self.config), "skipped": self.loader.skipped, "first": first}
        with atomic_write(self.out / CHECKPOINT) as file, deferred_errors(file) as writer:
            torch.save({**state, **training.state()}, writer)
        if self.on_epoch:
            self.on_epoch(training.history[-1])

    def _save(self, val: Pass) -> None:
        """The weights as they are now, and what they said of val."""
        if not self.world.first:
            return
        module, weights = self.training.module, None
        if isinstance(module, Network):
            file = _KEPT
            module.save(self.out / file)
        else:
            layer = {name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}
            head = LinearHead.from_weights(layer["weight"], layer["bias"], np.arange(len(self._classes)))
            file, weights = dump_head(head)
        card = ModelCard(
            kind="network" if isinstance(module, Network) else "head",
            file=file,
            head="sgd",
            classes=self._classes,
            spec=self.spec,
            weights=self.backbone.weights,
            layer=PENULTIMATE,
            metrics=evaluate(val.labels.numpy(), val.predicted.numpy(), self._classes).to_dict(),
        )
        card.write(self.out, weights)
        self._keep("val", val.labels.numpy(), val.predicted.numpy())

    def _keep(
        self, split: str, labels: np.ndarray[Any, Any], predicted: np.ndarray[Any, Any], file: str | None = None
    ) -> None:
        """What was predicted, beside the weights that did."""
        if not self.world.first:
            return
        keep_predictions(self.out, self.manifest.samples, split, self.loader.skipped, labels, predicted, file)
