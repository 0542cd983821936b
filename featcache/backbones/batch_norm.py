"""`fold_batch_norm`: weights of convolutions that include the BatchNorm after them, in a network in `eval()` mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def has_batch_norm(network: nn.Module) -> bool:
    """Whether there is a layer that may be folded."""
    return any(map(_is_foldable, network.modules()))


def fold_batch_norm(network: nn.Module, run: Callable[[], object], keep: frozenset[str] = frozenset()) -> int:
    """Fold each BatchNorm that takes the output of one convolution into the weights of that convolution.

    What happens to tensors between modules is not seen: compare the features afterwards.

    Parameters
    ----------
    network : is changed. Its modules keep their names.
    run : runs the network on a batch.
    keep : names of convolutions whose own output is needed.

    Returns
    -------
    int
        The number of layers of BatchNorm that were folded.
    """
    pairs = [pair for pair in _pairs(network, run) if pair[0] not in keep]
    for convolution_name, norm_name in pairs:
        convolution: Any = network.get_submodule(convolution_name)
        norm: Any = network.get_submodule(norm_name)
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        network.set_submodule(norm_name, _rest(norm))
    return len(pairs)


def _pairs(network: nn.Module, run: Callable[[], object]) -> list[tuple[str, str]]:
    """Names of a convolution and of the BatchNorm that takes its output, where both run once."""
    made: dict[int, tuple[str, Tensor]] = {}  # the tensors are kept, so that no other one gets their id
    taken: list[tuple[str, str]] = []
    calls: Counter[str] = Counter()

    def after_convolution(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            calls[name] += 1
            made[id(output)] = name, output

        return hook

    def before_norm(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            calls[name] += 1
            if inputs and id(inputs[0]) in made:
                taken.append((made[id(inputs[0])][0], name))

        return hook

    handles = []
    for name, module in network.named_modules():
        if type(module) is nn.Conv2d:
            handles.append(module.register_forward_hook(after_convolution(name)))
        elif _is_foldable(module):
            handles.append(module.register_forward_pre_hook(before_norm(name)))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    calls.update(f"{convolution} is taken" for convolution, _ in taken)
    return [
        (convolution, norm)
        for convolution, norm in taken
        if calls[convolution] == calls[norm] == calls[f"{convolution} is taken"] == 1
    ]


def _is_foldable(module: nn.Module) -> bool:
    is_norm = type(module) is nn.BatchNorm2d or _has_activation(module)
    return is_norm and not module.training and getattr(module, "running_var", None) is not None


def _has_activation(module: nn.Module) -> bool:
    """Whether this is timm's BatchNorm with an activation."""
    return type(module).__name__ == "BatchNormAct2d" and isinstance(module, nn.BatchNorm2d)


def _rest(norm: Any) -> nn.Module:
    """What a module does after BatchNorm."""
    return nn.Sequential(norm.drop, norm.act) if _has_activation(norm) else nn.Identity()
