"""`Run`: one fine-tuning run, with its batches, its checkpoints and its files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from featcache import heads
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
from featcache.predictions import keep_predictions
from featcache.report import Stopwatch
from featcache.rng import epoch_order
from featcache.spec import PENULTIMATE, ExtractSpec
from featcache.training import Batches, Epoch, Pass, Recipe, Training, evaluate_module, linear_layer, train

_VAL_BATCH = 32


class Run:
    """One fine-tuning run.

    Parameters
    ----------
    out : its folder. spec : of the views. mode : "all" or "head", see `finetune`.
    image_side : what the images are shrunk to, see `ImageCache`; None where they are whole.
    """

    def __init__(
        self,
        out: Path,
        backbone: Backbone,
        spec: ExtractSpec,
        manifest: Manifest,
        loader: ViewLoader,
        mode: Literal["all", "head"],
        recipe: Recipe,
        watch: Stopwatch,
        image_side: int | None,
        progress: Progress | None,
        on_epoch: Callable[[Epoch], None] | None,
    ) -> None:
        self.out, self.backbone, self.spec, self.mode = out, backbone, spec, mode
        self.manifest, self.loader, self.watch = manifest, loader, watch
        self.progress, self.on_epoch = progress, on_epoch
        head = linear_layer(backbone.dim, len(manifest.samples.classes), spec.view.seed)
        module: nn.Module = head if mode == "head" else Network(backbone.trainable_module(), head)
        self.training = Training(module.to(backbone.device), recipe)
        self.config = {
            **spec.flat(),
            "train": mode,
            **asdict(recipe),
            "images": manifest.samples.digest(),
            "image_side": image_side,
        }

    def train(self) -> None:
        """Train from the epoch after the last to the recipe's last."""
        with self.backbone.frozen.exact():
            train(
                self.training,
                self._train_batches,
                lambda: self._clean_batches("val"),
                seed=self.spec.view.seed,
                on_epoch=self._finish_epoch,
                context=self.backbone.frozen.autocast if self.mode == "all" else nullcontext,
            )

    def restore(self) -> None:
        """Take up the checkpoint, if it is one of the same run."""
        path = self.out / CHECKPOINT
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            found = json.loads(state["config"])
        except (OSError, MemoryError):  # which say nothing about its content
            raise
        except Exception as error:  # truncated, empty, or a file that wants to run code
            raise RunError(
                f"{path} is not a checkpoint that can be loaded safely ({first_line(error)}). Remove it to start anew."
            ) from error
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
        for epoch in self.training.history:
            if self.on_epoch:
                self.on_epoch(epoch)

    def best_accuracy(self) -> Accuracy:
        """On val, of the epoch whose weights were kept."""
        if self.training.best_val is None:
            raise AssertionError("a recipe has one epoch or more")
        return self._accuracy(self.training.best_val)

    def test(self) -> Accuracy | None:
        """Accuracy of the kept weights on test, where the data has one."""
        if not len(self.manifest.samples.rows("test")):
            return None
        if isinstance(self.training.module, Network):
            self.training.module.load(self.out / "network.safetensors")
            found = evaluate_module(self.training.module, self._clean_batches("test"), self.backbone.frozen.autocast)
            self._keep("test", found.labels.numpy(), found.predicted.numpy())
            return self._accuracy(found)
        estimator = load_head(self.out / "head.safetensors")
        pairs = [(x.cpu().numpy(), y.cpu().numpy()) for x, y in self._clean_batches("test")]
        if not pairs:
            return None  # none of them could be read
        classes = self.manifest.samples.classes
        predicted, _ = heads.classify(estimator, np.concatenate([x for x, _ in pairs]), len(classes))
        labels = np.concatenate([y for _, y in pairs])
        self._keep("test", labels, predicted)
        return evaluate(labels, predicted, classes)

    def _accuracy(self, result: Pass) -> Accuracy:
        return evaluate(result.labels.numpy(), result.predicted.numpy(), self.manifest.samples.classes)

    def _train_batches(self, epoch: int) -> Batches:
        samples = self.manifest.samples
        rows = samples.rows("train")
        order = rows[epoch_order(samples.sha256[rows], self.spec.view.seed, epoch)]
        return self._batches(f"epoch {epoch}", order, epoch, self.training.recipe.batch_size)

    def _clean_batches(self, split: str) -> Batches:
        return self._batches(split, self.manifest.samples.rows(split), 0, _VAL_BATCH)

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

    def _inputs(self, pixels: np.ndarray[Any, Any]) -> Tensor:
        """What the trained module sees: pixels for a network, features for a head."""
        if self.mode == "all":
            return self.backbone.normalise(pixels)
        return torch.from_numpy(self.backbone.embed(pixels)).to(self.backbone.device)

    def _finish_epoch(self, training: Training) -> None:
        """Best weights first, then the checkpoint: a kill in between repeats the epoch and nothing else."""
        if training.best_val is None or not len(training.best_val.labels):
            raise RunError(f"{self.manifest.root} has no readable val images")
        if training.best is training.history[-1]:
            self._save_best()
        draft = self.out / f"{CHECKPOINT}.{os.getpid()}"
        torch.save({"config": json.dumps(self.config), "skipped": self.loader.skipped, **training.state()}, draft)
        os.replace(draft, self.out / CHECKPOINT)
        if self.on_epoch:
            self.on_epoch(training.history[-1])

    def _save_best(self) -> None:
        module, classes = self.training.module, self.manifest.samples.classes
        weights = None
        if isinstance(module, Network):
            file = "network.safetensors"
            module.save(self.out / file)
        else:
            layer = {name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}
            head = LinearHead.from_weights(layer["weight"], layer["bias"], np.arange(len(classes)))
            file, weights = dump_head(head)
        card = ModelCard(
            kind="network" if isinstance(module, Network) else "head",
            file=file,
            head="sgd",
            classes=classes,
            spec=self.spec,
            weights=self.backbone.weights,
            layer=PENULTIMATE,
            metrics=self.best_accuracy().to_dict(),
        )
        card.write(self.out, weights)
        if self.training.best_val is not None:
            self._keep("val", self.training.best_val.labels.numpy(), self.training.best_val.predicted.numpy())

    def _keep(self, split: str, labels: np.ndarray[Any, Any], predicted: np.ndarray[Any, Any]) -> None:
        """What was predicted, beside the weights that did."""
        keep_predictions(self.out, self.manifest.samples, split, self.loader.skipped, labels, predicted)
