"""Tar files: which label belongs to which picture, links, and what is passed over."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest

from featcache.data.input_notes import input_notes
from featcache.data.manifest import Manifest, read_manifest
from featcache.data.sources.registry import open_source
from featcache.errors import DataLayoutError


def write_tar(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, BytesIO(member[1]))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def labels_of(manifest: Manifest) -> dict[str, str]:
    samples = manifest.samples
    return {
        name: samples.classes[label] if label >= 0 else ""
        for name, label in zip(samples.ids, samples.labels, strict=True)
    }


def test_a_key_may_have_dots(tmp_path: Path) -> None:
    labels = {"cam1.0": "ants", "cam1.1": "bees", "cam2.0": "bees", "cam2.1": "ants"}
    members = [(f"{key}.{end}", text.encode()) for key in labels for end, text in (("png", key), ("cls", labels[key]))]
    manifest = read_manifest(write_tar(tmp_path / "pets.tar", *members), val_fraction=0.5)
    assert labels_of(manifest) == {f"{key}.png": label for key, label in labels.items()}
    assert manifest.ignored == {}


def test_a_dot_in_a_folder_ends_no_key(tmp_path: Path) -> None:
    members = [(f"v1.0/{key}.{end}", f"{key}{end}".encode()) for key in "ab" for end in ("png", "cls")]
    listing = open_source(write_tar(tmp_path / "pets.tar", *members)).entries(Counter())
    assert [(entry.id, entry.classes) for entry in listing.entries] == [
        ("v1.0/a.png", ("acls",)),
        ("v1.0/b.png", ("bcls",)),
    ]


@pytest.mark.parametrize("mask", ["seg.png", "x.y.png"])
def test_masks_beside_pictures_are_no_pictures(tmp_path: Path, mask: str) -> None:
    members = []
    for number in range(6):
        key = f"{number:04d}"
        for end, content in (("jpg", key), (mask, f"mask {key}"), ("cls", "ab"[number % 2])):
            members.append((f"{key}.{end}", content.encode()))
    manifest = read_manifest(write_tar(tmp_path / "pets.tar", *members))
    assert labels_of(manifest) == {f"{number:04d}.jpg": "ab"[number % 2] for number in range(6)}
    assert manifest.ignored == {"pictures named KEY.x.EXT beside the picture KEY.EXT of their label, as masks are": 6}


def test_a_single_picture_may_have_a_longer_name_than_its_label(tmp_path: Path) -> None:
    members = [(f"{key}.{end}", key.encode()) for key in "ab" for end in ("input.png", "cls")]
    listing = open_source(write_tar(tmp_path / "pets.tar", *members)).entries(Counter())
    assert [(entry.id, entry.classes) for entry in listing.entries] == [
        ("a.input.png", ("a",)),
        ("b.input.png", ("b",)),
    ]


@pytest.mark.parametrize("ends", [("left.png", "right.png"), ("jpg", "png")])
def test_several_pictures_of_a_label_are_refused_where_none_is_meant(tmp_path: Path, ends: tuple[str, str]) -> None:
    path = write_tar(tmp_path / "pets.tar", *((f"a.{end}", end.encode()) for end in ends), ("a.cls", b"x"))
    with pytest.raises(DataLayoutError) as caught:
        read_manifest(path)
    assert str(caught.value) == (
        f"{path}: the label of a belongs to 2 pictures: a.{ends[0]}, a.{ends[1]}. Give each picture a label file of "
        "its own name, or name the one that counts a.jpg, .png, ...: then the others are left out."
    )


def test_two_labels_of_one_key_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "pets.tar", ("a.png", b"a"), ("a.cls", b"x"), ("a.cls", b"y"))
    with pytest.raises(DataLayoutError) as caught:
        read_manifest(path)
    assert str(caught.value) == (
        f"{path}: a.cls names two labels, 'x' and 'y'. Images of one split need keys of their own."
    )


def test_what_has_no_use_is_counted(tmp_path: Path) -> None:
    members = [(f"{key}.png", key.encode()) for key in "abcd"]
    members += [(f"{key}.cls", f"{index % 2}".encode()) for index, key in enumerate("abcd")]
    more = [("._a.png", b"x"), ("notes.txt", b"x"), ("e.cls", b"1"), ("a.json", b'{"label": "z"}'), ("b.json", b"{}")]
    path = write_tar(tmp_path / "pets.tar", *members, *more, link("pipe.png", "", tarfile.FIFOTYPE))
    assert read_manifest(path, val_fraction=0.5).ignored == {
        "hidden": 1,
        "not an image (.txt)": 1,
        "not a regular file": 1,
        "labels without a picture": 1,
        "labels in .json that differ from the .cls beside them, which count": 1,
    }


def test_a_packed_folder_with_links_holds_what_the_folder_holds(tmp_path: Path) -> None:
    """As in the README: tar cf photos.tar -C photos . -- with two hard links and two symbolic ones."""
    root = tmp_path / "photos"
    for number in range(8):
        path = root / ("ants", "bees")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"content {number}".encode())
    os.link(root / "ants/0.png", root / "ants/hard.png")
    os.link(root / "bees/1.png", root / "bees/hard.png")
    (root / "ants/soft.png").symlink_to("2.png")
    (root / "bees/soft.png").symlink_to("../bees/3.png")
    subprocess.run(["tar", "cf", str(tmp_path / "photos.tar"), "-C", str(root), "."], check=True)
    expected, from_tar = read_manifest(root), read_manifest(tmp_path / "photos.tar")
    assert len(expected.samples) == 12
    assert from_tar.samples.digest() == expected.samples.digest()
    assert from_tar.ignored == {}
    row = from_tar.samples.ids.index("bees/soft.png")
    assert from_tar.read(row) == b"content 3"


def test_links_that_lead_nowhere_are_counted(tmp_path: Path) -> None:
    members = [(f"{folder}/{name}.png", f"{folder}{name}".encode()) for folder in "ab" for name in "12"]
    path = write_tar(
        tmp_path / "pets.tar",
        link("a/first.png", "second.png"),  # a link to a link, which comes later
        *members,
        link("a/second.png", "1.png"),
        link("b/hard.png", "./b/1.png", tarfile.LNKTYPE),
        link("a/gone.png", "9.png"),
        link("a/out.png", "/etc/passwd"),
        link("a/up.png", "../../a/1.png"),
        link("a/round.png", "round.png"),
        link("linked", "a"),
        link("up", "./b/.."),
    )
    manifest = read_manifest(path, allow_leak=True)
    assert manifest.samples.ids.index("a/first.png") >= 0
    assert [manifest.read(manifest.samples.ids.index(f"{name}.png")) for name in ("a/first", "a/second", "b/hard")] == [
        b"a1",
        b"a1",
        b"b1",
    ]
    assert len(manifest.samples) == 7
    assert manifest.ignored == {
        "links whose target is not a file of the same tar": 4,
        "folders: symbolic links to folders of the tar, which are not followed: pack it with --dereference": 2,
    }


def test_a_folder_of_nothing_but_links_to_folders_says_so(tmp_path: Path) -> None:
    members = [(f"all/{folder}/{name}.png", f"{folder}{name}".encode()) for folder in "ab" for name in "12"]
    path = write_tar(tmp_path / "pets.tar", *members, link("picked/a", "../all/a"), link("picked/b", "../all/b"))
    ignored: Counter[str] = Counter()
    open_source(path).sample_ids(ignored)
    assert input_notes(ignored, [], []) == [
        "ignored 2 folders: symbolic links to folders of the tar, which are not followed: pack it with --dereference"
    ]


def test_groups_beside_images_are_kept(tmp_path: Path) -> None:
    """In .json, with the label in it or beside it in .cls; as in a manifest."""
    members: list[tuple[str, bytes]] = []
    for number in range(12):
        key, label = f"{number:02d}", "ab"[number % 2]
        record: dict[str, object] = {"group": f" patient {number // 4} "} | ({} if number % 3 else {"label": label})
        members += [(f"{key}.png", key.encode()), (f"{key}.json", json.dumps(record).encode())]
        members += [(f"{key}.cls", label.encode())] if number % 3 else []
    manifest = read_manifest(write_tar(tmp_path / "pets.tar", *members), val_fraction=0.3)
    samples = manifest.samples
    assert labels_of(manifest) == {f"{number:02d}.png": "ab"[number % 2] for number in range(12)}
    expected = {f"{number:02d}.png": f"patient {number // 4}" for number in range(12)}
    assert dict(zip(samples.ids, samples.groups, strict=True)) == expected
    in_val = {samples.groups[row] for row in samples.rows("val")}
    assert len(in_val) == 1
    assert in_val.isdisjoint(samples.groups[row] for row in samples.rows("train"))


@pytest.mark.parametrize("group", ["[1, 2]", "{}"])
def test_a_group_that_is_no_name_is_refused(tmp_path: Path, group: str) -> None:
    members = [(f"{key}.{end}", key.encode()) for key in "ab" for end in ("png", "cls")]
    path = write_tar(tmp_path / "pets.tar", *members, ("a.json", f'{{"group": {group}}}'.encode()))
    with pytest.raises(DataLayoutError, match=r"a\.json has no group that can be read"):
        read_manifest(path)


def test_groups_of_numbers_and_of_null(tmp_path: Path) -> None:
    members = [(f"{key}.{end}", key.encode()) for key in "abcd" for end in ("png", "cls")]
    records = [("a.json", b'{"group": 7}'), ("b.json", b'{"group": null}'), ("c.json", b'{"group": ""}')]
    listing = open_source(write_tar(tmp_path / "pets.tar", *members, *records)).entries(Counter())
    assert [entry.group for entry in listing.entries] == ["7", "", "", ""]


def test_a_label_in_json_without_its_picture_is_said(tmp_path: Path) -> None:
    members = [(f"{key}.png", key.encode()) for key in "abcd"]
    labels = [(f"{key}.json", json.dumps({"label": index % 2}).encode()) for index, key in enumerate("abcdef")]
    manifest = read_manifest(write_tar(tmp_path / "pets.tar", *members, *labels), val_fraction=0.5)
    assert manifest.ignored == {"labels without a picture": 2}
    assert input_notes(manifest.ignored, [], []) == ["ignored 2 files: labels without a picture"]


def test_json_beside_class_folders_is_counted_with_its_group_kept(tmp_path: Path) -> None:
    members = [(f"{folder}/{name}.png", f"{folder}{name}".encode()) for folder in "ab" for name in "1234"]
    records = [(f"{folder}/{name}.json", b'{"group": "p%d"}' % (int(name) // 3)) for folder in "ab" for name in "1234"]
    manifest = read_manifest(write_tar(tmp_path / "pets.tar", *members, *records), val_fraction=0.5)
    groups = dict(zip(manifest.samples.ids, manifest.samples.groups, strict=True))
    assert groups == {f"{folder}/{name}.png": f"p{int(name) // 3}" for folder in "ab" for name in "1234"}
    assert manifest.ignored == {}


def test_a_label_may_be_a_link(tmp_path: Path) -> None:
    members = [(f"{key}.png", key.encode()) for key in "abcd"]
    labels = [("a.cls", b"x"), ("b.cls", b"y"), link("c.cls", "a.cls"), link("d.cls", "b.cls", tarfile.LNKTYPE)]
    manifest = read_manifest(write_tar(tmp_path / "pets.tar", *members, *labels), val_fraction=0.5)
    assert labels_of(manifest) == {"a.png": "x", "b.png": "y", "c.png": "x", "d.png": "y"}


def test_a_sparse_file_is_not_read_from_the_wrong_place(tmp_path: Path) -> None:
    for number in range(4):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(f"content {number}".encode())
    with (tmp_path / "photos/a/holes.png").open("wb") as file:
        file.seek(10**6)
        file.write(b"end")
    subprocess.run(["tar", "cSf", str(tmp_path / "x.tar"), "-C", str(tmp_path / "photos"), "."], check=True)
    manifest = read_manifest(tmp_path / "x.tar")
    assert "a/holes.png" not in manifest.samples.ids
    assert manifest.ignored == {"sparse files, which lie in pieces; pack them without --sparse": 1}


def test_images_without_a_label_are_kept_for_prediction(tmp_path: Path) -> None:
    members = [(f"{key}.png", key.encode()) for key in "abcdef"]
    labels = {
        "a.json": b'{"label": 0}',
        "b.json": b'{"label": 1}',
        "c.json": b'{"label": 0}',
        "d.json": b'{"label": 1}',
    }
    unknown = {"e.json": b'{"label": null}', "f.cls": b""}
    path = write_tar(tmp_path / "pets.tar", *members, *labels.items(), *unknown.items())
    manifest = read_manifest(path, val_fraction=0.5)
    assert labels_of(manifest) == {"a.png": "0", "b.png": "1", "c.png": "0", "d.png": "1", "e.png": "", "f.png": ""}
    assert manifest.samples.rows("unlabeled").tolist() == [4, 5]
    assert not manifest.samples.multilabel


def test_samples_of_a_tar_named_unlabeled_need_no_label_files(tmp_path: Path) -> None:
    labels = [("a.cls", b"cat"), ("b.cls", b"dog"), ("c.cls", b"cat"), ("d.cls", b"dog")]
    write_tar(tmp_path / "train-000.tar", *((f"{key}.png", key.encode()) for key in "abcd"), *labels)
    write_tar(tmp_path / "unlabeled-000.tar", ("e.png", b"e"), ("f.png", b"f"))
    samples = read_manifest(tmp_path, val_fraction=0.5).samples
    assert [samples.ids[row] for row in samples.rows("unlabeled")] == ["unlabeled/e.png", "unlabeled/f.png"]
    flat = read_manifest(write_tar(tmp_path / "flat.tar", ("e.png", b"e"), ("f.png", b"f")))
    assert len(flat.samples.rows("unlabeled")) == 2


@pytest.mark.parametrize("end", ["cls", "json"])
def test_minus_one_is_decided_over_all_tars(tmp_path: Path, end: str) -> None:
    for split, labels in (("train", (0, 1, 0, 1)), ("test", (-1, -1))):
        named = [(f"{split[:2]}{row}", label) for row, label in enumerate(labels)]
        texts = [(f"{key}.{end}", f'{{"label": {label}}}' if end == "json" else str(label)) for key, label in named]
        members = [(f"{key}.png", key.encode()) for key, _ in named]
        write_tar(tmp_path / f"{split}.tar", *members, *((name, text.encode()) for name, text in texts))
    samples = read_manifest(tmp_path, val_fraction=0.5).samples
    assert samples.classes == ("0", "1")
    assert [samples.ids[row] for row in samples.rows("unlabeled")] == ["test/te0.png", "test/te1.png"]


@pytest.mark.parametrize("label", [b'{"label": {"a": 0}}', b'{"label": ["cat", null]}', b"[" * 100_000])
def test_a_label_that_is_no_name_is_refused(tmp_path: Path, label: bytes) -> None:
    path = write_tar(tmp_path / "pets.tar", ("a.png", b"a"), ("a.json", label))
    with pytest.raises(DataLayoutError, match=r"a\.json has no label that can be read: "):
        open_source(path).entries(Counter())


def test_litter_in_tars_with_labels_is_passed_over(tmp_path: Path) -> None:
    members = [(f"{key}.{end}", f"{key}{end}".encode()) for key in "abcd" for end in ("png", "cls")]
    litter = ["@eaDir/a.png/thumb.jpg", "__MACOSX/._a.png", "._b.png"]
    of_labels = [("__MACOSX/._a.cls", b"\xff\xfe"), ("@eaDir/b.json", b"none")]
    path = write_tar(tmp_path / "pets.tar", *members, *((name, b"\0") for name in litter), *of_labels)
    source, ignored = open_source(path), Counter[str]()
    assert sorted(entry.id for entry in source.entries(ignored).entries) == ["a.png", "b.png", "c.png", "d.png"]
    assert ignored == {
        "hidden": 3,
        "folders: @eaDir, which the system or an archive made": 1,
        "label files in folders that are hidden or of systems": 1,
    }


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("pets.zip", "python -m zipfile -e {path} pets"),
        ("pets.tar.xz", "tar xf {path} -C pets"),
        ("pets.tar.bz2", "tar xf {path} -C pets"),
        ("PETS.TGZ", "tar xf {path} -C PETS"),
    ],
)
def test_a_compressed_archive_is_unpacked_by_the_user(tmp_path: Path, name: str, command: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"PK")
    folder = name.partition(".")[0]
    with pytest.raises(DataLayoutError) as caught:
        read_manifest(path)
    assert str(caught.value) == (
        f"{path} is compressed, and images are read from places within a file. Unpack it and give the folder: "
        f"mkdir {folder} && {command.format(path=path)}"
    )


def test_a_list_of_labels_is_several_labels_however_many_there_are(tmp_path: Path) -> None:
    members = [(f"{key}.png", key.encode()) for key in "abcd"]
    labels = [(f"{key}.json", f'{{"label": ["{"xy"[index % 2]}"]}}'.encode()) for index, key in enumerate("abcd")]
    listing = open_source(write_tar(tmp_path / "pets.tar", *members, *labels)).entries(Counter())
    assert listing.several


def test_a_json_file_without_a_label_beside_class_folders(tmp_path: Path) -> None:
    pictures = [(f"{label}/{n}.png", f"{label}{n}".encode()) for label in ("ants", "bees") for n in range(4)]
    manifest = read_manifest(write_tar(tmp_path / "pets.tar", *pictures, ("info.json", b'{"licence": "CC0"}')))
    assert manifest.samples.classes == ("ants", "bees")
    assert manifest.ignored == {"label files without a label": 1}


def test_json_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    with pytest.raises(DataLayoutError, match=r"a\.json has no label that can be read"):
        read_manifest(write_tar(tmp_path / "pets.tar", ("a.png", b"a"), ("a.json", deep)))
