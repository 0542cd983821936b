"""Files that a package from PyPI brings, with their hashes. The package's code is not imported."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from featcache.errors import BackboneError, MissingExtraError, first_line


@dataclass(frozen=True)
class PinnedPackage:
    """A package with the files of an encoder.

    Attributes
    ----------
    name, version : of the distribution.
    module, folder : where its files are: the importable package, and a folder in it.
    extra : of featcache, which installs the package.
    sha256 : of each file, by its path in the folder.
    """

    name: str
    version: str
    module: str
    folder: str
    extra: str
    sha256: Mapping[str, str]

    def locate(self) -> Path:
        """The folder of the files. Raises MissingExtraError if the package is not installed."""
        spec = find_spec(self.module)  # which does not import it
        for place in (spec.submodule_search_locations or []) if spec else []:
            if (folder := Path(place, self.folder)).is_dir():
                return folder
        raise MissingExtraError.for_package(self.name, self.extra)

    def check(self, files: Iterable[str]) -> Path:
        """The folder, once these files have the content of the version. Raises BackboneError, MissingExtraError."""
        folder = self.locate()
        for file in files:
            self._check_file(folder / file, self.sha256[file])
        return folder

    def _check_file(self, path: Path, expected: str) -> None:
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BackboneError(f"{path} cannot be read: {first_line(error)}. Install {self.name} again.") from error
        if found != expected:
            raise BackboneError(
                f"{path} has the SHA-256 {found[:12]}..., expected {expected[:12]}...: the installed {self.name} is "
                f"another version than {self.version}, or was changed. Install that version again, or name another "
                "encoder."
            )
