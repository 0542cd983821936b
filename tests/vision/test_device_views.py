"""Device views: the pixels of `make_views`, by the kernels in Triton's interpreter; compiled code for a GPU."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from axistaps import axis_taps
from commands import PATHS, in_process
from featcache.core.specs import AUGMENTS, Interpolation, ViewSpec
from featcache.core.view_recipes import VIEW_RECIPES, AxisPlan, ViewPlan, ViewRecipe
from featcache.vision.augment import make_views
from featcache.vision.device_views import packing
from featcache.vision.device_views.device_views import DecodedViews, DeviceViews
from featcache.vision.device_views.packing import PlannedView, pack
from featcache.vision.views.geometry import Pixels, scale

CPU = torch.device("cpu")
PLANNED = [augment for augment in AUGMENTS if augment != "trivial"]
SHA = bytes(range(32))

INTERPRETED = """
import json
import numpy as np, torch
from featcache.core.specs import ViewSpec
from featcache.vision.augment import make_views
from featcache.vision.device_views import packing
from featcache.vision.device_views.device_views import DeviceViews

packing.PACKED_BYTES = 8_000  # several steps
SIZES = [(1, 1), (1, 30), (25, 3), (9, 9), (40, 29), (31, 40)]
found = {}
recipes = [("none", "bicubic"), ("crop", "bilinear"), ("tutorial", "bicubic"), ("tutorial", "bilinear")]
for augment, interpolation in [*recipes, ("gentle", "bilinear"), ("gentle-flip", "bicubic")]:
    spec = ViewSpec(9, 10, interpolation, augment, seed=2)
    maker = DeviceViews(spec, tile=(64, 32))
    made = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    batch, expected = [made[None]], [made[None]]
    for n, (height, width) in enumerate(SIZES):
        image = np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)
        sha, numbers = bytes([n]) * 32, [0] if augment == "none" else [1]
        batch.append(maker.plan(image, sha, numbers))
        expected.append(make_views(image, spec, sha, numbers))
    views = maker.collate(batch)
    given = views.to(torch.device("cpu")).numpy()
    steps = len(list(packing.pack(views._views, 9, interpolation)))
    different = int((given != np.concatenate(expected)).sum())
    found[f"{augment} {interpolation}"] = [different, given.size, steps, maker.note]
print(json.dumps(found))
"""

WEIGHTS = """
import json
import numpy as np, torch
from axistaps import axis_taps
from featcache.core.view_recipes import AxisPlan, ViewPlan
from featcache.vision.device_views import kernels, packing
from featcache.vision.device_views.packing import PlannedView

SIDES = [(9, 9), (1, 7), (3, 9), (40, 9), (37, 50), (9, 170), (333, 8), (1000, 17), (600, 224), (375, 300)]
chance, found = np.random.default_rng(0), {}
for interpolation in ("bilinear", "bicubic"):
    for case in range(2):
        sides = SIDES if case == 0 else chance.integers(10, 200, (12, 2)).tolist()
        size = min(resized for _, resized in sides)
        axes = [AxisPlan(int(chance.integers(9)), length, resized, int(chance.integers(resized - size + 1)))
                for length, resized in sides]
        views = [PlannedView(np.empty((17, 17, 3), np.uint8), ViewPlan(rows, columns, bool(n % 2)))
                 for n, (rows, columns) in enumerate(zip(axes, axes[::-1]))]
        (step,) = packing.pack(views, size, interpolation)
        buffer = torch.empty(step.table_bytes, dtype=torch.uint8)
        step.write_tables(buffer.numpy())
        tables = [region.view(torch.int64) for region in step.tables_of(buffer)]
        n = len(views)
        firsts, used = torch.empty(2 * n * size, dtype=torch.int32), torch.empty(4 * n, dtype=torch.int32)
        weights = torch.full((step.weight_count,), 99, dtype=torch.int16)
        kernels.make_taps[(2 * n,)](tables[0], firsts, weights, used, size, IS_BICUBIC=interpolation == "bicubic",
                                    BLOCK=128, enable_fp_fusion=False)
        columns, rows = tables[1][: 6 * n].view(n, 6), tables[2][: 3 * n].view(n, 3)
        places = [*columns[:, 4].tolist(), *rows[:, 1].tolist()]
        firsts, used = firsts.view(2 * n, size), used.view(2 * n, 2)
        for number, axis in enumerate([*(view.plan.columns for view in views), *(view.plan.rows for view in views)]):
            expected = axis_taps(axis.length, axis.resized, interpolation)
            part = slice(axis.start, axis.start + size)
            first, end = expected.first[part] + axis.offset, expected.end[part] + axis.offset
            wanted = expected.weights[:, part]
            if number >= n:
                top, count = columns[number - n, 2:4].tolist()
                assert (top, top + count) == (first.min(), end.max()), axis
                first = first - top
            elif views[number].plan.is_mirrored:
                first, wanted = first[::-1], wanted[:, ::-1]
            taps, bits = used[number].tolist()
            given = weights[places[number] :][: taps * size].view(taps, size).numpy()
            assert bits == expected.bits and (firsts[number].numpy() == first).all(), axis
            assert (given == wanted[:taps]).all() and not wanted[taps:].any(), axis
            found[interpolation] = found.get(interpolation, 0) + given.size
print(json.dumps(found))
"""

COMPILED = """
import json, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from featcache.vision.device_views import kernels
from featcache.vision.device_views.device_views import TILE

types = {"axes": "*i64", "passes": "*i64", "firsts": "*i32", "weights": "*i16", "found": "*i32", "size": "i32"}
constants = {"ROWS": TILE[0], "COLUMNS": TILE[1], "BLOCK": TILE[1], "IS_BICUBIC": True}
found = {}
for kernel in (kernels.make_taps, kernels.resize_columns, kernels.resize_rows):
    signature = {name: "constexpr" if name in constants else types.get(name, "*u8") for name in kernel.arg_names}
    source = ASTSource(kernel, signature, {name: constants[name] for name in kernel.arg_names if name in constants})
    options = {"enable_fp_fusion": kernel is not kernels.make_taps}
    code = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm
    fused = [line for line in code["ptx"].splitlines() if "fma" in line and "f64" in line]
    found[kernel.__name__] = [len(code["cubin"]), len(fused)]
print(json.dumps(found))
"""


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)


def resize_axis(pixels: Pixels, resized: int, interpolation: Interpolation) -> Pixels:
    """Along the first axis, by the integer weights."""
    taps = axis_taps(len(pixels), resized, interpolation)
    padded = np.pad(pixels.astype(np.int64), [(0, len(taps.weights)), (0, 0), (0, 0)])
    total = sum(
        weight[:, None, None] * padded[taps.first + k] for k, weight in enumerate(taps.weights.astype(np.int64))
    )
    return np.clip((total + (1 << (taps.bits - 1))) >> taps.bits, 0, 255).astype(np.uint8)


def planned(maker: DeviceViews, image: Pixels, numbers: Sequence[int]) -> list[PlannedView]:
    return maker.plan(image, SHA, numbers) or []


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 60), st.integers(1, 60), st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_integer_weights_give_the_pixels_of_pytorch(h: int, w: int, height: int, width: int, bicubic: bool) -> None:
    image, interpolation = noise(h, w), "bicubic" if bicubic else "bilinear"
    columns = resize_axis(image.transpose(1, 0, 2), width, interpolation).transpose(1, 0, 2)
    np.testing.assert_array_equal(
        resize_axis(columns, height, interpolation), scale(image, height, width, interpolation)
    )


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_weights_of_long_axes_are_those_of_pytorch(interpolation: Interpolation) -> None:
    for length, resized in ((6000, 224), (4032, 256), (3000, 1), (16384, 7), (5, 4096), (2, 3000)):
        strip = noise(1, length)
        given = resize_axis(strip.transpose(1, 0, 2), resized, interpolation).transpose(1, 0, 2)
        np.testing.assert_array_equal(given, scale(strip, 1, resized, interpolation))


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="Triton is not installed")
def test_interpreted_weights_are_those_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    ran = in_process(f"import sys; sys.path += {PATHS.split(':')}\n{WEIGHTS}", timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert min(json.loads(ran.stdout).values()) > 3_000


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="Triton is not installed")
def test_interpreted_kernels_give_the_pixels_of_make_views(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    ran = in_process(INTERPRETED, timeout=300)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert {case.split()[0] for case in found} == {*PLANNED}
    assert len(found) == 6
    for case, (different, values, steps, note) in found.items():
        assert (different, values, note) == (0, 7 * 9 * 9 * 3, ""), case
        assert steps > 1, case


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="Triton is not installed")
def test_the_kernels_compile_for_a_gpu(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton import knobs

    try:
        knobs.nvidia.ptxas  # noqa: B018
    except RuntimeError as error:
        pytest.skip(f"{error}")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    ran = in_process(COMPILED, timeout=300)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert min(size for size, _ in found.values()) > 0
    assert found["make_taps"][1] == 0  # a fused multiply-add would give other weights


@pytest.mark.parametrize("augment", PLANNED)
def test_views_drawn_on_the_cpu_from_plans_are_those_of_make_views(augment: str) -> None:
    maker, image = DeviceViews(ViewSpec(9, 10, augment=augment)), noise(31, 40)
    expected = make_views(image, maker.spec, SHA, range(4))
    batch = maker.collate([planned(maker, image, range(4)), expected[1:2]])
    assert (len(batch), batch.shape) == (5, (5, 9, 9, 3))
    np.testing.assert_array_equal(np.asarray(batch), [*expected, expected[1]])
    np.testing.assert_array_equal(np.asarray(batch[1:3]), expected[1:3])


def test_views_that_a_device_does_not_make_have_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    trivial, maker, image = DeviceViews(ViewSpec(9, 10, augment="trivial")), DeviceViews(ViewSpec(9, 10)), noise(30, 30)
    assert trivial.plan(image, SHA, [0, 1]) is None
    assert [view.plan for view in planned(trivial, image, [0])] == [view.plan for view in planned(maker, image, [0])]
    for height, width in ((packing.MAX_SIDE + 1, 2), (8000, 8000)):
        assert maker.plan(np.broadcast_to(np.uint8(0), (height, width, 3)), SHA, [0]) is None
    outside = ViewPlan(AxisPlan(0, 31, 9), AxisPlan(0, 30, 9))
    recipe = ViewRecipe(VIEW_RECIPES.get("crop").draw, plan=lambda height, width, spec, rng: outside)
    monkeypatch.setitem(VIEW_RECIPES._entries, "crop", recipe)
    maker = DeviceViews(ViewSpec(9, 10, augment="crop"))
    assert maker.plan(image, SHA, [1]) is None
    assert [view.plan for view in planned(maker, noise(31, 30), [1])] == [outside]


def test_a_step_takes_no_more_memory_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 12_000
    monkeypatch.setattr(packing, "PACKED_BYTES", limit)
    maker = DeviceViews(ViewSpec(9, 10))
    views = [view for n in range(1, 30) for view in planned(maker, noise(2 * n, 30), range(3))]
    steps = list(pack(views, 9, "bilinear"))
    assert sum(map(len, steps)) == len(views)
    assert max(step.table_bytes + step.pixel_bytes for step in steps) <= limit
    assert max(step.middle_bytes + 2 * step.weight_count for step in steps) <= limit
    assert len(steps) <= 2 + sum(60 * n * 3 for n in range(1, 30)) * 4 // limit  # all but the last are a quarter full


@pytest.mark.parametrize("reason", ["gcc: not found", "other pixels"])
def test_a_device_that_fails_leaves_the_views_to_the_cpu(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[int] = []

    def launch(self: DeviceViews, packing: Any, made: torch.Tensor) -> None:
        launched.append(len(packing))
        made.zero_()
        if reason != "other pixels":
            raise RuntimeError(reason)

    monkeypatch.setattr(DeviceViews, "_launch", launch)
    maker, image = DeviceViews(ViewSpec(9, 10)), noise(31, 40)
    views = planned(maker, image, range(3))
    expected = make_views(image, maker.spec, SHA, range(3))
    for _ in range(2):
        np.testing.assert_array_equal(DecodedViews(maker, views).to(CPU).numpy(), expected)
    assert len(launched) == 1
    assert maker.note.startswith("views are made on the CPU, because cpu cannot make them: ")
    assert maker.note.endswith(reason)
    assert maker.plan(image, SHA, [0]) is None


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("CUDA error: out of memory")])
def test_a_device_without_memory_says_so_to_the_network(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network then takes smaller batches."""
    maker, image = DeviceViews(ViewSpec(9, 10)), noise(31, 40)
    views = planned(maker, image, range(3))
    monkeypatch.setattr(DeviceViews, "_gives_the_pixels_of_the_cpu", lambda self, device: True)
    maker.check(CPU)

    def launch(self: DeviceViews, packing: Any, made: torch.Tensor) -> None:
        raise error

    monkeypatch.setattr(DeviceViews, "_launch", launch)
    with pytest.raises(RuntimeError, match=r"full|CUDA"):
        maker.make(views, CPU)
    assert maker.note == ""
