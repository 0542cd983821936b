"""Which stages of a network are trained, and at what learning rate."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from featcache.backbones.stages import stage_of, stage_of_modules
from featcache.errors import RunError
from featcache.training.network import BackboneWithHead


def freeze(network: BackboneWithHead, stages: list[str], trainable: int) -> None:
    """Freeze all but the head and the last `trainable` stages: no gradients, and `eval()` mode.

    Raises RunError if the network has fewer stages.
    """
    if trainable > len(stages):
        raise RunError(
            f"--unfreeze {trainable}: the network has {len(stages)} stages, from the first to the last "
            f"{', '.join(stages)}. Give {len(stages)} or less."
        )
    first = len(stages) - trainable
    stage = stage_of(network.body, stages)
    for name, parameter in network.body.named_parameters():
        parameter.requires_grad_(stage[name] >= first)
    network.eval_only += _modules_below(network.body, stages, first)


def freeze_batchnorm_statistics(network: BackboneWithHead, stages: list[str], pretrained: int) -> None:
    """Let every BatchNorm of the first `pretrained` stages normalise with its running statistics, and keep those.

    Its weight and bias are trained. Later stages have random weights, so their statistics must be trained.
    """
    modules = network.body.modules() if pretrained == len(stages) else _modules_below(network.body, stages, pretrained)
    network.eval_only += [module for module in modules if isinstance(module, _BatchNorm)]


def parameter_groups(
    network: BackboneWithHead, stages: list[str], lr: float, decay: float, head_lr: float | None = None
) -> list[dict[str, Any]]:
    """Groups for an optimizer: the head at `head_lr`, by default `lr`; each stage at `decay` times that of the next.

    Layer-wise learning rate decay: Clark et al. 2020 (ELECTRA, arXiv 2003.10555) and Bao et al. 2021 (BEiT, arXiv
    2106.08254). As in BEiT, the rate of the last stage is `lr` times `decay`. Without stages, the whole network has the
    rate `lr`. The first group, whose rate is reported, is the head if its rate is `lr`.
    """
    stage, last = stage_of(network.body, stages), max(0, len(stages) - 1)
    head = [{"params": list(network.head.parameters()), "lr": lr if head_lr is None else head_lr}]
    groups = []
    for number in reversed(range(last + 1)):
        parameters = [
            value for name, value in network.body.named_parameters() if stage[name] == number and value.requires_grad
        ]
        if parameters:
            groups.append({"params": parameters, "lr": lr * decay ** (last + 1 - number)})
    return [*head, *groups] if head_lr in (None, lr) else [*groups, *head]


def _modules_below(body: nn.Module, stages: list[str], first: int) -> list[nn.Module]:
    """The modules whose submodules are all in stages before `first`."""
    stage = stage_of_modules(body, stages)
    return [
        module
        for name, module in body.named_modules()
        if all(stage[f"{name}.{inner}".strip(".")] < first for inner, _ in module.named_modules())
    ]
