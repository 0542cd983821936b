"""`train`: the one loop that heads on cached features, frozen networks and whole networks are trained with.

It knows batches and a module. Where the batches come from (a cache, or images decoded live) is the caller's
business; that is what makes the routes comparable.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, StepLR

from featcache._utils.regular_files import is_number
from featcache.core.rng import derived_seed
from featcache.metrics.multilabel import mean_average_precision
from featcache.training.config import TrainConfig as TrainConfig
from featcache.training.distributed import SINGLE_PROCESS, ProcessGroup
from featcache.training.evaluation import EvalAccumulator, EvalResult
from featcache.training.loss import ClassificationLoss

Batches = Iterator[tuple[Tensor, Tensor]]
"""Pairs (inputs, labels): inputs (b, ...), labels (b,) int64, or (b, c), 0 or 1, on the module's device."""


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch reached.

    lr : the rate it trained with. loss : what was minimised, a mean in nats; val_loss : mean cross-entropy in nats,
    without weights and smoothing. accuracy, val_accuracy : of several labels the share of images with exactly the right
    ones. val_mean_average_precision : of several labels, by which the best epoch is chosen then; else None.
    """

    epoch: int
    lr: float
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float
    val_mean_average_precision: float | None = None

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> EpochMetrics:
        """From a report, in whose JSON a loss that is no finite number is null. Raises TypeError for other fields."""
        found = cls(**{**fields, **{name: math.nan for name in ("loss", "val_loss") if fields.get(name, 0) is None}})
        for name, value in vars(found).items():
            if not is_number(value) and not (value is None and name == "val_mean_average_precision"):
                raise TypeError(f"{name} is {str(value)[:40]!r}")
        return found

    @property
    def diverged(self) -> bool:
        """Whether the loss on val is no finite number: the weights are of no use from here on."""
        return not math.isfinite(self.val_loss)

    @property
    def score(self) -> float:
        """What the best epoch is chosen by; one that diverged is never the best."""
        if self.diverged:
            return -math.inf
        found = self.val_mean_average_precision
        return self.val_accuracy if found is None else found

    def __str__(self) -> str:
        found = self.val_mean_average_precision
        precision = "" if found is None else f"val-mAP {found:.4f}  "
        return (
            f"epoch {self.epoch:3d}  lr {self.lr:.2g}  loss {self.loss:.4f}  acc {self.accuracy:.4f}  "
            f"val-loss {self.val_loss:.4f}  val-acc {self.val_accuracy:.4f}  {precision}{self.seconds:.1f} s"
        )


def epochs_without_progress(history: Sequence[EpochMetrics]) -> int:
    """How many epochs at the end neither rose above the best score before them nor fell below the least val loss."""
    score, loss, stale = -math.inf, math.inf, 0
    for epoch in history:
        stale = 0 if epoch.score > score or epoch.val_loss < loss else stale + 1
        score, loss = max(score, epoch.score), min(loss, epoch.val_loss)
    return stale


@dataclass
class TrainState:
    """The state of a training: what a checkpoint keeps.

    groups : of parameters, each with a rate; the first one's is reported. None gives all that learn the recipe's.
    objective : what is minimised; None takes the recipe's, without class weights.
    best_val, last_val : of the best epoch, and of the last that this process trained.
    tally : of the epoch under way, None between epochs.
    """

    module: nn.Module
    recipe: TrainConfig
    history: list[EpochMetrics] = field(default_factory=list)
    best_val: EvalResult | None = None
    groups: list[dict[str, Any]] | None = None
    last_val: EvalResult | None = None
    objective: ClassificationLoss | None = None
    tally: EvalAccumulator | None = None

    def __post_init__(self) -> None:
        self.optimizer = _optimizer(self.module, self.recipe, self.groups)
        self.schedule = _schedule(self.optimizer, self.recipe)
        self.objective = self.objective or ClassificationLoss(self.recipe.label_smoothing)
        self._generators: dict[str, Tensor] = {}

    @property
    def best(self) -> EpochMetrics | None:
        """The epoch of the highest score, the first of equals."""
        return max(self.history, key=lambda epoch: epoch.score, default=None)

    @property
    def is_over(self) -> bool:
        """Whether all epochs have run, the recipe's patience is at its end, or the training has diverged."""
        patience = self.recipe.patience
        out_of_patience = patience is not None and epochs_without_progress(self.history) >= patience
        diverged = bool(self.history) and self.history[-1].diverged
        return len(self.history) >= self.recipe.epochs or out_of_patience or diverged

    def state(self) -> dict[str, Any]:
        """Plain values and tensors, for torch.save. Within an epoch, it is to be called between two batches."""
        under_way = None
        if self.tally is not None:
            under_way = {"tally": self.tally.state(), "generators": _generators(self._device)}
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": [asdict(epoch) for epoch in self.history],
            "best_val": vars(self.best_val) if self.best_val else None,
            "under_way": under_way,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.history[:] = [EpochMetrics(**epoch) for epoch in state["history"]]
        self.best_val = EvalResult(**state["best_val"]) if state["best_val"] else None
        under_way = state.get("under_way")  # older ones are kept between epochs
        if under_way:
            self.optimizer.step()  # without gradients it changes nothing: the schedule is to know that steps were made
            self.tally, self._generators = EvalAccumulator.of(under_way["tally"], self._device), under_way["generators"]
        if isinstance(self.schedule, CosineAnnealingLR) and self.schedule.T_max != self.recipe.epochs:
            self._lengthen(self.schedule)

    def begin_epoch(self, seed: int) -> EvalAccumulator:
        """Set the random generators for the next epoch, or as they were in one that was interrupted."""
        torch.manual_seed(derived_seed(seed, "epoch", len(self.history) + 1))
        if self.tally is None:
            self.tally = EvalAccumulator()
        else:
            _set_generators(self._generators, self._device)
        return self.tally

    @property
    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def _lengthen(self, schedule: CosineAnnealingLR) -> None:
        """Go on with the rates that a cosine over all of the recipe's epochs has from here."""
        schedule.T_max = self.recipe.epochs
        share = (1 + math.cos(math.pi * schedule.last_epoch / schedule.T_max)) / 2
        for group, rate in zip(self.optimizer.param_groups, schedule.base_lrs, strict=True):
            group["lr"] = rate * share


def train(
    training: TrainState,
    batches: Callable[[int], Batches],
    val_batches: Callable[[], Batches],
    *,
    seed: int,
    on_epoch: Callable[[TrainState], None],
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    world: ProcessGroup = SINGLE_PROCESS,
) -> None:
    """Train from the epoch after the last in the history to the recipe's last.

    Parameters
    ----------
    batches : gives the training batches of epoch 1, 2, ...
    val_batches : gives the evaluation batches.
    seed : of dropout and the like, anew each epoch, so that a resumed training goes on as if never stopped.
    on_epoch : called after each epoch, its figures being the last in `training.history`.
    context : what the forward pass runs in, for mixed precision.
    world : the processes that train together; each gets its shares of the batches.
    """
    module, objective = training.module, training.objective or ClassificationLoss()
    learner = world.joint(module)
    while not training.is_over:
        epoch, started = len(training.history) + 1, time.perf_counter()
        lr = training.optimizer.param_groups[0]["lr"]
        with torch.random.fork_rng():
            tally = training.begin_epoch(seed)
            before = tally.seconds
            module.train()
            for inputs, labels in batches(epoch):
                with context():
                    logits = learner(inputs)
                loss = objective(logits, labels)
                training.optimizer.zero_grad()
                world.of_the_joint_batch(loss, len(labels)).backward()  # type: ignore[no-untyped-call]
                training.optimizer.step()
                tally.add(loss, labels, logits, keep_logits=False)
                tally.seconds = before + time.perf_counter() - started
            learnt = tally.result(world)
        val = evaluate_module(module, val_batches(), context, world)
        training.tally = None
        training.schedule.step()
        seconds = before + time.perf_counter() - started
        figures = (lr, learnt.loss, learnt.accuracy, val.loss, val.accuracy, seconds)
        training.history.append(EpochMetrics(epoch, *figures, _mean_average_precision(val)))
        training.last_val = val
        if training.best is training.history[-1]:
            training.best_val = val
        on_epoch(training)


def evaluate_module(
    module: nn.Module,
    batches: Batches,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    world: ProcessGroup = SINGLE_PROCESS,
) -> EvalResult:
    """A pass in `eval()` mode; of several processes each has its share of the batches, and all get the whole."""
    module.eval()
    tally, objective = EvalAccumulator(), ClassificationLoss()
    with torch.no_grad():
        for inputs, labels in batches:
            with context():
                logits = module(inputs)
            tally.add(objective(logits, labels), labels, logits, keep_logits=True)
    return tally.result(world)


def _mean_average_precision(val: EvalResult) -> float | None:
    """Of several labels; None of one, and where no image has any."""
    if val.labels.ndim != 2 or val.probabilities is None:
        return None
    return mean_average_precision(val.labels.numpy(), val.probabilities)


def _generators(device: torch.device) -> dict[str, Tensor]:
    """The states of the random generators that a training on this device draws from."""
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def _set_generators(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def linear_layer(dim: int, n_classes: int, seed: int) -> nn.Linear:
    """The new last layer, drawn with the seed: the same for every route."""
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, "head"))
        return nn.Linear(dim, n_classes)


def _optimizer(module: nn.Module, recipe: TrainConfig, groups: list[dict[str, Any]] | None) -> torch.optim.Optimizer:
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    parameters: Any = learning if groups is None else groups
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def _schedule(optimizer: torch.optim.Optimizer, recipe: TrainConfig) -> LRScheduler:
    if recipe.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=recipe.epochs)
    if recipe.schedule == "step":
        return StepLR(optimizer, step_size=recipe.step_size, gamma=recipe.gamma)
    return LambdaLR(optimizer, _constant)


def _constant(_epoch: int) -> float:
    return 1.0
