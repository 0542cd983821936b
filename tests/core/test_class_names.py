from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from featcache.core.class_names import composed, name_notes
from featcache.data.manifest import read_manifest
from featcache.errors import DataLayoutError

MakeFolder = Callable[..., Path]
COMPOSED = "größe"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


def test_a_class_in_two_unicode_forms_is_one_class(make_folder: MakeFolder) -> None:
    root = make_folder({f"train/{DECOMPOSED}": 2, "train/bees": 2, f"val/{COMPOSED}": 2, "val/bees": 1})
    manifest = read_manifest(root)
    assert manifest.samples.classes == ("bees", COMPOSED)
    assert [len(manifest.samples.rows(split)) for split in ("train", "val")] == [4, 3]
    assert f"train/{DECOMPOSED}/000.png" in manifest.samples.ids  # ids are the names of files
    assert manifest.read(manifest.samples.ids.index(f"val/{COMPOSED}/000.png"))
    assert "class 'größe' is written in several Unicode forms (NFC, NFD): one class" in manifest.notes


def test_a_class_in_one_form_keeps_it(make_folder: MakeFolder) -> None:
    manifest = read_manifest(make_folder({DECOMPOSED: 2, "bees": 2}))
    assert manifest.samples.classes == ("bees", DECOMPOSED)
    assert composed([DECOMPOSED, "bees"]) == {}


ALIKE = "classes {} differ only in {}: if they are one class, write them alike"


@pytest.mark.parametrize(
    ("names", "notes"),
    [
        (["ants", "bees"], []),
        (["Dog", "dog", "cat"], [ALIKE.format("'Dog' and 'dog'", "upper and lower case")]),
        (["1", "1.0", "2"], [ALIKE.format("'1' and '1.0'", "how a number is written")]),
        (["-1", "1", "10"], []),
        (["a b", "a\xa0b"], [ALIKE.format("'a b' and 'a\\xa0b'", "spaces, _ and -")]),
        (["golden_retriever", "golden-retriever"], [
            ALIKE.format("'golden-retriever' and 'golden_retriever'", "spaces, _ and -")
        ]),
        (["cat", "cat\u200b"], [ALIKE.format("'cat' and 'cat\\u200b'", "letters that look alike, or cannot be seen")]),
        (["nan", "cat"], ["class 'nan' looks like a missing value, and is trained as a class"]),
        (["-", "_", "+"], []),
    ],
)  # fmt: skip
def test_names_that_are_nearly_equal(names: list[str], notes: list[str]) -> None:
    assert name_notes(names, {}) == notes


def test_notes_stay_on_a_screen() -> None:
    names = [f"{word}{number}" for number in range(100) for word in ("class", "CLASS")]
    notes = name_notes(names, {})
    assert len(notes) == 6
    assert notes[-1] == "95 more notes on class names"


def test_a_class_that_train_lacks_is_shown_its_neighbour(make_folder: MakeFolder) -> None:
    root = make_folder({"train/Dog": 2, "train/cat": 2, "val/dog": 1, "val/cat": 1})
    with pytest.raises(DataLayoutError) as caught:
        read_manifest(root)
    assert str(caught.value).endswith(" Train has 'Dog', which differs from 'dog' only in upper and lower case.")
