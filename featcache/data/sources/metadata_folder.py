"""`MetadataSource`: images in a folder with metadata.csv or metadata.jsonl, as of Hugging Face's "imagefolder"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from featcache._utils.progress_bar import Progress
from featcache.core.samples import SEPARATOR
from featcache.core.split_names import split_of
from featcache.data.hidden_labels import hide_unknown
from featcache.data.sources.base import SampleListing, SampleRecord, Source, SourceOptions
from featcache.data.sources.file_tree import LocalTree
from featcache.data.sources.manifest_file import ManifestSource
from featcache.data.sources.registry import SOURCES
from featcache.data.sources.table import has_labels
from featcache.errors import DataLayoutError

_FILE_NAMES = ("metadata.csv", "metadata.jsonl")


class MetadataSource(ManifestSource):
    """Samples that the metadata files of a folder list: one in the folder, or one in each split's folder; see `Source`.

    A metadata file has the columns `file_name`, relative to the file's folder, and a label.

    Parameters
    ----------
    folder : Path
        The folder.
    options : SourceOptions
        How the files are read.
    """

    order = 40
    is_folder = True

    def __init__(self, folder: Path, options: SourceOptions) -> None:
        super().__init__(str(folder / "metadata"), options)
        self.name = str(folder)
        self._files = list(_metadata_files(folder, options.label_column))

    @classmethod
    def matches(cls, path: str, options: SourceOptions) -> bool:
        """See `Source`: a folder with a metadata file that has a column of labels."""
        return Path(path).is_dir() and any(_metadata_files(Path(path), options.label_column))

    @classmethod
    def open(cls, path: str, options: SourceOptions) -> Source:
        """See `Source`."""
        return MetadataSource(Path(path), options)

    def sample_ids(self, ignored: Counter[str]) -> list[str]:
        """See `Source`: all image files of the folder, also those that no metadata file lists."""
        return list(LocalTree(Path(self.root), self.modality).samples("", ignored))

    def _read_urls(self) -> None:
        for file in self._files:
            self._read_paths(str(file), file.read_bytes(), str(file.parent))

    def entries(self, ignored: Counter[str], progress: Progress | None = None) -> SampleListing:
        """See `Source`."""
        entries: dict[str, SampleRecord] = {}
        listed_in: dict[str, Path] = {}
        notes: list[str] = []
        several, label_column, repeated = False, None, 0
        for file in self._files:
            listing = self._read_table(str(file), file.read_bytes(), str(file.parent))
            for row in listing.entries:
                entry = replace(row, split=row.split or _split_of(row.id))
                first = entries.setdefault(entry.id, entry)
                if replace(first, sha256=None) != replace(entry, sha256=None):
                    raise DataLayoutError(
                        f"{listed_in[entry.id]} and {file} both list {entry.id}: {_spell(first)}, and {_spell(entry)}. "
                        "Correct one, or remove one of the files."
                    )
                repeated += entry.id in listed_in
                listed_in.setdefault(entry.id, file)
            several |= listing.several
            label_column = listing.label_column
            notes += [f"labels from {file.name}"] if not notes else []
            notes += [note for note in listing.notes if note not in notes]
        plural = self.modality.plural
        notes += [f"{plural} that several metadata files list, counted once: {repeated}"] if repeated else []
        if unlisted := sum(name not in entries for name in self.sample_ids(Counter())):
            ignored[f"{plural} that {self._files[0].name} does not list"] += unlisted
        return hide_unknown(SampleListing(list(entries.values()), several, tuple(notes), label_column), self.modality)


def _metadata_files(folder: Path, label_column: str | None) -> Iterator[Path]:
    """The metadata files with labels in a folder, or in the folders of its splits."""
    folders = [folder, *(path for path in sorted(folder.iterdir()) if split_of(path.name))]
    files = [path / name for path in folders for name in _FILE_NAMES]
    return (file for file in files if file.is_file() and has_labels(str(file), file.read_bytes(), label_column))


def _spell(entry: SampleRecord) -> str:
    """The label, the split and the group of a sample, for a message."""
    fields = {"label": SEPARATOR.join(entry.classes), "split": entry.split, "group": entry.group}
    return ", ".join(f"{name} {value}" for name, value in fields.items() if value) or "no label"


def _split_of(name: str) -> str | None:
    """The split by the first folder of an id."""
    return split_of(name.partition("/")[0])


SOURCES.register("metadata", MetadataSource)
