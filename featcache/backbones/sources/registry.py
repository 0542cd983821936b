"""`SOURCES`: the sources of networks by name, and their metadata of a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from featcache.backbones.sources.base import BackboneSource, BuiltNetwork
from featcache.backbones.weights.location import is_file, locate
from featcache.core.close_names import closest_names
from featcache.core.registry import Registry
from featcache.core.rng import derived_seed
from featcache.core.specs import is_arrays
from featcache.errors import BackboneError

if TYPE_CHECKING:
    from torch import Tensor, nn

SOURCES: Registry[BackboneSource] = Registry(
    "backbone source", "featcache.backbones.sources", "featcache.backbones", BackboneError
)

_SUGGESTIONS = 6


def find_source(name: str) -> BackboneSource | None:
    """The source of a network; None for an unknown name.

    Entry points of other packages are read only for a name that featcache's own sources do not have.
    """
    registered = SOURCES.registered()
    for key in registered:
        if (source := SOURCES.get(key)).owns(name):
            return source
    key = name.partition("/")[0]
    if key not in registered and key in SOURCES and (source := SOURCES.get(key)).owns(name):
        return source
    return None


def get_source(name: str) -> BackboneSource:
    """The source of a network. Raises BackboneError, with close names, for an unknown one."""
    source = find_source(name)
    if source is None:
        raise _unknown_backbone(name)
    return source


def is_named(name: str) -> bool:
    """Whether a source has a network of this name."""
    return find_source(name) is not None


def check_name(name: object) -> None:
    """Raise BackboneError, with close names, for the name of a network that certainly does not exist.

    It imports neither torch nor a library of networks. Names with a colon (factories, repositories, folders), names
    that are not text, and models that a program has registered with timm itself pass: `build` decides about them.
    """
    if isinstance(name, str) and ":" not in name and not is_arrays(name):
        get_source(name).check_name(name)


def build(name: str, weights: str, seed: int, image_size: int | None = None) -> BuiltNetwork:
    """Build a network without its classifier, see `load_backbone`; random weights depend on `seed` alone."""
    from featcache._utils.random_generators import seeded

    run = locate(weights, name).preprocessing if is_file(weights) else {}
    source = get_source(name)
    with seeded(derived_seed(seed, "weights")):
        built = source.build(name, weights, image_size or run.get("image_size"))
    if run and built.fixed_size and image_size:  # it was built for this size, not for that of the run
        run |= {"image_size": image_size, "resize_size": round(image_size * run["resize_size"] / run["image_size"])}
    return built._replace(preprocessing={**built.preprocessing, **run}) if run else built


def preprocessing(name: str, weights: str) -> dict[str, Any] | None:
    """The preprocessing that `build` returns, without building the network; None for an unknown name."""
    source = find_source(name)
    values = source.preprocessing(name, weights) if source else None
    if values is None or not is_file(weights):
        return values
    return {**values, **locate(weights, name).preprocessing}


def linear_classifiers(name: str) -> list[str]:
    """Names of the last layers of the plain network: one, or two (distilled) whose logits are averaged.

    Empty if they are not linear, as in SqueezeNet: a head cannot replace them.
    """
    from torch import nn

    source = get_source(name)
    network = _plain_network(source, name)
    if network is None:
        return []
    classifiers = source.classifiers(name, network)
    return classifiers if all(isinstance(network.get_submodule(path), nn.Linear) for path in classifiers) else []


def differs_in_size(name: str, module: nn.Module) -> bool:
    """Whether a network of this name was built for another image size than its usual one."""
    network = _plain_network(get_source(name), name)
    if network is None:
        return False
    usual = {key: value.shape for key, value in network.state_dict().items()}
    return any(usual.get(key, value.shape) != value.shape for key, value in module.state_dict().items())


def pretrained_state(name: str, weights: str) -> Mapping[str, Tensor]:
    """All tensors of the weights with the classifier's, by their names in the plain network."""
    from featcache._utils.random_generators import forked

    with forked():
        return get_source(name).pretrained_state(name, weights)


def _plain_network(source: BackboneSource, name: str) -> nn.Module | None:
    from featcache._utils.random_generators import forked

    with forked():  # its random weights are discarded
        return source.plain_network(name)


def _unknown_backbone(name: str) -> BackboneError:
    sources = list(_loadable_sources())
    for source in sources:
        if name.startswith(source.locations):
            return BackboneError(
                f"there is no backbone {name!r}: {source.prefix.rstrip('/')} loads such networks, as "
                f"{source.prefix}{name}"
            )
    names = [network for source in sources for network in source.names()]
    close = closest_names(name, names, _SUGGESTIONS, prefixes=[source.prefix for source in sources if source.prefix])
    *hints, last = [source.hint for source in sources if source.hint]
    return BackboneError(
        f"there is no backbone {name!r}"
        + (f"; close: {', '.join(close)}" if close else "")
        + f". Use {', '.join(hints)}, or {last}."
    )


def _loadable_sources() -> Iterator[BackboneSource]:
    """All sources sorted by key, those without a prefix first; an entry point that cannot be loaded is left out."""
    sources = []
    for key in SOURCES.names():
        with suppress(BackboneError):
            sources.append(SOURCES.get(key))
    yield from sorted(sources, key=lambda source: bool(source.prefix))
