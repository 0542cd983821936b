"""`HuggingFaceTextSource`: a data set of Hugging Face `datasets` on disk with a column of texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featcache._utils.regular_files import read_json
from featcache.core.samples import UNLABELED
from featcache.data.hidden_labels import hide_unknown
from featcache.data.label_columns import choose_label, label_note
from featcache.data.modality import TEXTS, Modality
from featcache.data.sources.base import SPLIT_NAMES, SampleListing, SampleRecord, Source, SourceOptions
from featcache.data.sources.huggingface import HuggingFaceSource
from featcache.data.sources.huggingface_columns import NO_LABELS_HINT, class_names, is_list, read_groups
from featcache.data.sources.huggingface_files import is_saved_dataset, load_splits
from featcache.data.sources.registry import SOURCES
from featcache.data.sources.table_columns import not_a_text
from featcache.data.sources.text_columns import find_text_columns, holds_texts, text_note
from featcache.data.sources.text_ids import content_id, number_copies, without_counter
from featcache.data.sources.text_rows import join_texts
from featcache.data.text_content import check_text, encode_text
from featcache.errors import DataLayoutError


class HuggingFaceTextSource(HuggingFaceSource):
    """A folder that `datasets` saved, with a column of texts and one of labels; see `Source`.

    It has a column `text` and none of images, or the user names the columns of the texts. Ids come from the content,
    see `text_ids`. Labels as of `HuggingFaceSource`.

    Parameters
    ----------
    name : str
        The folder.
    label_column : str or None
        The column of the labels; None chooses one, see `choose_label`.
    text_column : str or None
        See `find_text_columns`.
    """

    order = 19
    has_text_column = True

    def __init__(self, name: str, label_column: str | None = None, text_column: str | None = None) -> None:
        super().__init__(name, (), label_column)
        self._text_column = text_column
        self._text_rows: dict[str, tuple[list[Any], int]] = {}  # id of the first copy -> columns of texts, row

    @classmethod
    def matches(cls, path: str, options: SourceOptions) -> bool:
        """See `Source`: by the names of the columns."""
        folder = Path(path)
        return is_saved_dataset(folder) and (options.text_column is not None or holds_texts(_columns(folder)))

    @classmethod
    def open(cls, path: str, options: SourceOptions) -> Source:
        """See `Source`."""
        return HuggingFaceTextSource(path, options.label_column, options.text_column)

    @property
    def modality(self) -> Modality:
        """See `Source`."""
        return TEXTS

    def read(self, name: str) -> bytes:
        """See `Source`: the text in UTF-8."""
        if not self._text_rows:
            self._read_texts()
        if without_counter(name) not in self._text_rows:
            raise FileNotFoundError(2, "it is not in the data set", name)
        columns, row = self._text_rows[without_counter(name)]
        return check_text(_text(columns, row))

    def subset(self, names: Sequence[str]) -> Source:
        """See `Source`."""
        return HuggingFaceTextSource(str(Path(self.name).absolute()), self._label_column, self._text_column)

    def _list(self, with_groups: bool) -> SampleListing:
        """See `HuggingFaceSource`. Predictions, which need no groups, need no labels either."""
        tables = self._read_texts()
        notes: dict[str, None] = {}
        several, is_plain, label = False, True, None
        records: list[SampleRecord] = []
        for split, table, texts, ids in tables:
            classes: list[tuple[str, ...] | None] = [None] * len(ids)
            groups = read_groups(self.name, table) if with_groups else [""] * len(ids)
            if with_groups:
                label = self._choose_label(table, texts, notes)
                several |= is_list(table.features[label])
                is_plain &= not class_names(table.features[label])
                classes = self._classes(table, label)
            split = SPLIT_NAMES[split] if split else None
            records += [
                SampleRecord(name, names or (), UNLABELED if names is None else split, group=group)
                for name, names, group in zip(ids, classes, groups, strict=True)
            ]
        listing = SampleListing(number_copies(records), several, tuple(notes), label)
        return hide_unknown(listing, TEXTS) if is_plain else listing

    def _choose_label(self, table: Any, texts: tuple[str, ...], notes: dict[str, None]) -> str:
        others = [column for column in table.features if column not in texts]
        candidates = [column for column in others if class_names(table.features[column])]
        label = choose_label(self.name, others, self._label_column, candidates)
        if label is None:
            raise DataLayoutError(
                f"{self.name} needs a column of labels (ClassLabel, or named label) beside {', '.join(texts)}; it has "
                f"{', '.join(others) or 'no other'}{NO_LABELS_HINT}"
            )
        notes |= dict.fromkeys([label_note(label, others, candidates), *text_note(texts)])
        return label

    def _read_texts(self) -> list[tuple[str | None, Any, tuple[str, ...], list[str]]]:
        """Split, table, columns of the texts and ids without counters, of each split; `_text_rows` gets the rows."""
        tables = []
        for split, table in load_splits(self.name).items():
            texts = find_text_columns(self.name, list(table.features), self._text_column)
            if not texts:
                raise DataLayoutError(f"{self.name} has no column text; name that of the texts with --text-column")
            for column in texts:
                feature = table.features[column]
                if getattr(feature, "dtype", "") not in _STRINGS:
                    raise not_a_text(f"{self.name}: the column {column} holds {getattr(feature, 'dtype', feature)}")
            self.text_columns = texts
            columns = [table[column] for column in texts]
            ids = [content_id(_text(columns, row)) for row in range(len(table))]
            self._text_rows |= {name: (columns, row) for row, name in enumerate(ids)}
            tables.append((split, table, texts, ids))
        return tables


_STRINGS = ("string", "large_string")


def _text(columns: list[Any], row: int) -> bytes:
    return encode_text(join_texts([column[row] for column in columns]))


def _columns(folder: Path) -> list[str]:
    """The names of the columns of a saved data set that hold no images, and "image" if one does."""
    files = [folder / "dataset_info.json", *sorted(folder.glob("*/dataset_info.json"))]
    for file in files:
        try:
            features = read_json(file)["features"]
            kinds = {name: str(feature) for name, feature in features.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if any("'Image'" in kind or "'binary'" in kind for kind in kinds.values()):
            return [*kinds, "image"]
        return list(kinds)
    return []


SOURCES.register("huggingface-texts", HuggingFaceTextSource)
