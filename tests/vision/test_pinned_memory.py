"""Page-locked memory, into which images are decoded and from which they are copied to a GPU. There is no GPU here."""

from __future__ import annotations

import io
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from featcache.core.specs import ViewSpec
from featcache.data.manifest import read_manifest
from featcache.extraction.pipelines.image import ImagePlan
from featcache.vision.augment import make_views
from featcache.vision.decode import decode, decode_for
from featcache.vision.device_views import pinned, support
from featcache.vision.device_views.device_views import DeviceViews
from featcache.vision.device_views.packing import pack
from featcache.vision.device_views.pinned import PinnedMemory
from featcache.vision.loader import ViewLoader
from toys import toy_backbone

CPU = torch.device("cpu")


class Event:
    """Of a copy, which has finished once the test says so."""

    def __init__(self) -> None:
        self.is_finished = False
        events.append(self)

    def record(self) -> None:
        """At once."""

    def query(self) -> bool:
        return self.is_finished


events: list[Event] = []


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A stand-in for the functions of a GPU. The sizes of the blocks that were pinned."""
    pinned_bytes: list[int] = []
    empty = torch.empty

    def allocate(*shape: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        if pin_memory:
            pinned_bytes.append(shape[0])
        return empty(*shape, **options)

    events.clear()
    monkeypatch.setattr(torch, "empty", allocate)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(pinned, "BLOCK_BYTES", 1000)
    return pinned_bytes


def photo(height: int, width: int, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def test_arrays_are_parts_of_blocks_and_do_not_overlap(cuda: list[int]) -> None:
    memory = PinnedMemory(torch.device("cuda"))
    arrays = [memory.empty((n, 5, 3)) for n in (10, 20, 9, 100, 1)]
    for value, array in enumerate(arrays):
        array[...] = value
    assert [(array == value).all() for value, array in enumerate(arrays)] == [True] * 5
    assert [array.flags.c_contiguous and array.dtype == np.uint8 for array in arrays] == [True] * 5
    assert cuda == [1000, 1500, 1000]
    assert arrays[0].base is arrays[2].base is not arrays[3].base


def test_threads_get_different_memory() -> None:
    memory = PinnedMemory(CPU)

    def fill(number: int) -> np.ndarray:
        array = memory.empty((number % 7 + 1, 11, 3))
        array[...] = number % 251
        return array

    with ThreadPoolExecutor(8) as pool:
        arrays = list(pool.map(fill, range(2000)))
    assert all((array == number % 251).all() for number, array in enumerate(arrays))


def test_only_what_is_elsewhere_is_copied() -> None:
    memory = PinnedMemory(CPU)
    inside, outside = memory.empty((4, 5, 3)), np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    assert memory.put(inside) is inside
    turned = inside[:, ::-1]
    for array in (outside, outside[::2], turned, np.broadcast_to(np.uint8(3), (2, 2, 3))):
        copy = memory.put(array)
        np.testing.assert_array_equal(copy, array)
        assert not np.shares_memory(copy, array)
        assert memory.put(copy) is copy


def test_memory_lives_until_its_copies_have_finished(cuda: list[int]) -> None:
    memory = PinnedMemory(torch.device("cuda"))
    blocks = []
    for _ in range(3):
        array = memory.empty((900,))
        blocks.append(weakref.ref(array.base))
        memory.keep([array])
        del array
    memory.empty((900,))
    alive = [[block() is not None for block in blocks]]
    for event in (events[1], events[0]):  # in another order, as of two GPUs
        event.is_finished = True
        memory.keep([])
        alive.append([block() is not None for block in blocks])
    assert alive == [[True, True, True], [True, True, True], [False, False, True]]


def test_without_page_locked_memory_it_says_so(cuda: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(*_: Any, **__: Any) -> torch.Tensor:
        cuda.append(0)
        raise RuntimeError("CUDA error: out of memory\nMore")

    monkeypatch.setattr(support, "can_make_views", lambda device: True)
    backbone = toy_backbone()
    plan = ImagePlan(backbone, backbone.extract_spec(views=0, dtype="float16"), {})
    assert plan.device_views is not None
    plan.device_views.memory = memory = PinnedMemory(torch.device("cuda:1"))
    monkeypatch.setattr(torch, "empty", allocate)
    arrays = [memory.empty((900,)) for _ in range(3)]
    assert [array.size for array in arrays] == [900] * 3
    assert cuda == [0]
    assert plan.note == "copies to cuda:1 wait, as there is no page-locked memory: CUDA error: out of memory"


def test_a_jpeg_is_decoded_into_it() -> None:
    view, memory, exif = ViewSpec(8, 10), PinnedMemory(CPU), Image.Exif()
    exif[0x0112] = 6
    for data, is_inside in (
        (photo(31, 40), True),
        (photo(33, 40, exif=exif), False),
        (photo(35, 40, "PNG"), False),
    ):
        pixels = decode_for(data, view, empty=memory.empty).pixels
        np.testing.assert_array_equal(pixels, decode(data))
        assert (memory.put(pixels) is pixels) == is_inside


def test_the_images_of_a_batch_are_copied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the memory into which a thread decoded them straight to the device."""
    for name, data in (
        ("train/a/a.jpg", photo(31, 40)),
        ("train/b/b.jpg", photo(33, 41)),
        ("val/a/c.png", photo(20, 20, "PNG")),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    manifest, maker = read_manifest(tmp_path), DeviceViews(ViewSpec(8, 10))
    copies: list[tuple[int, ...]] = []
    put = PinnedMemory.put

    def count(memory: PinnedMemory, array: np.ndarray) -> np.ndarray:
        stored = put(memory, array)
        if stored is not array:
            copies.append(array.shape)
        return stored

    monkeypatch.setattr(PinnedMemory, "put", count)
    with closing(ViewLoader(manifest, maker.spec, workers=2, device_views=maker)) as loader:
        (batch,) = loader.batches(range(3), [0, 1], 3)
    assert copies == [(20, 20, 3)]  # by the thread that decoded it
    (packing,) = pack(batch.inputs._views, 8, "bilinear")
    *_, pixels = maker._send(packing, CPU)
    assert copies == [(20, 20, 3)]
    for place, image in packing.images:
        np.testing.assert_array_equal(pixels[place : place + image.size].numpy(), image.reshape(-1))
    expected = [
        make_views(decode(manifest.read(row)), maker.spec, manifest.samples.sha256[row].tobytes(), [0, 1])
        for row in range(3)
    ]
    np.testing.assert_array_equal(np.asarray(batch.inputs), np.concatenate(expected))
