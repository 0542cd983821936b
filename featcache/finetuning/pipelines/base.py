"""`LivePipeline`: from samples of one modality to a network that is trained on them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from featcache._utils.progress_bar import Progress
from featcache._utils.timing import PhaseTimer
from featcache.backbones.trainable import TrainableNetwork
from featcache.core.specs import ExtractSpec
from featcache.data.manifest import Manifest
from featcache.data.sample_loader import SampleLoader
from featcache.finetuning.strategy import Mode


@dataclass(frozen=True)
class LiveData:
    """The samples of a run.

    Attributes
    ----------
    loader : SampleLoader
    config : dict
        What else decides its views, which a resumed run must have in common, JSON values.
    notes : callable
        Gives notes for the user, a line each, after the training.
    """

    loader: SampleLoader
    config: dict[str, Any] = field(default_factory=dict)
    notes: Callable[[], list[str]] = list


class LivePipeline(Protocol):
    """From samples of one modality to a network that is trained on them.

    Attributes
    ----------
    options : tuple of str
        Arguments of `finetune` that no other modality has. Each is None unless the user sets it.
    size_option : str
        The option that decides the size of the network's input.
    trains_from_scratch : bool
        Whether a network of random weights learns from some thousand samples, so that a benchmark tries it.
    """

    options: tuple[str, ...]
    size_option: str
    trains_from_scratch: bool

    def default_config(self, mode: Mode, has_init_head: bool, /) -> dict[str, Any]:
        """Fields of `TrainConfig` whose defaults are others, by what is trained and whether a fitted head begins."""

    def load(self, name: str, options: dict[str, Any], /, *, weights: str, device: str, precision: str
             ) -> TrainableNetwork:  # fmt: skip
        """Load a network by its name. Raises BackboneError."""

    def spec(self, network: Any, options: dict[str, Any], manifest: Manifest, init_head: str | None, /) -> ExtractSpec:
        """The spec of the views that the options request; with a fitted head, of those that it was fitted on."""

    def describe(self, spec: ExtractSpec, /) -> str:
        """One sample with its size, for messages, such as "image at 224 pixels"."""

    def open_data(
        self,
        stack: ExitStack,
        network: Any,
        spec: ExtractSpec,
        manifest: Manifest,
        options: dict[str, Any],
        /,
        *,
        image_cache: Path | None,
        timer: PhaseTimer,
        progress: Progress | None,
    ) -> LiveData:
        """Open the loader of the samples. The stack closes it."""
