"""Rows on a device are those of the `CenteredMatrix`, however much memory the device has; "cpu" is PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from featcache.cache.lazy_arrays import CenteredMatrix, ConcatenatedFeatures, LazyRows
from featcache.heads.solvers import device_rows
from featcache.heads.solvers.device_rows import DeviceRows
from simulated_gpu import SimulatedGPU

N, D = 301, 7
CPU = torch.device("cpu")
BYTES = N * D * 4


def matrix(dtype: type) -> tuple[CenteredMatrix, NDArray[np.float64]]:
    """Half of the rows of two arrays side by side, and the same rows centred by numpy."""
    x = (np.random.default_rng(0).standard_normal((2 * N, D)) + np.arange(D)).astype(dtype)
    x.flags.writeable = False  # as that of a cache
    index, weight = np.arange(0, 2 * N, 2), np.random.default_rng(1).random(N)
    mean = weight @ x[index].astype(np.float64) / weight.sum()
    rows = LazyRows(ConcatenatedFeatures((x[:, :3], x[:, 3:])), index)
    return CenteredMatrix(rows, weight), x[index] - mean


def collect(rows: DeviceRows) -> NDArray[Any]:
    blocks = [(part, block.numpy().copy()) for part, block in rows]
    assert [part.start for part, _ in blocks] == [0, *(part.stop for part, _ in blocks)][:-1]
    return np.concatenate([block for _, block in blocks])


def test_a_slice_of_a_cache_is_read() -> None:
    x = np.ones((4, 3), np.float16)
    x.flags.writeable = False
    assert collect(DeviceRows(CenteredMatrix(x, np.ones(4)), CPU)).tolist() == np.zeros((4, 3)).tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("free", "resident"),
    [(4 * BYTES, {np.float16: torch.float32}), (BYTES, {np.float16: torch.float16}), (BYTES - 9, {np.float16: None})],
    ids=["wide", "as stored", "streamed"],
)
def test_rows_are_centred_wherever_they_stay(
    dtype: type, free: int, resident: dict[type, torch.dtype | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_rows, "free_bytes", lambda _device: free)
    monkeypatch.setattr(device_rows, "_COPY_BYTES", 40 * D * 4)
    x, expected = matrix(dtype)
    rows = DeviceRows(x, CPU)
    if dtype in resident:
        assert rows.resident == resident[dtype]
    found = [collect(rows), collect(rows)]
    assert found[0].dtype == (np.float64 if dtype == np.float64 else np.float32)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-12 if dtype == np.float64 else 2e-6)


def test_a_block_of_a_pass_is_not_overwritten_by_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_rows, "free_bytes", lambda _device: 0)
    monkeypatch.setattr(device_rows, "_COPY_BYTES", 40 * D * 4)
    x, expected = matrix(np.float16)
    blocks = [block for _, block in DeviceRows(x, CPU)]
    assert len(blocks) == 8
    np.testing.assert_allclose(torch.cat(blocks).numpy(), expected, rtol=0, atol=2e-6)


def test_a_wait_for_a_copy_takes_no_processor_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_rows, "free_bytes", lambda _device: 0)
    monkeypatch.setattr(device_rows, "_COPY_BYTES", 40 * D * 4)
    x, expected = matrix(np.float32)
    rows = DeviceRows(x, CPU)
    empty = torch.empty
    gpu = SimulatedGPU(monkeypatch)
    monkeypatch.setattr(torch, "empty", lambda size, dtype, pin_memory: empty(size, dtype=dtype))
    rows._device = torch.device("cuda")
    np.testing.assert_allclose(collect(rows), expected, rtol=1e-4, atol=1e-4)
    assert gpu.blocking == [True] * 8  # an event for each block; two buffers
    assert gpu.waits == 6
