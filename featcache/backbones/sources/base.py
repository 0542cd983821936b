"""`BackboneSource`: the base class of a library of networks. Each source is one file of this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn


class BuiltNetwork(NamedTuple):
    """A network without its classifier.

    module : from normalized pixels (b, 3, s, s), float32, to features (b, d).
    preprocessing : image_size, resize_size, interpolation, mean and std that belong to the weights.
    note : how a weights file was changed to fit, one line; "" for no change.
    fixed_size : whether another image size needs another network.
    """

    module: nn.Module
    preprocessing: dict[str, Any]
    note: str = ""
    fixed_size: bool = False


class BackboneSource:
    """A library of networks.

    A source overrides `build`, and the other methods as far as its library supports them. featcache registers its own
    sources in `featcache.backbones.sources.registry`. Another package adds one by an entry point, whose value is an
    instance:

        [project.entry-points."featcache.backbones"]
        open-clip = "my_package.open_clip:SOURCE"

    `load_backbone` then finds it by the names "open-clip" and "open-clip/<model>". Every method gets the complete name.
    Import heavy libraries inside of methods: sources are imported whenever a name is looked up.

    Attributes
    ----------
    hint : str. How its networks are named, for messages, such as "timm/<model>".
    prefix : str. What its names begin with; searches for close names ignore it. "" for none.
    locations : tuple of str. Beginnings of the part after `prefix` that mark a location, such as "hf-hub:".
    packages : tuple of str. Distributions whose versions decide what a network computes.
    """

    hint: str = ""
    prefix: str = ""
    locations: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    def owns(self, name: str) -> bool:
        """Whether a name is of this source.

        featcache asks its own sources about every name, and those of other packages about names that begin with the
        name of their entry point.
        """
        return True

    def check_name(self, name: str) -> None:
        """Raise BackboneError for a name that certainly does not exist, without importing the library."""

    def names(self) -> list[str]:
        """Complete names of networks, to suggest them in messages."""
        return []

    def is_reproducible(self, name: str) -> bool:
        """Whether name and weights decide what a network computes, so that its metadata can be cached."""
        return True

    def build(self, name: str, weights: str, image_size: int | None) -> BuiltNetwork:
        """Build a network without its classifier. The caller seeds torch's generator for random weights.

        Parameters
        ----------
        weights : str. "pretrained", "none" (random), or the path of a file.
        image_size : int or None. In pixels; None is the usual size of the network.

        Raises
        ------
        BackboneError : unknown name, or weights that are not available or do not fit.
        """
        raise NotImplementedError

    def preprocessing(self, name: str, weights: str) -> dict[str, Any] | None:
        """The preprocessing that `build` returns, without building the network; None if that is unknown."""
        return None

    def hub_model(self, name: str) -> str:
        """The repository of the pretrained weights on the Hugging Face Hub, such as "user/name"; "" if not known."""
        return ""

    def plain_network(self, name: str) -> nn.Module | None:
        """The network as its library builds it, with its classifier and random weights; None if there is no such."""
        return None

    def classifiers(self, name: str, network: nn.Module) -> list[str]:
        """Names of the modules of a plain network that give the logits."""
        return []

    def pretrained_state(self, name: str, weights: str) -> Mapping[str, Tensor]:
        """All tensors of the weights with the classifier's, by their names in the plain network."""
        return {}

    def build_code(
        self, name: str, classifier: str, classes: int, width: int, image_size: int | None
    ) -> tuple[str, str]:
        """Source code that builds the plain network, for `featcache export --format state-dict`.

        Parameters
        ----------
        classifier : str. Name of the last linear layer.
        classes, width : int. Outputs and inputs of that layer.
        image_size : int or None. In pixels; None is the usual size.

        Returns
        -------
        line : str. The import that the code needs.
        code : str. It binds the network to `model`.
        """
        raise NotImplementedError
