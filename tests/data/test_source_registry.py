"""Sources that other packages add by an entry point, and the order in which kinds of sources are tried."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from commands import write_folder
from featcache.cache.verify import diff
from featcache.data.manifest import read_manifest
from featcache.data.sources.base import Source
from featcache.data.sources.registry import SOURCES, open_source
from featcache.errors import DataLayoutError
from featcache.extraction.extract import extract
from featcache.models.inputs.names import list_inputs
from toys import image_inputs, toy_backbone

TOY_SOURCE = '''
from collections import Counter
from pathlib import Path

from featcache.data.sources.base import SampleListing, SampleRecord, Source


class ToyList(Source):
    """Lines "LABEL PATH" in a file that ends in .toylist."""

    def __init__(self, name):
        self.name = name

    @classmethod
    def matches(cls, path, options):
        return path.endswith(".toylist")

    @classmethod
    def open(cls, path, options):
        return cls(path)

    def entries(self, ignored, progress=None):
        rows = [line.split(" ", 1) for line in Path(self.name).read_text().splitlines()]
        return SampleListing([SampleRecord(path, (label,), None) for label, path in rows], False)

    def read(self, name):
        return (Path(self.name).parent / name).read_bytes()
'''


def install(site: Path, name: str, value: str, code: str) -> None:
    """Put a package with one source into a folder of packages."""
    (site / f"{value.partition(':')[0]}.py").write_text(code)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[featcache.sources]\n{name} = {value}\n")


@pytest.fixture
def toylist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the added kind, which lists the images of two class folders."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setattr(SOURCES, "_entries", {name: SOURCES.get(name) for name in SOURCES.names()})
    install(site, "toylist", "toy_source:ToyList", TOY_SOURCE)
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "toy_source", raising=False)
    folder = write_folder(tmp_path / "photos", {"ants": 4, "bees": 4})
    path = folder / "photos.toylist"
    images = sorted(folder.rglob("*.png"))
    path.write_text("".join(f"{image.parent.name} {image.relative_to(folder).as_posix()}\n" for image in images))
    return path


def test_an_added_source_gives_the_samples_of_a_manifest(toylist: Path) -> None:
    by_list, by_folder = read_manifest(toylist), read_manifest(toylist.parent)
    assert by_list.samples.digest() == by_folder.samples.digest()
    assert by_list.source.name == str(toylist)
    assert by_list.path(0) is None
    assert by_list.read(0) == by_folder.read(0)
    assert "no val split: held out 2 of 8 (seed 0)" in str(by_list.summary())


def test_an_added_source_is_extracted_verified_and_predicted(toylist: Path, tmp_path: Path) -> None:
    by_list = extract(toylist, tmp_path / "list.h5", backbone=toy_backbone(), views=1).cache
    by_folder = extract(toylist.parent, tmp_path / "folder.h5", backbone=toy_backbone(), views=1).cache
    for split in ("train", "val"):
        np.testing.assert_array_equal(by_list.features(split).x, by_folder.features(split).x)
    assert len(list_inputs([str(toylist)], image_inputs(), {})) == 8
    assert diff(tmp_path / "list.h5", toylist).same


def test_an_added_source_without_columns_takes_no_label_column(toylist: Path) -> None:
    with pytest.raises(DataLayoutError) as error:
        open_source(toylist, label_column="label")
    assert str(error.value) == (
        f"{toylist} has no columns: --label-column and --skip-missing are for CSV, Parquet and Hugging Face's data."
    )


def test_the_sources_of_featcache_are_tried_in_the_documented_order() -> None:
    sources = {name: SOURCES.get(name) for name in SOURCES.names()}
    in_order = sorted(sources, key=lambda name: sources[name].order)
    assert in_order == ["tar", "huggingface-texts", "huggingface", "texts", "table", "metadata", "folder"]
    assert Source.order < min(source.order for source in sources.values())


def test_a_source_that_cannot_be_loaded_is_an_error_that_names_its_package(toylist: Path) -> None:
    install(toylist.parents[1] / "site", "broken", "broken_source:X", "raise RuntimeError('no driver')\n")
    with pytest.raises(DataLayoutError) as error:
        open_source(toylist)
    assert str(error.value) == (
        "the source of samples 'broken' of the package broken cannot be loaded (broken_source:X): RuntimeError: no "
        "driver. Update or uninstall broken."
    )
