"""Data that look like texts, or like rows, and are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from featcache import read_manifest
from featcache.data.manifest import Manifest
from featcache.errors import DataLayoutError, EmptyFolderError

NOT_A_TEXT = (
    "a text must be a string or null. Name the column of the texts with --text-column, or write the values as strings "
    "if they are texts."
)


def _texts(manifest: Manifest) -> dict[str, str]:
    """Class of each text."""
    samples = manifest.samples
    return {manifest.read(row).decode(): samples.classes[label] for row, label in enumerate(samples.labels)}


def _files(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def _images(root: Path, n: int = 5) -> None:
    _files(root, *(f"{folder}/{row}.png" for folder in ("a", "b") for row in range(n)))


def test_captions_of_images_are_ignored(tmp_path: Path) -> None:
    _images(tmp_path)
    _files(tmp_path, *(f"{folder}/{row}_cap{n}.txt" for folder in ("a", "b") for row in range(5) for n in range(3)))
    manifest = read_manifest(tmp_path)
    assert manifest.modality.name == "image"
    assert len(manifest.samples) == 10
    assert manifest.ignored == {"not an image (.txt)": 30}


def test_notes_beside_the_splits_of_images_are_ignored(tmp_path: Path) -> None:
    _images(tmp_path / "train")
    _files(tmp_path, *(f"notes/{row}.txt" for row in range(11)))
    manifest = read_manifest(tmp_path)
    assert sorted(manifest.samples.ids) == sorted(f"train/{name}/{row}.png" for name in "ab" for row in range(5))


def test_a_folder_of_notes_beside_class_folders_of_images_holds_no_images(tmp_path: Path) -> None:
    _images(tmp_path)
    _files(tmp_path, *(f"notes/{row}.txt" for row in range(11)))
    with pytest.raises(EmptyFolderError) as caught:
        read_manifest(tmp_path)
    assert str(caught.value) == (
        f"Class folder {tmp_path}/notes holds no images (11 files: not an image (.txt)). Put images into it, or remove "
        "the folder."
    )


def test_an_image_outside_of_class_folders_of_texts_is_an_error(tmp_path: Path) -> None:
    _files(tmp_path, "logo.png", "train/logo.png", *(f"train/{name}/{row}.txt" for name in "ab" for row in range(4)))
    with pytest.raises(DataLayoutError, match=r"holds 2 images \(for example logo.png\) and 8 texts .*train/a/0.txt\)"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("root", ["", "train/"])
def test_files_that_are_no_images_do_not_make_their_notes_texts(tmp_path: Path, root: str) -> None:
    _files(tmp_path, "notes.txt", f"{root}a/info.txt", f"{root}b/info.txt")
    _files(tmp_path, *(f"{root}{folder}/{row}.dcm" for folder in ("a", "b") for row in range(3)))
    with pytest.raises(EmptyFolderError) as caught:
        read_manifest(tmp_path)
    assert str(caught.value) == (
        f"Class folder {tmp_path}/{root}a holds no images (3 files: not an image (.dcm); 1 file: not an image (.txt)). "
        "Put images into it, or remove the folder. The class folders hold 2 texts (.txt) and 6 other files: in a data "
        "set of texts, most files are texts."
    )


def test_most_files_of_a_data_set_of_texts_are_texts(tmp_path: Path) -> None:
    _files(tmp_path, *(f"{name}/{row}.txt" for name in "ab" for row in range(4)), *(f"a/{n}.pdf" for n in range(7)))
    _files(tmp_path, *(f"{n}.xml" for n in range(9)))  # not in a class folder
    assert len(read_manifest(tmp_path).samples) == 8
    _files(tmp_path, "b/8.pdf")
    with pytest.raises(EmptyFolderError, match=r"hold 8 texts \(.txt\) and 8 other files"):
        read_manifest(tmp_path)


def _write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.mark.parametrize("header", [("text", "label", "split"), ("label", "text", "split")])
@pytest.mark.parametrize("closed", ['lovely film"', "lovely film"])
def test_a_quote_at_the_begin_of_a_text_between_tabs_is_a_character(
    tmp_path: Path, header: tuple[str, ...], closed: str
) -> None:
    texts = {'"Good, he said': "pos", "this was bad": "neg", closed: "pos", '"Alien" is long': "neg"}
    rows = [{"text": text, "label": label, "split": "train"} for text, label in texts.items()]
    lines = ["\t".join(row[name] for name in header) for row in rows]
    manifest = read_manifest(_write(tmp_path / "list.tsv", "\t".join(header), *lines))
    assert _texts(manifest) == texts
    assert 'quotes (") are part of the texts: they do not pair as in CSV' in manifest.notes


def test_quoted_texts_between_tabs_are_read_without_their_quotes(tmp_path: Path) -> None:
    lines = ['"a ""fine"" film"\tpos', '"two\nlines"\tneg', 'a 5" disc\tpos', '"a tab\there"\tneg']
    manifest = read_manifest(_write(tmp_path / "list.tsv", "text\tlabel", *lines))
    assert _texts(manifest) == {'a "fine" film': "pos", "two\nlines": "neg", 'a 5" disc': "pos", "a tab\there": "neg"}
    assert not any("quotes" in note for note in manifest.notes)


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_text_that_swallows_rows_is_an_error(tmp_path: Path, delimiter: str) -> None:
    rows = ["good film,pos", '"Good he said,pos', "this was bad,neg", 'lovely film",pos', "bad film,neg"]
    table = _write(tmp_path / "list.csv", *(row.replace(",", delimiter) for row in ("text,label", *rows)))
    with pytest.raises(DataLayoutError) as caught:
        read_manifest(table)
    assert str(caught.value) == (
        f"{table}, line 5: this text holds line breaks, and a line in it looks like a row: "
        f"'Good he said{delimiter}pos'. Look for a quote (\") that opens or closes a text by mistake; a quote within a "
        "text is written twice, and quotes stand around the text."
    )


def test_texts_of_several_lines_with_commas_are_read(tmp_path: Path) -> None:
    rows = ['"Well, fine\n1,000 people, or so",pos', '"so, so\nbad",neg', "plain,pos", "poor,neg"]
    manifest = read_manifest(_write(tmp_path / "list.csv", "text,label", *rows))
    assert set(_texts(manifest)) == {"Well, fine\n1,000 people, or so", "so, so\nbad", "plain", "poor"}


@pytest.mark.parametrize("value", [["a", "b"], 5, 1.5, True, {"a": 1}])
def test_a_text_in_json_lines_is_a_string(tmp_path: Path, value: object) -> None:
    rows = [{"text": f"text {row}", "label": row % 2} for row in range(4)] + [{"text": value, "label": 0}]
    table = _write(tmp_path / "list.jsonl", *map(json.dumps, rows))
    with pytest.raises(DataLayoutError) as caught:
        read_manifest(table)
    expected = f"{table}, line 5: text is {json.dumps(value)}; {NOT_A_TEXT}"
    assert str(caught.value) == expected
    _write(table, *map(json.dumps, [*rows[:4], {"text": None, "label": 0}]))
    assert len(read_manifest(table).unread()) == 1


@pytest.mark.parametrize(
    "values", [[1, 2, 3, None], [1.5, 2.0, float("nan"), 3.0], [True, False, True, None], [["a"]] * 4]
)
def test_a_text_in_parquet_is_a_string(tmp_path: Path, values: list[object]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = tmp_path / "list.parquet"
    numbers = pyarrow.array(values)
    labels = ["a", "b"] * 2
    parquet.write_table(pyarrow.table({"text": numbers, "label": labels}), table)
    with pytest.raises(DataLayoutError) as caught:
        read_manifest(table)
    assert (
        str(caught.value) == f"{table}: the column text holds {parquet.read_schema(table).field(0).type}; {NOT_A_TEXT}"
    )
    strings = ["good", "bad", "so", "dull"]
    for texts in (
        pyarrow.array(strings, pyarrow.large_string()),
        pyarrow.array(strings).dictionary_encode(),
        pyarrow.array([text.encode() for text in strings]),
    ):
        parquet.write_table(pyarrow.table({"text": texts, "label": labels, "n": numbers}), table)
        assert set(_texts(read_manifest(table, label_column="label", val_fraction=0.5))) == set(strings)
        with pytest.raises(DataLayoutError, match="the column n holds"):
            read_manifest(table, text_column="text,n", label_column="label")


def test_a_table_in_another_encoding_is_an_error(tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    rows = [f"text {row},{'ab'[row % 2]}" for row in range(38)]

    def read(*more: str) -> Manifest:
        table.write_bytes("\n".join(["text,label", *rows, *more]).encode("latin-1"))
        return read_manifest(table)

    assert len(read("café,a").unread()) == 1
    with pytest.raises(DataLayoutError) as caught:
        read("café,a", "café,b")
    assert str(caught.value) == (
        f"{table}: 2 of 40 texts are not UTF-8, the first in line 40. The table is in another encoding: save it as CSV "
        "in UTF-8."
    )
    rows += ["one more,a"]
    assert len(read("café,a", "été,b").unread()) == 2
