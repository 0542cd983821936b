"""Extraction whose views the device of the network makes: the cache of the CPU path, bit by bit.

There is no GPU: the device is the CPU, where the kernels run in Triton's interpreter.
"""

from __future__ import annotations

import importlib.util
import json
import weakref
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from commands import PATHS, in_process, write_folder
from featcache.cache.description import views_made_on
from featcache.cache.feature_cache import FeatureCache
from featcache.core.specs import ViewSpec
from featcache.data.manifest import read_manifest
from featcache.extraction.extract import extract
from featcache.extraction.pipelines.image import ImagePlan
from featcache.extraction.update import repair, update
from featcache.vision import loader as loader_module
from featcache.vision.augment import make_views
from featcache.vision.decode import decode
from featcache.vision.device_views import device_views as device_views_module
from featcache.vision.device_views import support
from featcache.vision.device_views.device_views import DeviceViews
from featcache.vision.loader import ViewLoader, read_image
from toys import toy_answer, toy_backbone

INTERPRETED = """
import json, sys
from pathlib import Path
import h5py
from featcache.cache.description import views_made_on
from featcache.extraction.extract import extract
from featcache.vision.device_views import support
from featcache.vision.device_views.device_views import DeviceViews
from toys import toy_backbone

data, folder = map(Path, sys.argv[1:])
is_supported = support.can_make_views
made, run = [], DeviceViews._run
DeviceViews._run = lambda self, views, device: made.append(len(views)) or run(self, views, device)
found = []
for case in ({"views": 2}, {"views": 1, "augment": "crop"}, {"views": 1, "augment": "trivial"}):
    features = []
    for on_device in (False, True):
        support.can_make_views = (lambda device: True) if on_device else is_supported
        made.clear()
        extraction = extract(data, folder / f"{len(found)}-{on_device}.h5", backbone=toy_backbone(), workers=2, **case)
        with h5py.File(extraction.cache.path) as file:
            features.append(file["features/penultimate"][:].tobytes())
    found.append([features[0] == features[1], sum(made[1:]), extraction.note, views_made_on(extraction.cache)])
print(json.dumps(found))
"""


def test_the_cache_is_that_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not importlib.util.find_spec("triton"):
        pytest.skip("Triton is not installed")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    data = write_folder(tmp_path / "data", {"train/ants": 2, "train/bees": 2, "val/ants": 1, "val/bees": 1})
    ran = in_process(f"import sys; sys.path += {PATHS.split(':')}\n{INTERPRETED}", data, tmp_path, timeout=300)
    assert ran.returncode == 0, ran.stderr
    on_device = json.loads(ran.stdout)
    # 4 images of train have 1 + K views, 2 of val have 1; with "trivial" only these are made by the device
    assert on_device == [
        [True, 4 * 3 + 2, "", {"device": 4 * 3 + 2, "cpu": 0}],
        [True, 4 * 2 + 2, "", {"device": 4 * 2 + 2, "cpu": 0}],
        [True, 2, "", {"device": 2, "cpu": 4 * 2}],
    ]


def test_a_device_that_fails_is_noted_once_and_changes_nothing(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = extract(split_folder, tmp_path / "cpu.h5", backbone=toy_backbone(), views=2).cache

    def launch(*_: Any) -> None:
        raise RuntimeError("Failed to find C compiler.\nMore")

    monkeypatch.setattr(support, "can_make_views", lambda device: True)
    monkeypatch.setattr(DeviceViews, "_launch", launch)
    extraction = extract(split_folder, tmp_path / "device.h5", backbone=toy_backbone(), views=2)
    assert extraction.note == ("views are made on the CPU, because cpu cannot make them: Failed to find C compiler.")
    assert views_made_on(extraction.cache) == {"device": 0, "cpu": 13 * 3 + 5}
    assert views_made_on(expected) is None
    with h5py.File(expected.path) as one, h5py.File(extraction.cache.path) as other:
        np.testing.assert_array_equal(one["features/penultimate"][:], other["features/penultimate"][:])


def test_the_device_makes_views_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    found = {device: support.can_make_views(device) for device in ("cpu", "mps", "cuda", "cuda:1")}
    assert found == {"cpu": False, "mps": False, "cuda": True, "cuda:1": True}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not support.can_make_views("cuda")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that makes views, as `make_views` does."""

    def run(self: DeviceViews, views: Any, device: torch.device) -> torch.Tensor:
        return torch.from_numpy(self.draw(views))

    monkeypatch.setattr(support, "can_make_views", lambda device: True)
    monkeypatch.setattr(DeviceViews, "_run", run)
    monkeypatch.setattr(DeviceViews, "_gives_the_pixels_of_the_cpu", lambda self, device: True)


@pytest.mark.usefixtures("device")
def test_a_cache_counts_the_views_of_the_device_and_of_the_cpu(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an interrupted extraction, the rows that are there keep their counts."""
    stop = [8]  # views of the fifth image do not fit, and reading breaks after eight images

    def fits(height: int, width: int, size: int) -> bool:
        stop[0] -= 1
        if not stop[0]:
            raise KeyboardInterrupt
        return stop[0] != 3

    monkeypatch.setattr(device_views_module, "fits", fits)
    options: dict[str, Any] = {"backbone": toy_backbone(), "views": 2, "workers": 1, "batch_size": 3}
    out = tmp_path / "cache.h5"
    with pytest.raises(KeyboardInterrupt):
        extract(split_folder, out, **options)
    partial = FeatureCache.open(out, partial=True)
    assert views_made_on(partial) == {"device": 3 * int((partial.done > 0).sum()) - 3, "cpu": 3}
    monkeypatch.setattr(device_views_module, "fits", lambda *_: True)
    cache = extract(split_folder, out, **options).cache
    assert views_made_on(cache) == {"device": 13 * 3 + 5 - 3, "cpu": 3}
    assert "41 were made on cpu, 3 on the CPU" in str(cache)
    assert cache.to_dict()["views_made_on"] == {"device": 41, "cpu": 3}


@pytest.mark.usefixtures("device")
def test_an_update_keeps_the_counts_of_the_rows_that_it_copies(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, made = tmp_path / "cache.h5", []
    cache = extract(split_folder, out, backbone=toy_backbone(), views=1, augment="crop").cache
    made.append(views_made_on(cache))
    monkeypatch.setattr(support, "can_make_views", lambda device: False)  # a machine without such a device
    for views in (3, 2):
        made.append(views_made_on(update(out, split_folder, backbone=toy_backbone(), views=views).cache))
    layout = FeatureCache.open(out).layout
    with out.open("r+b") as file:
        file.seek(layout.layers["penultimate"].offset)  # of the first row
        file.write(b"damaged!")
    made.append(views_made_on(repair(out, split_folder, backbone=toy_backbone()).cache))
    rest = 13 * 2 + 5
    assert made == [
        {"device": rest, "cpu": 0},
        {"device": rest, "cpu": 13 * 2},
        {"device": rest, "cpu": 13},
        {"device": rest - 2, "cpu": 13 + 2},
    ]


@pytest.mark.usefixtures("device")
def test_parts_of_a_batch_note_what_the_device_made() -> None:
    maker, image = DeviceViews(ViewSpec(8, 10)), np.full((20, 14, 3), 9, np.uint8)
    planned = maker.plan(image, b"", [0, 1])
    assert planned
    batch = maker.collate([planned, make_views(image, maker.spec, b"", [0]), planned])
    batch[1:4].to(torch.device("cpu"))
    assert batch.on_device.tolist() == [False, True, False, True, False]
    both = batch.join(np.zeros((1, 8, 8, 3), np.uint8))
    both.to(torch.device("cpu"))
    assert both.on_device.tolist() == [True, True, False, True, True, False]
    maker.note = "it broke"
    batch.to(torch.device("cpu"))
    assert not batch.on_device.any()


def test_a_plan_of_other_views_has_a_device_of_other_views(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    backbone = toy_backbone()
    spec = backbone.extract_spec(views=1, dtype="float16", augment="crop")
    assert ImagePlan(backbone, spec, {}).device_views is None
    monkeypatch.setattr(support, "can_make_views", lambda device: True)
    plan = ImagePlan(backbone, spec, {}, engine_selected=True)
    assert plan.select_engine(1).device_views is plan.device_views
    other = dataclasses.replace(plan, spec=dataclasses.replace(spec, view=ViewSpec(8, 10, augment="tutorial")))
    assert plan.device_views is not None
    assert other.device_views is not None
    assert (plan.device_views.spec.augment, other.device_views.spec.augment) == ("crop", "tutorial")


IMAGE_BYTES = 20 * 14 * 3
"""Of each image of `split_folder`."""


@pytest.mark.parametrize(
    ("available", "exact", "sizes", "drawn"),
    [
        (10**9, False, [10, 8], 0),
        (4 * 12 * IMAGE_BYTES, False, [6, 6, 6], 0),
        (4 * 6 * IMAGE_BYTES, False, [3] * 6, 0),
        (0, False, [1] * 18, 0),
        (4 * 12 * IMAGE_BYTES, True, [10, 8], 4 + 2),
        (0, True, [10, 8], 9 + 7),
    ],
)
def test_a_batch_takes_no_more_decoded_images_than_may_wait(
    available: int, exact: bool, sizes: list[int], drawn: int, split_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the limit, which is a quarter of the available memory. Exact batches have views of the CPU instead."""
    monkeypatch.setattr(loader_module, "available_memory_bytes", lambda: available)
    manifest, maker = read_manifest(split_folder), DeviceViews(ViewSpec(8, 10))
    with closing(ViewLoader(manifest, maker.spec, workers=1, device_views=maker, exact_batches=exact)) as loader:
        batches = list(loader.batches(range(18), [0, 1], 10))
    assert [len(batch.rows) for batch in batches] == sizes
    expected = [
        make_views(decode(manifest.read(row)), maker.spec, manifest.samples.sha256[row].tobytes(), [0, 1])
        for row in range(18)
    ]
    np.testing.assert_array_equal(np.concatenate([batch.rows for batch in batches]), range(18))
    np.testing.assert_array_equal(
        np.concatenate([np.asarray(batch.inputs) for batch in batches]), np.concatenate(expected)
    )
    found = [view.image.shape for batch in batches for view in batch.inputs._views]
    assert found.count((8, 8, 3)) == 2 * drawn
    assert found.count((14, 20, 3)) == 2 * (18 - drawn)


def test_decoded_images_that_wait_bound_the_look_ahead(split_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "available_memory_bytes", lambda: 4 * 7 * IMAGE_BYTES)
    begun: list[int] = []
    monkeypatch.setattr(loader_module, "read_image", lambda m, row, sha: begun.append(row) or read_image(m, row, sha))
    manifest, maker = read_manifest(split_folder), DeviceViews(ViewSpec(8, 10))
    with closing(ViewLoader(manifest, maker.spec, workers=1, device_views=maker)) as loader:

        def settle() -> None:
            before = -1
            while len(begun) > before:
                before = len(begun)
                for _ in range(3):
                    loader._pool.submit(int).result()

        loader.start(range(18), [0])
        settle()
        assert len(begun) == 7
        batches = loader.batches(range(18), [0], 2)
        for taken in (2, 4, 6):
            assert next(batches).rows.tolist() == [taken - 2, taken - 1]
            settle()
            assert len(begun) == 7 + taken
        batches.close()


def test_the_decoded_images_of_a_batch_live_no_longer_than_it(split_folder: Path) -> None:
    manifest, maker = read_manifest(split_folder), DeviceViews(ViewSpec(8, 10))
    with closing(ViewLoader(manifest, maker.spec, workers=1, device_views=maker)) as loader:
        batches = loader.batches(range(6), [0, 1], 3)
        for _ in range(2):
            batch = next(batches)
            images = [weakref.ref(view.image) for view in batch.inputs._views]
            assert all(image() is not None for image in images)
            del batch
            assert [image() for image in images] == [None] * 6


def test_batches_of_decoded_images_are_halved_until_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, most = toy_backbone(), 3
    extractor = backbone.feature_extractor
    forward = extractor.forward

    def small_memory(pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if len(pixels) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(pixels)

    monkeypatch.setattr(extractor, "forward", small_memory)
    maker, image = DeviceViews(backbone.view_spec()), np.full((9, 12, 3), 7, np.uint8)
    image[4:] = 200
    planned = maker.plan(image, b"", range(10))
    assert planned
    features = backbone.submit(maker.collate([planned]))()
    expected = toy_answer(make_views(image, maker.spec, b"", range(10)))
    np.testing.assert_allclose(features[0], expected, rtol=1e-4, atol=1e-4)
    assert "batches have 3 views" in backbone.note
