"""What is frozen has no gradient, does not train and stays as it was; rates fall from the head down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from featcache.errors import RunError
from featcache.finetuning.freezing import freeze, freeze_batchnorm_statistics, parameter_groups
from featcache.training.loop import TrainConfig, TrainState, linear_layer, train
from featcache.training.network import BackboneWithHead
from trainable import staged_backbone

STAGES = ["blocks.0", "blocks.1", "blocks.2"]
NORMS = {"blocks.0.1", "blocks.1.1", "blocks.2.1", "norm"}
DROPOUTS = {"blocks.0.3", "blocks.1.3", "blocks.2.3"}
BELOW = {0: ("stem", "blocks.0", "blocks.1", "blocks.2", "norm"), 1: ("stem", "blocks.0", "blocks.1"),
         2: ("stem", "blocks.0"), 3: ()}  # fmt: skip


def network() -> BackboneWithHead:
    return BackboneWithHead(staged_backbone().trainable_module(), linear_layer(4, 2, 1))


def batches(_epoch: int = 0) -> Any:
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        yield torch.randn(4, 3, 16, 16, generator=generator), torch.tensor([0, 1, 1, 0])


def taught(net: BackboneWithHead, groups: Any = None, **config: Any) -> dict[str, torch.Tensor]:
    """The weights after a training with momentum and weight decay, which move what has no gradient, too."""
    settings: dict[str, Any] = {"epochs": 2, "lr": 0.1, "weight_decay": 0.1, **config}
    train(
        TrainState(net, TrainConfig(**settings), param_groups=groups), batches, batches, seed=0, on_epoch=lambda _: None
    )
    return net.state_dict()


def is_below(name: str, learning: int) -> bool:
    return name.startswith(tuple(f"body.{module}." for module in BELOW[learning]))


@pytest.mark.parametrize("learning", [1, 2, 3])
def test_frozen_stages_stay_bit_by_bit_and_all_else_learns(learning: int) -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    freeze(net, STAGES, learning)
    after = taught(net)
    for name, value in after.items():
        assert torch.equal(before[name], value) == is_below(name, learning), name


@pytest.mark.parametrize("learning", [1, 2, 3])
def test_frozen_stages_have_no_gradients_and_run_in_eval_mode(learning: int) -> None:
    net = network()
    freeze(net, STAGES, learning)
    assert {name for name, value in net.named_parameters() if not value.requires_grad} == {
        name for name, _ in net.named_parameters() if is_below(name, learning)
    }
    for _ in range(2):  # again in each epoch
        net.train()
        training = {name for name, module in net.body.named_modules() if module.training and name}
        leaves = NORMS | DROPOUTS | {"stem"}
        assert leaves - training == {name for name in leaves if is_below(f"body.{name}.", learning)}
        assert net.head.training
        net.eval()
        assert not any(module.training for module in net.modules())


def test_a_container_that_ends_in_a_stage_that_learns_trains() -> None:
    """timm's networks draw dropout in the outermost module."""
    net = network()
    freeze(net, STAGES, 1)
    net.train()
    assert net.body.training
    assert net.body.blocks.training
    assert not net.body.blocks[1].training
    assert net.body.blocks[2].training


def test_more_stages_than_there_are_is_said() -> None:
    with pytest.raises(RunError) as caught:
        freeze(network(), STAGES, 4)
    assert str(caught.value) == (
        "--unfreeze 4: the network has 3 stages, from the first to the last blocks.0, blocks.1, blocks.2. "
        "Give 3 or less."
    )


def test_statistics_that_are_kept_normalise_while_weight_and_bias_learn() -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    freeze_batchnorm_statistics(net, STAGES, 3)
    after = taught(net)
    for name, value in after.items():
        statistics = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert torch.equal(before[name], value) == statistics, name
    net.train()
    assert {name for name, module in net.body.named_modules() if not module.training} == NORMS


def test_stages_behind_those_that_are_kept_learn_statistics_of_their_own() -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    seen: list[torch.Tensor] = []
    net.body.blocks[1][1].register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].detach()))
    freeze_batchnorm_statistics(net, STAGES, 1)
    net.train()(next(batches())[0])
    after = net.state_dict()
    for name, value in after.items():
        statistics = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert torch.equal(before[name], value) == (not statistics or name.startswith("body.blocks.0")), name
    mean = "body.blocks.1.1.running_mean"
    torch.testing.assert_close(after[mean], 0.9 * before[mean] + 0.1 * seen[0].mean((0, 2, 3)))


def test_a_network_without_stages_keeps_all_statistics() -> None:
    net = network()
    freeze_batchnorm_statistics(net, [], 0)
    net.train()
    assert {name for name, module in net.body.named_modules() if not module.training} == NORMS


def test_each_stage_is_slower_than_the_one_above_and_the_head_is_not() -> None:
    net = network()
    groups = parameter_groups(net, STAGES, 0.8, 0.5)
    assert [group["lr"] for group in groups] == [0.8, 0.4, 0.2, 0.1]
    names = {id(value): name for name, value in net.named_parameters()}
    members = [{names[id(value)].rpartition(".")[0] for value in group["params"]} for group in groups]
    assert members == [
        {"head"},
        {"body.blocks.2.0", "body.blocks.2.1", "body.norm"},
        {"body.blocks.1.0", "body.blocks.1.1"},
        {"body.stem", "body.blocks.0.0", "body.blocks.0.1"},
    ]


def test_frozen_stages_are_in_no_group() -> None:
    net = network()
    freeze(net, STAGES, 2)
    assert [group["lr"] for group in parameter_groups(net, STAGES, 0.8, 0.5)] == [0.8, 0.4, 0.2]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_a_decay_shortens_the_first_step_of_each_stage_and_nothing_else(schedule: Any) -> None:
    """The schedule scales all rates alike."""
    moves: list[dict[str, torch.Tensor]] = []
    for decay in (None, 0.5):
        net = network()
        before = {name: value.detach().clone() for name, value in net.named_parameters()}
        groups = None if decay is None else parameter_groups(net, STAGES, 0.1, decay)

        def once(epoch: int) -> Any:
            return iter([next(batches(epoch))])

        training = TrainState(net, TrainConfig(epochs=1, lr=0.1, schedule=schedule), param_groups=groups)
        train(training, once, batches, seed=0, on_epoch=lambda _: None)
        assert training.history[0].lr == 0.1
        moves.append({name: value.detach() - before[name] for name, value in net.named_parameters()})
    above = {"stem": 3, "blocks.0": 3, "blocks.1": 2, "blocks.2": 1, "norm": 1}
    for name, plain in moves[0].items():
        steps = next((steps for stage, steps in above.items() if name.startswith(f"body.{stage}.")), 0)
        torch.testing.assert_close(moves[1][name], plain * 0.5**steps, rtol=1e-4, atol=1e-7)
        assert plain.abs().max() > 1e-5, name


@pytest.mark.parametrize(
    ("eval_only", "expected"),
    [(lambda net: [], set()), (lambda net: [net.body.norm], {"body.norm"})],
)
def test_a_network_trains_but_for_what_is_eval_only(
    eval_only: Callable[[BackboneWithHead], list[nn.Module]], expected: set[str]
) -> None:
    net = network()
    net.eval_only = eval_only(net)
    net.train()
    assert {name for name, module in net.named_modules() if not module.training} == expected
    assert "eval_only" not in dict(net.named_children())
    assert net.train() is net
