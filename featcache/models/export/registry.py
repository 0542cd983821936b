"""`EXPORT_FORMATS`: the formats that `export` writes, by name. Listing the names imports no PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.core.registry import Registry
from featcache.errors import ExportError

if TYPE_CHECKING:
    from featcache.heads.linear_layer import LinearWeights
    from featcache.models.load import SavedModel


@dataclass(frozen=True)
class ExampleCode:
    """Lines of Python that use an exported file without featcache. `ExportInput.program` makes a whole program of them.

    Parameters
    ----------
    imports : str
        Import statements. numpy, sys, Path, and what prepares the samples (see `ExportInput`) are imported already.
    predict : str
        Statements that compute `logits`, shape (b, c), from `pixels`, the prepared images of a batch: RGB, uint8, shape
        (b, s, s, 3); for texts from `ids` and `lengths`, see `ExportInput`. They end in a newline, and run for each
        batch.
    probabilities : str
        The expression for the probabilities, shape (b, c). Default: the name `probabilities`, which `predict` sets.
    load : str
        Statements that load the file `MODEL`, once. They end in a newline. Default: none.
    """

    imports: str
    predict: str
    probabilities: str = "probabilities"
    load: str = ""


@dataclass(frozen=True)
class ExportFormat:
    """A format of exported models.

    Parameters
    ----------
    write : Callable[[SavedModel, LinearWeights, Path], ExampleCode]
        Writes a model, whose last layer is the `LinearWeights`, to the path, and returns the code that uses the file.
        Raises ExportError for a model that the format cannot hold.
    packages : tuple of str
        Names of the modules that `write` and the code import, beyond featcache's own dependencies. Default: none.
    extra : str
        The extra of featcache that installs the packages. Default: none.
    notes : Callable[[], tuple of str]
        Notes for the user of such a file, a line each. Default: nothing.
    """

    write: Callable[[SavedModel, LinearWeights, Path], ExampleCode]
    packages: tuple[str, ...] = ()
    extra: str = ""
    notes: Callable[[], tuple[str, ...]] = tuple


EXPORT_FORMATS = Registry[ExportFormat](
    "export format", "featcache.models.export.formats", "featcache.exports", ExportError
)
