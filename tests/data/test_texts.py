from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from featcache import read_manifest
from featcache.cache.format.create import write_cache
from featcache.cache.format.layout import read
from featcache.core.normalized_text import normalize_text
from featcache.core.samples import SPLITS
from featcache.core.specs import ExtractSpec, TextSpec
from featcache.data.manifest import Manifest
from featcache.data.sources.registry import open_source
from featcache.errors import DataLayoutError, EmptyFolderError

Rows = list[dict[str, object]]


def _table(path: Path, rows: Rows) -> Path:
    """A table of these rows, in the format that its name says."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({name: [row.get(name) for row in rows] for name in names}), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def _reviews(n: int = 5) -> Rows:
    return [{"text": f"{word} film {row}", "label": word} for row in range(n) for word in ("bad", "good")]


def _texts(manifest: Manifest) -> dict[str, str]:
    """Class of each text."""
    samples = manifest.samples
    classes = [samples.classes[label] for label in samples.labels]
    return {manifest.read(row).decode(): name for row, name in enumerate(classes)}


def _id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_a_table_with_a_column_of_texts_is_read(tmp_path: Path, ending: str) -> None:
    rows = [
        {"text": 'a "fine" film,\nsaid\u2028she', "label": "good", "split": "train", "group": "x"},
        {"text": "=1+1", "label": "bad", "split": "train", "group": ""},
        {"text": "'=1+1", "label": "bad", "split": "test", "group": ""},
        {"text": "long " * 40_000, "label": "good", "split": "val", "group": ""},
    ]
    manifest = read_manifest(_table(tmp_path / f"list.{ending}", rows))
    assert manifest.modality.plural == "texts"
    assert _texts(manifest) == {row["text"]: row["label"] for row in rows}
    assert [SPLITS[split] for split in manifest.samples.split] == ["train", "train", "val", "test"]
    assert set(manifest.samples.ids) == {_id(str(row["text"])) for row in rows}
    assert dict(zip(manifest.samples.ids, manifest.samples.groups, strict=True))[_id(str(rows[0]["text"]))] == "x"
    sha256 = [hashlib.sha256(manifest.read(row)).digest() for row in range(4)]
    assert [row.tobytes() for row in manifest.samples.sha256] == sha256


def test_ids_do_not_depend_on_the_order_of_the_rows(tmp_path: Path) -> None:
    rows = [*_reviews(), {"text": "bad film 0", "label": "bad"}, {"text": "bad film 0", "label": "good"}]
    first, second = (
        read_manifest(_table(tmp_path / f"{name}.csv", order)) for name, order in (("a", rows), ("b", rows[::-1]))
    )
    assert first.samples.ids == second.samples.ids
    assert first.samples.digest() == second.samples.digest()
    copies = [_id("bad film 0") + counter for counter in ("", "-2", "-3")]
    labels = dict(zip(first.samples.ids, first.samples.labels.tolist(), strict=True))
    assert [labels[name] for name in copies] == [0, 0, 1]
    places = [first.where(name) for name in copies]
    assert (places[0], places[2]) in first.conflicts()


def test_another_column_and_several_columns_hold_the_text(tmp_path: Path) -> None:
    rows = [{"title": f"{row['text']}!", "body": row["text"], "label": row["label"]} for row in _reviews()]
    rows[0]["title"] = ""
    table = _table(tmp_path / "list.csv", rows)
    assert "bad film 1" in _texts(read_manifest(table, text_column="body"))
    texts = read_manifest(table, text_column="title,body")
    assert texts.notes[1] == "text columns, with the separator of the encoder between them: title, body"
    assert {"bad film 0", "good film 0!\x1fgood film 0"} <= set(_texts(texts))
    with pytest.raises(DataLayoutError, match="has no column 'titel'; it has title, body, label"):
        read_manifest(table, text_column="titel")


def test_a_table_of_paths_is_not_one_of_texts(tmp_path: Path) -> None:
    table = _table(tmp_path / "list.csv", [{"path": "a.jpg", "text": "a caption", "label": "a"}])
    assert open_source(table).modality.name == "image"


def test_normalized_texts_are_equal_but_for_case_white_space_and_form() -> None:
    assert normalize_text(" The\u00a0ﬁlm\n\tIS  Straße ") == "the film is strasse"
    assert normalize_text("e\u0301") == normalize_text("É") == "é"
    assert normalize_text("a b") != normalize_text("ab")


def test_near_copies_leak(tmp_path: Path) -> None:
    rows = [{**row, "split": "train"} for row in _reviews()]
    rows += [{"text": "BAD  film \uff10", "label": "bad", "split": "val"}]
    table = _table(tmp_path / "list.csv", rows)
    with pytest.raises(DataLayoutError) as caught:
        read_manifest(table)
    assert str(caught.value).startswith(
        f"{table}: 1 texts of val or test are in train, too: {table}, line 12 is {table}, line 2 but for case, white "
        "space or Unicode form. "
    )
    samples = read_manifest(table, allow_leak=True).samples
    row = {name: number for number, name in enumerate(samples.ids)}
    a, b = row[_id("bad film 0")], row[_id("BAD  film \uff10")]
    assert list(samples.copies()) == [(a, b)]
    assert (samples.split_keys[a] == samples.split_keys[b]).all()
    assert (samples.sha256[a] != samples.sha256[b]).any()


def test_near_copies_stay_together_in_the_draw_and_in_the_cache(tmp_path: Path) -> None:
    rows = [{**row, "text": text} for row in _reviews(6) for text in (row["text"], str(row["text"]).upper())]
    manifest = read_manifest(_table(tmp_path / "list.csv", rows), val_fraction=0.4)
    samples = manifest.samples
    split = {manifest.read(row).decode(): SPLITS[samples.split[row]] for row in range(len(samples))}
    assert set(split.values()) == {"train", "val"}
    assert all(split[str(row["text"])] == split[str(row["text"]).lower()] for row in rows)
    assert len(np.unique(samples.split_keys, axis=0)) == 12
    spec = ExtractSpec("encoder", "0" * 64, TextSpec("0" * 64), views=0)
    write_cache(tmp_path / "cache.h5", spec, samples, {"penultimate": 2}, {})
    stored = read(tmp_path / "cache.h5").samples
    assert stored.digest() == samples.digest()
    assert (stored.split_keys == samples.split_keys).all()


def test_texts_without_near_copies_have_no_second_key(tmp_path: Path) -> None:
    samples = read_manifest(_table(tmp_path / "list.csv", _reviews())).samples
    assert samples.content_keys is None
    assert samples.contents is samples.sha256


def test_empty_and_undecodable_texts_of_a_table_are_listed(tmp_path: Path) -> None:
    table = _table(tmp_path / "list.csv", [*_reviews(), {"text": " \u00a0", "label": "bad"}])
    table.write_bytes(table.read_bytes() + "caf\u00e9,good\n".encode("latin-1"))
    manifest = read_manifest(table)
    assert len(manifest.samples) == 12
    assert manifest.notes[-2:] == (
        f"empty texts, skipped: 1 of 12 ({table}, line 12)",
        f"unreadable texts, skipped: 1 of 12 ({table}, line 13: not a text in UTF-8 (byte 0xe9 at 3): convert it)",
    )
    reasons = []
    for row in manifest.unread():
        with pytest.raises(OSError, match="text") as caught:
            manifest.read(row)
        reasons.append(str(caught.value))
    assert sorted(reasons) == ["an empty text", "not a text in UTF-8 (byte 0xe9 at 3): convert it"]


def test_a_label_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    table = _table(tmp_path / "list.csv", _reviews())
    table.write_bytes(table.read_bytes() + b"text,caf\xe9\n")
    with pytest.raises(DataLayoutError, match=r"line 12: label is 'caf.udce9', which is not UTF-8"):
        read_manifest(table)


def test_labels_of_texts(tmp_path: Path) -> None:
    rows = [{"text": f"text {row}", "label": label} for row, label in enumerate(["a|b", "a", "b", "a", "b|a", "b"])]
    manifest = read_manifest(_table(tmp_path / "several.csv", rows))
    assert manifest.samples.multilabel
    assert manifest.samples.labels.sum() == 8
    assert "2 classes, several a text" in manifest.summary().line
    rows = [*_reviews(), {"text": "who can tell", "label": ""}]
    manifest = read_manifest(_table(tmp_path / "unknown.csv", rows))
    assert manifest.notes[1].startswith("1 of 11 texts have no label")
    assert manifest.summary().small_val == (
        "val has 2 texts, too few to choose by: one text is 50 points of accuracy. Add val texts, or compare by "
        "cross-validation."
    )


def test_a_source_sent_elsewhere_holds_its_texts(tmp_path: Path) -> None:
    table = _table(tmp_path / "list.csv", _reviews())
    source = open_source(table)
    assert source.read(_id("bad film 3")) == b"bad film 3"  # before the texts were listed
    sent = source.subset([_id("bad film 3"), _id("good film 1") + "-2"])
    table.unlink()
    assert [sent.read(_id("bad film 3")), sent.read(_id("good film 1"))] == [b"bad film 3", b"good film 1"]
    with pytest.raises(FileNotFoundError, match="has no such text"):
        sent.read(_id("bad film 1"))


def _folders(root: Path, *splits: str) -> Path:
    for split in splits:
        for row in _reviews(4):
            file = root / split / str(row["label"]) / f"{str(row['text'])[-1]}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{row['text']} of {split}", "utf-8")
    return root


def test_folders_of_texts_are_read(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    manifest = read_manifest(_folders(tmp_path / "flat", "."))
    assert manifest.modality.name == "text"
    assert manifest.samples.classes == ("bad", "good")
    (tmp_path / "split").mkdir()
    root = _folders(tmp_path / "split", "train", "test")
    (root / "train/bad/9.txt").write_bytes(b"caf\xe9")
    (root / "train/bad/8.txt").write_bytes("ärger".encode("utf-16"))
    (root / "train/bad/7.txt").write_text("\n")
    (root / "train/bad/6.txt").write_bytes(b"\xef\xbb\xbfwith a mark")
    (root / "train/bad/README.txt").write_text("about")
    (root / "train/bad/scan.pdf").write_bytes(b"x")
    manifest = read_manifest(root)
    assert manifest.ignored == {"about the data, not a text of it": 1, "not a text (.pdf)": 1}
    assert manifest.read(manifest.samples.ids.index("train/bad/6.txt")) == b"with a mark"
    assert manifest.read(manifest.samples.ids.index("test/good/1.txt")) == b"good film 1 of test"
    unread = [manifest.samples.ids[row] for row in manifest.unread()]
    assert sorted(unread) == ["train/bad/7.txt", "train/bad/8.txt", "train/bad/9.txt"]
    assert manifest.notes == (
        f"empty texts, skipped: 1 of 20 ({root}/train/bad/7.txt)",
        f"unreadable texts, skipped: 2 of 20 ({root}/train/bad/8.txt: a text in UTF-16, not in UTF-8: convert it, "
        f"{root}/train/bad/9.txt: not a text in UTF-8 (byte 0xe9 at 3): convert it)",
    )


def test_texts_beside_their_images_describe_them(tmp_path: Path) -> None:
    for name in ("a/1", "a/2", "b/1", "b/2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.png").write_bytes(name.encode())
        for ending in ("txt", "caption.txt"):
            (tmp_path / f"{name}.{ending}").write_text("a caption")
    manifest = read_manifest(tmp_path)
    assert manifest.modality.name == "image"
    assert manifest.ignored == {"not an image (.txt)": 8}


def test_a_table_lists_files_of_texts(tmp_path: Path) -> None:
    _folders(tmp_path, ".")
    rows = [
        {"path": path.relative_to(tmp_path).as_posix(), "label": path.parent.name} for path in tmp_path.rglob("*.txt")
    ]
    manifest = read_manifest(_table(tmp_path / "list.csv", rows))
    assert manifest.modality.name == "text"
    assert manifest.read(0).endswith(b" of .")


def test_messages_say_texts(tmp_path: Path) -> None:
    empty = _table(tmp_path / "empty.csv", [{"text": "", "label": ""}])
    empty.write_text("text,label\n")
    with pytest.raises(EmptyFolderError) as caught:
        read_manifest(empty)
    assert str(caught.value) == (f"{empty} holds no texts. Expected a row for each text: text,label[,split][,group].")
    one = _table(tmp_path / "one.csv", [{"text": "a", "label": "x"}, {"text": "b", "label": "x"}])
    with pytest.raises(DataLayoutError, match=r"Expected a row for each text: text,label\[,split\]\[,group\]\.$"):
        read_manifest(one)
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/a.txt").write_text("a")
    with pytest.raises(
        DataLayoutError, match=r"no text has a label, and fit needs labels. Expected .*/flat/<class>/\*\.txt"
    ):
        read_manifest(tmp_path / "flat").labeled("fit")
    with pytest.raises(DataLayoutError, match="has no columns of texts: text_column is for"):
        read_manifest(tmp_path / "flat", text_column="text")
