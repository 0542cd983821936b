"""The metadata of every safetensors file of a model; files of before, without them, open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load, save

import featcache
from commands import drop_hashes, toy_cache
from featcache.cache.feature_cache import FeatureCache
from featcache.core.tensor_files import add_metadata
from featcache.finetuning.finetune import finetune
from featcache.heads.fit_head import fit_head
from featcache.heads.io import load_head
from trainable import CONFIG, trainable_backbone


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "numpy") as file:
        found: dict[str, str] = file.metadata()
    return found


def test_each_file_of_a_head_says_what_it_is(split_folder: Path, tmp_path: Path) -> None:
    cache = FeatureCache.open(toy_cache(split_folder, tmp_path / "cache.h5"))
    fit_head(cache, tmp_path / "head", head="linear")
    common = {"format": "np", "featcache_version": featcache.__version__}
    contents = {path.name: metadata(path) for path in (tmp_path / "head").glob("*.safetensors")}
    assert contents == {
        "head.safetensors": {**common, "content": "head", "spec_digest": cache.spec.digest()},
        "held-out.safetensors": {**common, "content": "scores of held-out training samples"},
        "training-samples.safetensors": {**common, "content": "hashes of training samples"},
    }


def test_a_fine_tuned_network_says_what_it_is(split_folder: Path, tmp_path: Path) -> None:
    run = finetune(split_folder, tmp_path / "run", backbone=trainable_backbone(), config=CONFIG)
    assert metadata(tmp_path / "run/network.safetensors") == {
        "format": "pt",
        "featcache_version": featcache.__version__,
        "content": "network",
        "spec_digest": run.report.spec_digest,
    }


def test_a_head_of_before_without_metadata_opens(split_folder: Path, tmp_path: Path) -> None:
    fit = fit_head(toy_cache(split_folder, tmp_path / "cache.h5"), tmp_path / "head", head="linear")
    path = tmp_path / "head/head.safetensors"
    path.write_bytes(save(load(path.read_bytes())))
    drop_hashes(tmp_path / "head")
    assert not metadata(path)
    x = np.random.default_rng(0).normal(size=(20, 3))
    np.testing.assert_array_equal(load_head(path).predict(x), fit.estimator.predict(x))


def test_the_order_of_the_metadata_is_that_of_their_names() -> None:
    fields = {"z": "1", "a": "é", "m": "3"}
    content = add_metadata(save({"x": np.arange(3.0)}), fields)
    assert content[8:].startswith(b'{"__metadata__":{"a":')
    assert int.from_bytes(content[:8], "little") % 8 == 0
    np.testing.assert_array_equal(load(content)["x"], np.arange(3.0))
