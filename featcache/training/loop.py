"""`train`: the one loop that trains heads on cached features, heads on frozen networks, and whole networks.

The caller gives the module and the batches, from a cache or decoded live. The same loop makes the routes comparable.
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

from featcache._utils.random_generators import forked, seeded, set_seed
from featcache._utils.regular_files import is_number
from featcache.core.rng import derived_seed
from featcache.metrics.multilabel import mean_average_precision
from featcache.training.config import TrainConfig as TrainConfig
from featcache.training.distributed import SINGLE_PROCESS, ProcessGroup
from featcache.training.evaluation import EvalAccumulator, EvalResult
from featcache.training.loss import ClassificationLoss

Batches = Iterator[tuple[Tensor, Tensor]]
"""Pairs (inputs, labels): inputs (b, ...), labels (b,) int64, or (b, c), 0 or 1, on the module's device.

An empty shard has a placeholder input, because networks may refuse empty batches, and no labels.
"""


@dataclass(frozen=True)
class EpochMetrics:
    """The metrics of one epoch.

    Attributes
    ----------
    epoch : int
        Its number, from 1.
    lr : float
        The learning rate of the epoch.
    loss : float
        The mean of the training loss, in nats.
    accuracy : float
        On the training images. With several labels an image, all labels must be correct.
    val_loss : float
        The mean cross-entropy on val, in nats, without class weights and label smoothing.
    val_accuracy : float
        On val, as `accuracy`.
    seconds : float
        The time of the epoch, training and evaluation.
    val_mean_average_precision : float, optional
        With several labels an image; the best epoch is chosen by it. Else None.
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
        """From a report. JSON has null for a loss that is not finite. Raises TypeError for unknown fields."""
        nan_losses = {name: math.nan for name in ("loss", "val_loss") if fields.get(name, 0) is None}
        metrics = cls(**{**fields, **nan_losses})
        for name, value in vars(metrics).items():
            if not is_number(value) and not (value is None and name == "val_mean_average_precision"):
                raise TypeError(f"{name} is {str(value)[:40]!r}")
        return metrics

    @property
    def diverged(self) -> bool:
        """Whether the loss on val is not finite. The weights of this and later epochs are useless."""
        return not math.isfinite(self.val_loss)

    @property
    def score(self) -> float:
        """The best epoch has the highest score. An epoch that diverged is never the best."""
        if self.diverged:
            return -math.inf
        precision = self.val_mean_average_precision
        return self.val_accuracy if precision is None else precision

    def __str__(self) -> str:
        precision = self.val_mean_average_precision
        precision_text = "" if precision is None else f"val-mAP {precision:.4f}  "
        return (
            f"epoch {self.epoch:3d}  lr {self.lr:.2g}  loss {self.loss:.4f}  acc {self.accuracy:.4f}  "
            f"val-loss {self.val_loss:.4f}  val-acc {self.val_accuracy:.4f}  {precision_text}{self.seconds:.1f} s"
        )


def epochs_without_progress(history: Sequence[EpochMetrics]) -> int:
    """The number of last epochs that neither exceeded the best earlier score nor fell below the lowest val loss."""
    score, loss, count = -math.inf, math.inf, 0
    for epoch in history:
        count = 0 if epoch.score > score or epoch.val_loss < loss else count + 1
        score, loss = max(score, epoch.score), min(loss, epoch.val_loss)
    return count


@dataclass
class TrainState:
    """The state of a training run, which a checkpoint stores.

    Attributes
    ----------
    module : nn.Module
        The module that is trained.
    config : TrainConfig
    history : list of EpochMetrics
        Of the epochs so far.
    best_val : EvalResult, optional
        On val, of the best epoch.
    param_groups : list of dict, optional
        Groups of parameters for the optimizer, each with its learning rate; the first rate is reported. None: all
        parameters that require gradients, with the rate of the config.
    last_val : EvalResult, optional
        On val, of the last epoch that this process trained.
    loss : ClassificationLoss, optional
        None: the loss of the config, without class weights.
    accumulator : EvalAccumulator, optional
        The results of the current epoch; None between epochs.
    step_losses : list of list of float
        For each epoch of the history, the training loss of each step; empty for epochs of older versions.
    """

    module: nn.Module
    config: TrainConfig
    history: list[EpochMetrics] = field(default_factory=list)
    best_val: EvalResult | None = None
    param_groups: list[dict[str, Any]] | None = None
    last_val: EvalResult | None = None
    loss: ClassificationLoss | None = None
    accumulator: EvalAccumulator | None = None
    step_losses: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimizer = _optimizer(self.module, self.config, self.param_groups)
        self.schedule = _schedule(self.optimizer, self.config)
        self.loss = self.loss or ClassificationLoss(self.config.label_smoothing)
        self._generators: dict[str, Tensor] = {}

    @property
    def best(self) -> EpochMetrics | None:
        """The epoch with the highest score, the first of equals."""
        return max(self.history, key=lambda epoch: epoch.score, default=None)

    @property
    def is_finished(self) -> bool:
        """Whether all epochs were trained, the patience is exhausted, or the training has diverged."""
        patience = self.config.patience
        out_of_patience = patience is not None and epochs_without_progress(self.history) >= patience
        diverged = bool(self.history) and self.history[-1].diverged
        return len(self.history) >= self.config.epochs or out_of_patience or diverged

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors, for torch.save. Within an epoch, call it between two batches."""
        under_way = None
        if self.accumulator is not None:
            under_way = {"tally": self.accumulator.state_dict(), "generators": _generator_states(self.device)}
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": [asdict(epoch) for epoch in self.history],
            "step_losses": self.step_losses,
            "best_val": vars(self.best_val) if self.best_val else None,
            "under_way": under_way,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state of a checkpoint."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(_of_this_kind(state["optimizer"], self.optimizer))
        self.schedule.load_state_dict(state["schedule"])
        self.history[:] = [EpochMetrics(**epoch) for epoch in state["history"]]
        self.step_losses[:] = state.get("step_losses") or [[] for _ in self.history]  # older versions saved none
        self.best_val = EvalResult(**state["best_val"]) if state["best_val"] else None
        under_way = state.get("under_way")  # older versions saved only between epochs
        if under_way:
            self.optimizer.step()  # no effect without gradients; the schedule expects a step of the optimizer
            self.accumulator = EvalAccumulator.from_state_dict(under_way["tally"], self.device)
            self._generators = under_way["generators"]
        if isinstance(self.schedule, CosineAnnealingLR) and self.schedule.T_max != self.config.epochs:
            self._extend(self.schedule)

    def begin_epoch(self, seed: int) -> EvalAccumulator:
        """Seed the random generators for the next epoch, or restore them to continue an interrupted one."""
        set_seed(derived_seed(seed, "epoch", len(self.history) + 1), self.device)
        if self.accumulator is None:
            self.accumulator = EvalAccumulator()
        else:
            _set_generator_states(self._generators, self.device)
        return self.accumulator

    @property
    def device(self) -> torch.device:
        """Where the module is trained."""
        return next(self.module.parameters()).device

    def _extend(self, schedule: CosineAnnealingLR) -> None:
        """Continue with the rates of a cosine over all epochs of the config."""
        schedule.T_max = self.config.epochs
        factor = (1 + math.cos(math.pi * schedule.last_epoch / schedule.T_max)) / 2
        for group, lr in zip(self.optimizer.param_groups, schedule.base_lrs, strict=True):
            group["lr"] = lr * factor


def train(
    state: TrainState,
    train_batches: Callable[[int], Batches],
    val_batches: Callable[[], Batches],
    *,
    seed: int,
    on_epoch: Callable[[TrainState], None],
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> None:
    """Train from the epoch after the last one in the history to the last epoch of the config.

    Parameters
    ----------
    state : TrainState
        Its module is trained, and its history gets the metrics of each epoch.
    train_batches : Callable[[int], Batches]
        Gives the training batches of epoch 1, 2, ...
    val_batches : Callable[[], Batches]
        Gives the evaluation batches.
    seed : int
        Of dropout and other random layers. Each epoch is seeded from it, so that a resumed run equals an uninterrupted
        one.
    on_epoch : Callable[[TrainState], None]
        Called after each epoch, when its metrics are the last in `state.history`.
    context : Callable[[], context manager]
        The forward pass runs in it, for mixed precision.
    process_group : ProcessGroup
        The processes that train together. Each gets its shards of the batches, and draws its own random numbers.
        `train_batches` sets its `batch_images`.
    """
    module, compute_loss = state.module, state.loss or ClassificationLoss()
    wrapped, seed = process_group.wrap(module), process_group.own_seed(seed)
    while not state.is_finished:
        epoch, started = len(state.history) + 1, time.perf_counter()
        lr = state.optimizer.param_groups[0]["lr"]
        with forked(state.device):
            accumulator = state.begin_epoch(seed)
            seconds_before = accumulator.seconds
            module.train()
            for inputs, labels in train_batches(epoch):
                with context():
                    logits = wrapped(inputs)[: len(labels)]
                loss = compute_loss(logits, labels)
                state.optimizer.zero_grad()
                process_group.scale_loss(loss, len(labels)).backward()  # type: ignore[no-untyped-call]
                state.optimizer.step()
                accumulator.add(loss, labels, logits, keep_logits=False)
                accumulator.seconds = seconds_before + time.perf_counter() - started
            result = accumulator.result(process_group)
            step_losses = accumulator.step_losses(process_group)
        val = evaluate_module(module, val_batches(), context, process_group)
        state.accumulator = None
        state.schedule.step()
        state.step_losses.append(step_losses)
        state.history.append(
            EpochMetrics(
                epoch=epoch,
                lr=lr,
                loss=result.loss,
                accuracy=result.accuracy,
                val_loss=val.loss,
                val_accuracy=val.accuracy,
                seconds=seconds_before + time.perf_counter() - started,
                val_mean_average_precision=_mean_average_precision(val),
            )
        )
        state.last_val = val
        if state.best is state.history[-1]:
            state.best_val = val
        on_epoch(state)


def evaluate_module(
    module: nn.Module,
    batches: Batches,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> EvalResult:
    """Evaluate in `eval()` mode. Each of several processes evaluates its shard, and all get the whole result."""
    module.eval()
    accumulator, compute_loss = EvalAccumulator(), ClassificationLoss()
    with torch.no_grad():
        for inputs, labels in batches:
            with context():
                logits = module(inputs)
            accumulator.add(compute_loss(logits, labels), labels, logits, keep_logits=True)
    return accumulator.result(process_group)


def _mean_average_precision(val: EvalResult) -> float | None:
    """None with one label an image, and if no image has a label."""
    if val.labels.ndim != 2 or val.probabilities is None:
        return None
    return mean_average_precision(val.labels.numpy(), val.probabilities)


def _generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states of the random generators that training on this device uses."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_generator_states(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def linear_layer(dim: int, n_classes: int, seed: int) -> nn.Linear:
    """A new last layer with random weights of this seed, the same for every route."""
    with seeded(derived_seed(seed, "head")):
        return nn.Linear(dim, n_classes)


def _optimizer(
    module: nn.Module, config: TrainConfig, param_groups: list[dict[str, Any]] | None
) -> torch.optim.Optimizer:
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    parameters: Any = trainable if param_groups is None else param_groups
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if trainable and all(parameter.is_cuda and parameter.is_floating_point() for parameter in trainable):
        options["fused"] = True
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options)
    return torch.optim.SGD(parameters, momentum=config.momentum, **options)


def _of_this_kind(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state for this optimizer, which is fused on a GPU; the one that gave the state need not have been."""
    groups = zip(state["param_groups"], optimizer.param_groups, strict=True)
    return {**state, "param_groups": [{**saved, "fused": group.get("fused")} for saved, group in groups]}


def _schedule(optimizer: torch.optim.Optimizer, config: TrainConfig) -> LRScheduler:
    if config.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=config.epochs)
    if config.schedule == "step":
        return StepLR(optimizer, step_size=config.step_size, gamma=config.gamma)
    return LambdaLR(optimizer, _constant)


def _constant(_epoch: int) -> float:
    return 1.0
