"""`train`: the one loop that heads on cached features, frozen networks and whole networks are trained with.

It knows batches and a module. Where the batches come from (a cache, or images decoded live) is the caller's
business; that is what makes the routes comparable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, StepLR

from featcache.rng import derived_seed
from featcache.world import ALONE, World

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["step", "cosine", "constant"]
Batches = Iterator[tuple[Tensor, Tensor]]
"""Pairs (inputs, labels): inputs (b, ...), labels (b,) int64, on the module's device."""


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the PyTorch tutorial's, for 10 epochs, with a larger batch and a higher rate.

    schedule : "step" multiplies lr by `gamma` every `step_size` epochs; "cosine" takes it to 0 over all epochs;
        "constant" leaves it.
    """

    epochs: int = 10
    batch_size: int = 32
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0
    optimizer: Optimizer = "sgd"
    schedule: Schedule = "step"
    step_size: int = 7
    gamma: float = 0.1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "step_size"):
            value = getattr(self, name)
            if not isinstance(value, int):
                raise ValueError(f"{name} is {value!r}; it must be a whole number")
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        for name, known in (("optimizer", get_args(Optimizer)), ("schedule", get_args(Schedule))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; it must be greater than 0")
        for name in ("momentum", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or greater")


@dataclass(frozen=True)
class Epoch:
    """What one epoch reached. Losses are mean cross-entropies in nats; `lr` is the rate it trained with."""

    epoch: int
    lr: float
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"epoch {self.epoch:3d}  lr {self.lr:.2g}  loss {self.loss:.4f}  acc {self.accuracy:.4f}  "
            f"val-loss {self.val_loss:.4f}  val-acc {self.val_accuracy:.4f}  {self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class Pass:
    """One pass over some batches: mean loss; true and predicted labels, each shape (n,), int64."""

    loss: float
    labels: Tensor
    predicted: Tensor

    @property
    def accuracy(self) -> float:
        """Share of right predictions."""
        return float((self.predicted == self.labels).double().mean()) if len(self.labels) else 0.0


@dataclass
class Training:
    """The state of a training: what a checkpoint keeps.

    groups : of parameters, each with a rate; the first one's is reported. None gives all that learn the recipe's.
    best_val, last_val : of the best epoch, and of the last that this process trained.
    """

    module: nn.Module
    recipe: Recipe
    history: list[Epoch] = field(default_factory=list)
    best_val: Pass | None = None
    groups: list[dict[str, Any]] | None = None
    last_val: Pass | None = None

    def __post_init__(self) -> None:
        self.optimizer = _optimizer(self.module, self.recipe, self.groups)
        self.schedule = _schedule(self.optimizer, self.recipe)

    @property
    def best(self) -> Epoch | None:
        """The epoch of the highest val accuracy, the first of equals."""
        return max(self.history, key=lambda epoch: epoch.val_accuracy, default=None)

    def state(self) -> dict[str, Any]:
        """Plain values and tensors, for torch.save."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": [asdict(epoch) for epoch in self.history],
            "best_val": vars(self.best_val) if self.best_val else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.history[:] = [Epoch(**epoch) for epoch in state["history"]]
        self.best_val = Pass(**state["best_val"])


def train(
    training: Training,
    batches: Callable[[int], Batches],
    val_batches: Callable[[], Batches],
    *,
    seed: int,
    on_epoch: Callable[[Training], None],
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    world: World = ALONE,
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
    module = training.module
    learner = world.joint(module)
    for epoch in range(len(training.history) + 1, training.recipe.epochs + 1):
        started = time.perf_counter()
        lr = training.optimizer.param_groups[0]["lr"]
        with torch.random.fork_rng():
            torch.manual_seed(derived_seed(seed, "epoch", epoch))
            module.train()
            learnt = _run(learner, batches(epoch), context, training.optimizer, world)
        training.schedule.step()
        val = evaluate_module(module, val_batches(), context, world)
        seconds = time.perf_counter() - started
        training.history.append(Epoch(epoch, lr, learnt.loss, learnt.accuracy, val.loss, val.accuracy, seconds))
        training.last_val = val
        if training.best is training.history[-1]:
            training.best_val = val
        on_epoch(training)


def evaluate_module(
    module: nn.Module,
    batches: Batches,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    world: World = ALONE,
) -> Pass:
    """A pass in `eval()` mode; of several processes each has its share of the batches, and all get the whole."""
    module.eval()
    with torch.no_grad():
        return _run(module, batches, context, None, world)


def _run(
    module: nn.Module,
    batches: Batches,
    context: Callable[[], AbstractContextManager[Any]],
    optimizer: torch.optim.Optimizer | None,
    world: World,
) -> Pass:
    """One pass; with an optimizer it learns."""
    losses, true, predicted = [], [], []  # on the device until the end: a GPU is not waited for in each batch
    for inputs, labels in batches:
        with context():
            logits = module(inputs)
        loss = nn.functional.cross_entropy(logits.float(), labels)
        if optimizer is not None:
            optimizer.zero_grad()
            world.of_the_joint_batch(loss, len(labels)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        losses.append(loss.detach())
        true.append(labels)
        predicted.append(logits.argmax(1))
    sizes = [len(labels) for labels in true]
    means = torch.stack(losses).tolist() if losses else []
    total = sum(mean * size for mean, size in zip(means, sizes, strict=True) if size)
    nothing = [torch.empty(0, dtype=torch.int64)]
    found = world.gather((total, torch.cat(true or nothing).cpu(), torch.cat(predicted or nothing).cpu()))
    labels, chosen = (torch.cat([one[place] for one in found]) for place in (1, 2))
    return Pass(sum(one[0] for one in found) / len(labels) if len(labels) else float("nan"), labels, chosen)


def linear_layer(dim: int, n_classes: int, seed: int) -> nn.Linear:
    """The new last layer, drawn with the seed: the same for every route."""
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, "head"))
        return nn.Linear(dim, n_classes)


def _optimizer(module: nn.Module, recipe: Recipe, groups: list[dict[str, Any]] | None) -> torch.optim.Optimizer:
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    parameters: Any = learning if groups is None else groups
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe) -> LRScheduler:
    if recipe.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=recipe.epochs)
    if recipe.schedule == "step":
        return StepLR(optimizer, step_size=recipe.step_size, gamma=recipe.gamma)
    return LambdaLR(optimizer, _constant)


def _constant(_epoch: int) -> float:
    return 1.0
