"""What of a network learns, and at what rate: stages from the last one down, each slower than the one above it."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from featcache.backbones.stages import stage_of, stage_of_modules
from featcache.errors import RunError
from featcache.training.network import BackboneWithHead


def freeze(network: BackboneWithHead, stages: list[str], learning: int) -> None:
    """Leave the last `learning` stages and the head to learn; the others get no gradients and stay in `eval()` mode.

    Raises RunError where there are fewer stages.
    """
    if learning > len(stages):
        raise RunError(
            f"--unfreeze {learning}: the network has {len(stages)} stages, from the first to the last "
            f"{', '.join(stages)}. Give {len(stages)} or less."
        )
    first = len(stages) - learning
    stage = stage_of(network.body, stages)
    for name, parameter in network.body.named_parameters():
        parameter.requires_grad_(stage[name] >= first)
    network.still += _modules_below(network.body, stages, first)


def freeze_batchnorm_statistics(network: BackboneWithHead, stages: list[str], kept: int) -> None:
    """Let every BatchNorm of the first `kept` stages normalise by its running statistics, which stay as they are; its
    weight and bias learn. Those behind have random weights, whose statistics are yet to be learnt.
    """
    modules = network.body.modules() if kept == len(stages) else _modules_below(network.body, stages, kept)
    network.still += [module for module in modules if isinstance(module, _BatchNorm)]


def parameter_groups(network: BackboneWithHead, stages: list[str], lr: float, decay: float) -> list[dict[str, Any]]:
    """Groups for an optimizer: the head at `lr`, and each stage at `decay` times the rate of what lies above it.

    Clark et al. 2020 (ELECTRA, arXiv 2003.10555) and Bao et al. 2021 (BEiT, arXiv 2106.08254) do so with the layers of
    a transformer; as in BEiT the last of them is the first to be slower than the head.
    """
    stage = stage_of(network.body, stages)
    groups = [{"params": list(network.head.parameters()), "lr": lr}]
    for number in reversed(range(len(stages))):
        members = [
            value for name, value in network.body.named_parameters() if stage[name] == number and value.requires_grad
        ]
        if members:
            groups.append({"params": members, "lr": lr * decay ** (len(stages) - number)})
    return groups


def _modules_below(body: nn.Module, stages: list[str], first: int) -> list[nn.Module]:
    """Those with all that they hold in stages before the first: a container that ends later is not one."""
    stage = stage_of_modules(body, stages)
    return [
        module
        for name, module in body.named_modules()
        if all(stage[f"{name}.{inner}".strip(".")] < first for inner, _ in module.named_modules())
    ]
