"""`Pipeline`: from samples of one modality to features, as extraction and saved models use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypedDict, Unpack

from featcache._utils.monitor import Monitor
from featcache.backbones.encoder import Encoder
from featcache.core.options import CompleteArguments, ExtractArguments, RuntimeOptions
from featcache.core.specs import ExtractSpec, cached_augment
from featcache.data.manifest import Manifest
from featcache.data.modality import Modality

if TYPE_CHECKING:
    from featcache.extraction.plan import ExtractionPlan


class LoadOptions(TypedDict):
    """How the network of a spec is loaded; see `load_backbone`."""

    weights: str
    layers: Sequence[str]
    device: str
    precision: str
    lazy: NotRequired[bool]


def load_keywords(options: CompleteArguments) -> dict[str, Any]:
    """Keywords of a function that loads a network by its name, as those of images and texts do."""
    given: Mapping[str, Any] = options
    return {name: given[name] for name in ("weights", "layers", "device", "precision", "seed")} | {"lazy": True}


def spec_keywords(options: CompleteArguments, modality: str) -> dict[str, Any]:
    """Keywords of a network's `extract_spec` that every modality has."""
    given: Mapping[str, Any] = options
    augment = cached_augment(options["augment"], options["views"], modality)
    return {name: given[name] for name in ("views", "val_views", "dtype", "seed")} | {"augment": augment}


class Pipeline(Protocol):
    """From samples of one modality to features.

    Attributes
    ----------
    modality : Modality
        What the samples are.
    default_backbone : str
        Name of the network that is used if the user names none.
    network : str
        What a network of this modality is called in messages, such as "a network for images".
    options : tuple of str
        Options of an extraction that no other modality has. Each is None, or its default, unless the user sets it.
    """

    modality: Modality
    default_backbone: str
    network: str
    options: tuple[str, ...]

    def owns(self, backbone: Any, /) -> bool:
        """Whether this is the name of a network of this modality, or such a network."""

    def check_name(self, name: str, /) -> None:
        """Raise BackboneError, with close names, for the name of a network that certainly does not exist."""

    def complete(
        self, backbone: Any, options: ExtractArguments, out: Path | None, manifest: Manifest, monitor: Monitor, /
    ) -> CompleteArguments:
        """The options with values that depend on the data or on an unfinished cache `out`, if there is to be one."""

    def load(self, backbone: Any, options: CompleteArguments, /) -> tuple[Encoder, ExtractSpec]:
        """Load a network by its name, or take it as it is; and the spec of the features that the options request.

        Raises
        ------
        BackboneError
        """

    def load_of(self, spec: ExtractSpec, path: Path, backbone: Any, /, **options: Unpack[LoadOptions]) -> Encoder:
        """Load the network of a spec. The caller compares the weights with the spec's.

        Parameters
        ----------
        spec : ExtractSpec
            Of features of this modality.
        path : Path
            File or folder that was made with the network, for the message.
        backbone : network or None
            The user's own network, of which a copy is used. None loads the network by its name.
        **options : LoadOptions
            See `load_backbone`.

        Raises
        ------
        BackboneError
        """

    def plan(
        self, encoder: Any, spec: ExtractSpec, runtime: RuntimeOptions, match_engine: str = "", /
    ) -> ExtractionPlan:
        """How to run a network over samples."""
