from __future__ import annotations

from pathlib import Path

import pytest

from featcache import read_manifest
from featcache.data.sources.registry import open_source
from featcache.errors import DataLayoutError

datasets = pytest.importorskip("datasets")


def test_a_saved_data_set_of_texts_is_read(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["bad", "good"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names, "group": datasets.Value("string")})

    def part(*texts: str | None) -> datasets.Dataset:
        labels = [0 if (text or "").startswith("bad") else 1 for text in texts]
        return datasets.Dataset.from_dict({"text": texts, "label": labels, "group": [None] * len(texts)}, features)

    parts = {"train": part("bad film", "good film", None, "good film"), "test": part("bad play")}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "set"))
    manifest = read_manifest(tmp_path / "set", val_fraction=0.4, allow_leak=True)
    samples = manifest.samples
    assert manifest.modality.name == "text"
    readable = sorted(set(range(5)) - set(manifest.unread()))
    texts = [(manifest.read(row).decode(), samples.classes[samples.labels[row]]) for row in readable]
    assert sorted(texts) == [("bad film", "bad"), ("bad play", "bad"), ("good film", "good"), ("good film", "good")]
    assert manifest.notes[-1].startswith("empty texts, skipped: 1 of 5 (")
    name = samples.ids[readable[0]]
    source = open_source(tmp_path / "set")
    assert source.read(name) == manifest.read(readable[0])
    assert source.subset([name]).read(name) == manifest.read(readable[0])
    with pytest.raises(FileNotFoundError, match="it is not in the data set"):
        source.read("0" * 20)


def test_another_column_of_a_saved_data_set_holds_the_text(tmp_path: Path) -> None:
    rows = {"sentence": ["a", "b", "c", "d"], "label": ["x", "y", "x", "y"], "n": [1, 2, 3, 4]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "set"))
    manifest = read_manifest(tmp_path / "set", text_column="sentence", val_fraction=0.5)
    assert sorted(manifest.read(row).decode() for row in range(4)) == ["a", "b", "c", "d"]
    assert "text column: sentence" in manifest.notes
    with pytest.raises(DataLayoutError, match=r"set: the column n holds int64; a text must be a string or null\. Name"):
        read_manifest(tmp_path / "set", text_column="sentence,n")
    with pytest.raises(DataLayoutError, match=r"the column label holds int64; a text must be a string"):
        read_manifest(_with_classes(tmp_path / "classes"), text_column="label")


def _with_classes(path: Path) -> Path:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])})
    datasets.Dataset.from_dict({"text": ["x", "y"], "label": [0, 1]}, features).save_to_disk(str(path))
    return path
