"""Manifests as people bring them: spreadsheets, other separators, lists of files that are not all there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from featcache.cache.feature_cache import FeatureCache
from featcache.data.manifest import Manifest, read_manifest
from featcache.data.sources.table import read_table
from featcache.errors import DataLayoutError, FeatcacheError
from featcache.extraction.extract import extract
from featcache.extraction.update import update
from forks import fork
from toys import toy_backbone

MakeFolder = Callable[..., Path]


@pytest.fixture
def root(make_folder: MakeFolder) -> Path:
    """x/000.png to x/007.png."""
    return make_folder({"x": 8})


def write(root: Path, *lines: str, name: str = "list.csv") -> Path:
    path = root / name
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def rows(*labels: str, sep: str = ",") -> list[str]:
    return [f"x/{number:03d}.png{sep}{label}" for number, label in enumerate(labels)]


def labels_of(manifest: Manifest) -> dict[str, str]:
    samples = manifest.samples
    return {
        name.removeprefix("x/").removesuffix(".png"): samples.classes[label] if label >= 0 else ""
        for name, label in zip(samples.ids, samples.labels, strict=True)
    }


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(DataLayoutError) as caught:
        read_manifest(path, **options)
    return str(caught.value)


TWO = {f"{number:03d}": "dog" if number % 2 else "cat" for number in range(8)}
LABELS = tuple(TWO.values())


def test_a_row_with_more_cells_than_columns_is_refused_with_the_cure(root: Path) -> None:
    path = write(root, "path,label", "x/000.png,dog, golden", "x/001.png,cat")
    assert refusal(path) == (
        f"{path}, line 2: 3 cells, the first line names 2 columns: x/000.png | dog |  golden. Put quotes around a text "
        'with a comma in it: "dog, golden"'
    )
    path = write(root, "path,label", 'x/000.png,"dog, golden"', *rows(*LABELS)[1:])
    assert labels_of(read_manifest(path)) == {**TWO, "000": "dog, golden"}


@pytest.mark.parametrize(("row", "reason"), [('"dog', "unexpected end of data"), ('"a"b', "',' expected after '\"'")])
def test_a_quote_that_is_not_closed_swallows_no_rows(root: Path, row: str, reason: str) -> None:
    path = write(root, "path,label", f"x/000.png,{row}", *rows(*LABELS)[1:])
    message = refusal(path)
    assert message.startswith(f"{path}, line ")
    assert f": {reason}. Look for a quote" in message


def test_a_file_of_another_encoding_is_told_how_to_be_saved(root: Path) -> None:
    path = root / "list.csv"
    path.write_bytes("path,label\nx/000.png,größe\n".encode("cp1252"))
    assert refusal(path).endswith("A spreadsheet saves one as 'CSV UTF-8'.")


def test_empty_cells_at_the_end_of_a_row_say_nothing(root: Path) -> None:
    assert labels_of(read_manifest(write(root, "path,label", *(f"{row},," for row in rows(*LABELS))))) == TWO


@pytest.mark.parametrize(("sep", "note"), [(";", "columns separated by ;"), ("\t", "columns separated by tabs")])
def test_other_separators_are_read(root: Path, sep: str, note: str) -> None:
    manifest = read_manifest(write(root, f"path{sep}label", *rows(*LABELS, sep=sep)))
    assert labels_of(manifest) == TWO
    assert manifest.notes == ("label column: label", note)


def test_names_of_columns_in_another_case_and_with_spaces(root: Path) -> None:
    manifest = read_manifest(write(root, "Path, Label ", *rows(*LABELS)))
    assert labels_of(manifest) == TWO
    assert manifest.notes == ("label column:  Label ", "path column: Path")


def test_backslashes_of_windows(root: Path) -> None:
    manifest = read_manifest(write(root, "path,label", *(row.replace("/", "\\") for row in rows(*LABELS))))
    assert labels_of(manifest) == TWO
    assert manifest.notes[-1] == "paths with backslashes, read with slashes: 8"


def test_a_row_that_repeats_another_is_no_error(root: Path) -> None:
    manifest = read_manifest(write(root, "path,label", *rows(*LABELS), rows(*LABELS)[0]))
    assert labels_of(manifest) == TWO
    assert manifest.notes[-1] == "rows that repeat an earlier row, counted once: 1"
    assert "line 10: x/000.png is already in line 2" in refusal(
        write(root, "path,label", *rows(*LABELS), "x/000.png,dog")
    )


def test_missing_files_are_counted_and_a_few_named(root: Path) -> None:
    path = write(root, "path,label", *rows(*LABELS), *(f"gone/{number}.png,cat" for number in range(20)))
    assert refusal(path) == (
        f"{path}: 20 of 28 files are missing: gone/0.png (line 10), gone/1.png (line 11), gone/2.png (line 12) and 17 "
        f"more. Paths are relative to {root}. Correct them, or leave these images out with --skip-missing."
    )


def test_missing_files_are_skipped_and_listed_on_demand(root: Path, tmp_path: Path) -> None:
    path = write(root, "path,label", *rows(*LABELS), "gone/0.png,cat", "gone/1.png,dog")
    extraction = extract(path, tmp_path / "cache.h5", backbone=toy_backbone(), views=0, workers=1, skip_missing=True)
    assert sorted(name for name, _ in extraction.skipped) == ["gone/0.png", "gone/1.png"]
    assert "missing files, skipped: 2 of 10" in str(extraction.data)
    assert FeatureCache.open(tmp_path / "cache.h5").split_options["skip_missing"] is True
    assert update(tmp_path / "cache.h5", path).nothing


def test_json_given_as_csv_is_called_that_on_one_screen(root: Path) -> None:
    path = root / "list.csv"
    path.write_text(json.dumps([{"path": f"x/{number}.png", "label": "cat"} for number in range(20_000)]))
    assert path.stat().st_size > 700_000
    assert refusal(path) == (
        f"{path} looks like JSON, not like CSV: its first line must name the columns path,label[,split][,sha256]. JSON "
        "with a record a line is read from a file that ends in .jsonl."
    )


def test_a_first_line_of_many_cells_is_cut_short(root: Path) -> None:
    path = write(root, ",".join(f"column {number}" for number in range(100_000)))
    assert len(refusal(path)) < 400


def test_json_lines(root: Path) -> None:
    records = [
        {"file_name": row.split(",")[0], "label": label} for row, label in zip(rows(*LABELS), LABELS, strict=True)
    ]
    path = write(root, *map(json.dumps, records), name="list.jsonl")
    assert labels_of(read_manifest(path)) == TWO


@pytest.mark.parametrize(
    ("header", "options", "column", "note"),
    [
        ("path,label", {}, 0, "label column: label"),
        ("path,label,class", {}, 0, "label column: label (not class; --label-column chooses)"),
        ("path,source,Target", {}, 1, "label column: Target"),
        ("path,class,label", {"label_column": "class"}, 0, "label column: class (not label; --label-column chooses)"),
        ("path,breed,label", {"label_column": "breed"}, 0, "label column: breed (not label; --label-column chooses)"),
    ],
)
def test_which_column_is_the_label(root: Path, header: str, options: dict[str, str], column: int, note: str) -> None:
    cells = [("cat", "a"), ("dog", "b")]
    lines = [f"x/{number:03d}.png,{','.join(cells[number % 2][: header.count(',')])}" for number in range(8)]
    manifest = read_manifest(write(root, header, *lines), **options)
    assert manifest.samples.classes == (("cat", "dog"), ("a", "b"))[column]
    assert manifest.notes[0] == note


def test_where_two_columns_may_be_the_label_the_user_says_which(root: Path) -> None:
    path = write(root, "path,class,target", "x/000.png,a,b")
    assert refusal(path) == (
        f"{path} has 2 columns that may be the label: class, target. Name one: --label-column class"
    )
    assert refusal(path, label_column="breed") == f"{path} has no column 'breed'; it has path, class, target."


def test_the_column_is_said_kept_and_used_again(root: Path, tmp_path: Path) -> None:
    path = write(root, "path,class,target", *(f"{row},{number % 3}" for number, row in enumerate(rows(*LABELS))))
    out = tmp_path / "cache.h5"
    extraction = extract(path, out, backbone=toy_backbone(), views=0, workers=1, label_column="class")
    assert "label column: class (not target; --label-column chooses)" in str(extraction.data).splitlines()
    assert extraction.cache.samples.classes == ("cat", "dog")
    assert update(out, path).nothing


def test_a_folder_has_no_columns(split_folder: Path) -> None:
    assert refusal(split_folder, label_column="class") == (
        f"{split_folder} has no columns: --label-column and --skip-missing are for CSV, Parquet and Hugging Face's "
        "data."
    )


@pytest.mark.parametrize("unknown", ["", "-1"])
def test_rows_without_a_label_are_extracted_and_not_trained_on(root: Path, tmp_path: Path, unknown: str) -> None:
    labels = ["0", "1", "0", "1", "0", "1", unknown, unknown]
    path = write(root, "path,label", *rows(*labels))
    extraction = extract(path, tmp_path / "cache.h5", backbone=toy_backbone(), views=1, workers=1)
    cache = extraction.cache
    assert cache.samples.classes == ("0", "1")
    assert not cache.samples.multilabel
    features = cache.features("unlabeled")
    assert features.samples.ids == ("x/006.png", "x/007.png")
    assert features.y.tolist() == [-1, -1]
    assert features.clean().shape == (2, 3)
    assert features.views == 0
    assert ("2 of 8 images have no label: kept in the split unlabeled, not trained on or scored") in str(
        extraction.data
    )
    assert cache.to_dict()["images_by_split"] == {"train": 4, "val": 2, "test": 0, "unlabeled": 2}


def test_images_that_get_a_label_later_are_not_extracted_again(root: Path, tmp_path: Path) -> None:
    path, out = write(root, "path,label", *rows(*LABELS[:6], "", "")), tmp_path / "cache.h5"
    extract(path, out, backbone=toy_backbone(), views=0, workers=1)
    before = FeatureCache.open(out).features("unlabeled").clean().copy()
    write(root, "path,label", *rows(*LABELS))
    done = update(out, path)
    assert (done.carried, done.extracted) == (8, 0)
    assert sorted(done.changes["newly labeled"]) == ["x/006.png", "x/007.png"]
    cache = FeatureCache.open(out)
    assert len(cache.samples.rows("unlabeled")) == 0
    row_of = {name: row for row, name in enumerate(cache.samples.ids)}
    features = np.concatenate([cache.features(split).clean() for split in ("train", "val")])
    np.testing.assert_array_equal(features[[row_of["x/006.png"], row_of["x/007.png"]]], before)


def test_minus_one_without_splits_is_not_known_and_said(root: Path) -> None:
    manifest = read_manifest(write(root, "path,label", *rows(*"010101", "-1", "-1")))
    assert manifest.samples.classes == ("0", "1")
    assert "label -1 (2 images) is taken for 'not known'; if it is a class, give it a name" in manifest.notes


def test_minus_one_of_train_is_a_class(root: Path) -> None:
    lines = [f"{row},train" for row in rows("-1", "0", "1", "-1", "0", "1", "-1")]
    manifest = read_manifest(write(root, "path,label,split", *lines))
    assert manifest.samples.classes == ("-1", "0", "1")
    assert manifest.notes[-1].startswith("label -1 (3 images) is taken for a class, as train has it")


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_test_folder_of_minus_one_alone_is_unlabeled(make_folder: MakeFolder, name: str) -> None:
    root = make_folder({"train": 4, "test": 2}, name="digits")
    for folder, labels in (("train", "0101"), ("test", ("-1", "-1"))):
        named = [(f"{row:03d}.png", label) for row, label in enumerate(labels)]
        lines = [json.dumps({"file_name": file, "label": int(label)}) for file, label in named]
        if name.endswith(".csv"):
            lines = ["file_name,label", *map(",".join, named)]
        write(root / folder, *lines, name=name)
    samples = read_manifest(root, val_fraction=0.5).samples
    assert samples.classes == ("0", "1")
    assert [samples.ids[row] for row in samples.rows("unlabeled")] == ["test/000.png", "test/001.png"]


def test_minus_one_among_minus_one_and_one_is_a_class(root: Path) -> None:
    assert read_manifest(write(root, "path,label", *rows(*["-1", "1"] * 4))).samples.classes == ("-1", "1")


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
@pytest.mark.parametrize("per_split", [False, True])
def test_metadata_as_hugging_face_has_it(make_folder: MakeFolder, name: str, per_split: bool) -> None:
    root = make_folder({"train": 4, "test": 2}, name="pets")
    files = [path.relative_to(root) for path in sorted(root.rglob("*.png"))]
    records = [{"file_name": str(file), "label": "ab"[number % 2]} for number, file in enumerate(files)]
    for folder in ("train", "test") if per_split else (".",):
        rows_of_folder = [
            {**record, "file_name": record["file_name"].removeprefix(f"{folder}/")}
            for record in records
            if not per_split or record["file_name"].startswith(folder)
        ]
        if name.endswith(".csv"):
            write(
                root / folder,
                "file_name,label",
                *(f"{record['file_name']},{record['label']}" for record in rows_of_folder),
                name=name,
            )
        else:
            write(root / folder, *map(json.dumps, rows_of_folder), name=name)
    (root / "train/more.png").write_bytes(b"x")
    samples = (manifest := read_manifest(root)).samples
    assert {name: samples.classes[label] for name, label in zip(samples.ids, samples.labels, strict=True)} == {
        record["file_name"]: record["label"] for record in records
    }
    assert [samples.ids[row] for row in samples.rows("test")] == ["test/000.png", "test/001.png"]
    assert manifest.ignored == {f"images that {name} does not list": 1}
    assert manifest.read(0) == (root / samples.ids[0]).read_bytes()
    assert manifest.notes == (f"labels from {name}", "label column: label", "path column: file_name")


def test_metadata_without_labels_leaves_class_folders_as_they_are(split_folder: Path) -> None:
    write(split_folder, "file_name,text", "train/ants/000.png,An ant.", name="metadata.csv")
    assert read_manifest(split_folder).samples.classes == ("ants", "bees")


def test_an_image_that_two_metadata_files_list_is_one_image(root: Path) -> None:
    records = [{"file_name": f"x/{row:03d}.png", "label": label} for row, label in enumerate(LABELS)]
    write(root, "file_name,label", *rows(*LABELS), name="metadata.csv")
    write(root, *map(json.dumps, records), name="metadata.jsonl")
    manifest = read_manifest(root)
    assert labels_of(manifest) == TWO
    assert "images that several metadata files list, counted once: 8" in manifest.notes
    records[3]["label"] = "horse"
    write(root, *map(json.dumps, records), name="metadata.jsonl")
    assert refusal(root) == (
        f"{root / 'metadata.csv'} and {root / 'metadata.jsonl'} both list x/003.png: label {LABELS[3]}, and label "
        "horse. Correct one, or remove one of the files."
    )


def test_metadata_with_two_columns_of_labels_or_without_the_named_one_is_refused(root: Path) -> None:
    write(root, "file_name,class,target", *(f"{row},1" for row in rows(*LABELS)), name="metadata.csv")
    assert "2 columns that may be the label: class, target. Name one: --label-column class" in refusal(root)
    assert "has no column 'clas'; it has file_name, class, target." in refusal(root, label_column="clas")
    assert labels_of(read_manifest(root, label_column="class")) == TWO


def test_a_column_of_the_exact_name_comes_first(root: Path) -> None:
    lines = [f"x/{row:03d}.png,1,{label}" for row, label in enumerate(LABELS)]
    assert labels_of(read_manifest(write(root, "path,Label,label", *lines))) == TWO


def test_two_columns_of_one_name_are_refused(root: Path) -> None:
    path = write(root, "path,label,label", *(f"{row},1" for row in rows(*LABELS)))
    assert refusal(path) == f"{path} has 2 columns named 'label'. Rename those that do not count."


def test_lists_in_json_lines_are_several_labels_however_many_there_are(root: Path) -> None:
    records = [{"path": f"x/{row:03d}.png", "label": [label]} for row, label in enumerate(LABELS)]
    assert read_manifest(write(root, *map(json.dumps, records), name="list.jsonl")).samples.multilabel


@pytest.mark.parametrize("label", [{"a": 0}, ["cat", None], [["cat"]]])
def test_labels_in_json_lines_that_are_no_names_are_refused(root: Path, label: object) -> None:
    records = [{"path": f"x/{row:03d}.png", "label": value} for row, value in enumerate(["cat", label])]
    path = write(root, *map(json.dumps, records), name="list.jsonl")
    expected = f"line 2: label is {json.dumps(label)}; it must be a text, a number, or a list of such"
    assert expected in refusal(path)


def test_a_path_longer_than_the_system_takes_is_a_missing_file(root: Path) -> None:
    table = write(root, "path,label", *rows("ants", "bees"), f"{'x' * 5000}.png,ants")
    assert "1 of" in (message := refusal(table))
    assert "files are missing" in message


def _read_damaged(folder: str, whole: bytes, places: Sequence[int]) -> None:
    """Read a table with one byte after the other changed; the status of the process says whether all was well."""
    for position in places:
        for flip in (0x10, 0x30):
            content = whole[:position] + bytes([whole[position] ^ flip]) + whole[position + 1 :]
            with suppress(FeatcacheError):
                read_table("damaged.parquet", content, lambda name: (name, True))
    Path(folder, "whole").touch()


def test_no_byte_of_a_parquet_file_ends_the_process(root: Path, tmp_path: Path) -> None:
    """Arrow ends it where what the footer says of a column contradicts itself."""
    path = tmp_path / "list.parquet"
    listed = {"path": [str(root / "x" / f"{name}.png") for name in TWO], "label": LABELS}
    parquet.write_table(pyarrow.table(listed), path, compression="none")
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    process = fork(_read_damaged, str(tmp_path), whole, range(footer, len(whole)))
    process.join()
    assert (process.exitcode, (tmp_path / "whole").exists()) == (0, True)


def test_texts_of_a_parquet_file_that_changed_are_refused(root: Path) -> None:
    """Pages have checksums where the writer makes them; else what is no UTF-8 is found."""
    path = root / "list.parquet"
    listed = pyarrow.table({"path": [f"x/{name}.png" for name in TWO], "label": LABELS})
    for sums, old, new in ((True, b"x/000.png", b"x/001.png"), (False, b"x/000.png", b"x/\xff00.png")):
        parquet.write_table(listed, path, compression="none", write_page_checksum=sums, write_statistics=False)
        content = path.read_bytes()
        path.write_bytes(content.replace(old, new))
        assert path.read_bytes() != content
        assert "list.parquet is not a Parquet file of texts" in refusal(path)


def test_half_of_a_pair_of_surrogates_is_no_text(root: Path) -> None:
    path = write(root, r'{"path": "x/\ud800.png", "label": "cat"}', name="list.jsonl")
    assert r'line 1: path is "x/\ud800.png", which is not text' in refusal(path, skip_missing=True)


def test_a_name_that_no_file_can_have_is_that_of_a_missing_one(root: Path) -> None:
    lines = [json.dumps({"path": f"x/{name}.png", "label": label}) for name, label in TWO.items()]
    path = write(root, *lines, json.dumps({"path": "x/a\0b.png", "label": "cat"}), name="list.jsonl")
    manifest = read_manifest(path, skip_missing=True)
    assert "x/a\0b.png" in [manifest.samples.ids[row] for row in manifest.unread()]
    assert "1 of 9 files are missing" in refusal(path)
