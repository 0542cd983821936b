"""`TextLoader`: tokens of the texts in order; what cannot be read, or is cut, is named."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.core.specs import TextSpec
from featcache.data.manifest import Manifest, read_manifest
from featcache.data.tokens import Tokens
from featcache.text.loader import TextLoader
from featcache.text.views import make_text_views

SPEC = TextSpec("0" * 64, max_length=4)


class Tokenized(NamedTuple):
    tokens: Tokens
    cut: NDArray[np.bool_]


def tokenize(texts: list[str], separator: str = "") -> Tokenized:
    """The length of each word."""
    ids = [np.array([len(word) for word in text.split()], np.int64) for text in texts]
    cut = np.array([len(one) > SPEC.max_length for one in ids])
    return Tokenized(Tokens([one[: SPEC.max_length] for one in ids]), cut)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    for number in range(9):
        path = tmp_path / f"train/{'ab'[number % 2]}/{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(" ".join("x" * (1 + number) for _ in range(1 + number % 3)))
    (tmp_path / "train/a/long.txt").write_text("one two three four five")
    return read_manifest(tmp_path, val_fraction=0.2)


def texts_of(manifest: Manifest) -> list[str]:
    return [manifest.read(row).decode() for row in range(len(manifest.samples))]


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_tokens_come_in_the_order_of_the_rows(manifest: Manifest, batch_size: int) -> None:
    texts, rows = texts_of(manifest), np.arange(len(manifest.samples))[::-1]
    with closing(TextLoader(manifest, SPEC, tokenize)) as loader:
        batches = list(loader.batches(rows, [0], batch_size))
    assert np.concatenate([batch.rows for batch in batches]).tolist() == rows.tolist()
    found = [one.tolist() for batch in batches for one in batch.inputs.ids]
    assert found == [[len(word) for word in texts[row].split()][:4] for row in rows]
    assert np.concatenate([batch.labels for batch in batches]).tolist() == manifest.samples.labels[rows].tolist()
    cut = [manifest.samples.ids[row] for row in loader.remarks]
    assert cut == ["train/a/long.txt"]
    assert set(loader.remarks.values()) == {"longer than 4 tokens, cut at its end"}


def test_views_of_a_text_follow_each_other(manifest: Manifest) -> None:
    spec = TextSpec("0" * 64, max_length=4, augment="word-dropout")
    texts = texts_of(manifest)
    with closing(TextLoader(manifest, spec, tokenize)) as loader:
        (batch,) = loader.batches([0, 1], [0, 1, 2], 10)
    keys = [manifest.samples.sha256[row].tobytes() for row in (0, 1)]
    views = [view for row in (0, 1) for view in make_text_views(texts[row], spec, keys[row], [0, 1, 2])]
    assert [one.tolist() for one in batch.inputs.ids] == [one.tolist() for one in tokenize(views).tokens.ids]


def test_a_text_that_has_changed_or_is_gone_is_skipped_with_its_reason(manifest: Manifest, tmp_path: Path) -> None:
    rows = range(len(manifest.samples))
    (tmp_path / manifest.samples.ids[1]).write_text("other")
    (tmp_path / manifest.samples.ids[3]).unlink()
    with closing(TextLoader(manifest, SPEC, tokenize)) as loader:
        found = [row for batch in loader.batches(rows, [0], 2) for row in batch.rows.tolist()]
    assert found == [row for row in rows if row not in (1, 3)]
    assert loader.skipped[1] == "its bytes are not those that were hashed: it has changed"
    assert "No such file" in loader.skipped[3]
