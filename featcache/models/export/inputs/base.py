"""`ExportInput`: what an exported file takes, and the program that prepares it, for one modality."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache.core.model_card import ModelCard

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featcache.models.export.registry import ExampleCode
    from featcache.models.load import SavedModel


class Check(NamedTuple):
    """What the program of an exported file is run on, to compare its logits with featcache's.

    arguments : of the program, one for each sample. features : of the samples, shape (b, d), float64.
    """

    arguments: list[str]
    features: NDArray[np.float64]


class ExportInput(Protocol):
    """What an exported file takes, for one modality.

    Attributes
    ----------
    names : tuple of str
        Names of the inputs of a graph. The program has a variable of each name.
    dynamic_axes : tuple of dict
        For each input, the axes whose size varies, with a name for the size.
    imports : str
        Import statements of the program, beside those of the format.
    sample : str
        An argument of the program, in messages, such as "photo.jpg".
    """

    names: tuple[str, ...]
    dynamic_axes: tuple[dict[int, str], ...]
    imports: str
    sample: str

    def features(self, saved: SavedModel, /) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """The network as a module from the inputs to the features of each of its layers, and an example of the inputs.

        Raises ExportError for a network without such a module.
        """

    def layers(self, saved: SavedModel, /) -> tuple[str, ...]:
        """The layers of this module, in their order."""

    def metadata(self, card: ModelCard, /) -> dict[str, str]:
        """What the metadata of an exported file says of its inputs."""

    def companions(self, path: Path, /) -> list[Path]:
        """The files that the program needs beside the exported file `path`."""

    def write_companions(self, saved: SavedModel, path: Path, /) -> None:
        """Write these files."""

    def check(self, saved: SavedModel, folder: Path, /) -> Check:
        """Samples to run the program on in `folder`, which exists and is not kept."""

    def program(self, saved: SavedModel, file_name: str, code: ExampleCode, /) -> str:
        """The program beside an exported file, which prints the classes of samples without featcache.

        Parameters
        ----------
        saved : SavedModel
            The exported model.
        file_name : str
            Name of the exported file, in the folder of the program.
        code : ExampleCode
            Lines of the format, which use the file.
        """

    def notes(self, card: ModelCard, /) -> list[str]:
        """Notes for the user on the inputs, a line each."""
