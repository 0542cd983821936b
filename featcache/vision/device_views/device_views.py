"""`DeviceViews`: plans views and makes them on a GPU; `DecodedViews`: a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import Lock, local
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache._utils.memory_errors import is_out_of_memory
from featcache.core.rng import ReusedGenerator
from featcache.core.specs import ViewSpec
from featcache.core.view_recipes import AxisPlan, ViewPlan, recipe_of
from featcache.data.sample_loader import Inputs
from featcache.errors import first_line
from featcache.vision.augment import make_views
from featcache.vision.device_views.packing import Packing, PlannedView, fits, is_inside, pack
from featcache.vision.device_views.pinned import PinnedMemory
from featcache.vision.views.geometry import Pixels, draw_plan

TILE = (8, 256)
"""Rows, and columns times channels, of a view that one program of a kernel makes."""


class DeviceViews:
    """Makes views of one spec on a GPU, the very pixels of `make_views`.

    Each device is checked with a few images before its first batch. If its kernels do not compile, do not run or give
    other pixels, all views are made on the CPU, and `note` says why.

    Parameters
    ----------
    spec : ViewSpec
    tile : (int, int)
        See `TILE`; powers of two.
    device : torch.device or str
        Where the views are made; with several GPUs, one of them. Default: "cpu".

    Attributes
    ----------
    note : str
        Why views are made on the CPU; "" if they are not.
    memory : PinnedMemory
        For images of which views are planned. Others are copied there by `plan`, in the thread that decodes.
    """

    def __init__(self, spec: ViewSpec, tile: tuple[int, int] = TILE, device: torch.device | str = "cpu") -> None:
        self.spec, self.note = spec, ""
        self.memory = PinnedMemory(torch.device(device))
        self._tile = tile
        self._checked = set[torch.device]()
        self._lock, self._of_thread = Lock(), local()

    def plan(self, image: Pixels, sha256: bytes, numbers: Sequence[int]) -> list[PlannedView] | None:
        """The views of one image, which is not read yet; None if they are to be made on the CPU. See `make_views`."""
        spec, size, plans = self.spec, self.spec.image_size, list[ViewPlan]()
        height, width = image.shape[:2]
        if self.note or not fits(height, width, size):
            return None
        random = self._random()
        for number in numbers:
            plan_view = recipe_of("none" if number == 0 else spec.augment).plan
            if plan_view is None:
                return None
            plan = plan_view(height, width, spec, random.begin(spec.seed, "view", sha256, number))
            if not is_inside(plan, height, width, size):
                return None
            plans.append(plan)
        image = self.memory.put(image)
        return [PlannedView(image, plan) for plan in plans]

    @property
    def notes(self) -> list[str]:
        """`note` and that of the memory; "" is nothing."""
        return [self.note, self.memory.note]

    def _random(self) -> ReusedGenerator:
        """Of this thread."""
        if not hasattr(self._of_thread, "random"):
            self._of_thread.random = ReusedGenerator()
        random: ReusedGenerator = self._of_thread.random
        return random

    def collate(self, images: Sequence[Pixels | list[PlannedView]]) -> DecodedViews:
        """Views of some images as one batch. Each image has views that were made, (v, s, s, 3), or planned ones."""
        views: list[PlannedView] = []
        for of_image in images:
            views += of_image if isinstance(of_image, list) else map(_made_view, of_image)
        is_planned = np.repeat([isinstance(of_image, list) for of_image in images], [len(each) for each in images])
        return DecodedViews(self, views, is_planned)

    def check(self, device: torch.device) -> None:
        """Make a few views on the device, once, and compare them with those of the CPU."""
        with self._lock:
            if self.note or device in self._checked:
                return
            self._checked.add(device)
            try:
                same = self._gives_the_pixels_of_the_cpu(device)
            except Exception as error:  # compilers and drivers raise any type
                self._stop(device, first_line(error))
            else:
                if not same:
                    self._stop(device, "its kernels give other pixels")

    def make(self, views: Sequence[PlannedView], device: torch.device) -> Tensor | None:
        """Views (n, s, s, 3), uint8, on the device; None if it cannot make them, see `note`.

        Raises an error for which `is_out_of_memory` holds.
        """
        self.check(device)
        if not self.note:
            try:
                with self._lock:
                    return self._run(views, device)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                self._stop(device, first_line(error))
        return None

    def draw(self, views: Sequence[PlannedView]) -> Pixels:
        """The same views made on the CPU, (n, s, s, 3), uint8."""
        size = self.spec.image_size
        drawn = np.empty((len(views), size, size, 3), np.uint8)
        for target, view in zip(drawn, views, strict=True):
            target[...] = draw_plan(view.image, view.plan, self.spec)
        return drawn

    def _run(self, views: Sequence[PlannedView], device: torch.device) -> Tensor:
        size = self.spec.image_size
        made = torch.empty((len(views), size, size, 3), dtype=torch.uint8, device=device)
        with _current(device):
            for packing in pack(views, size, self.spec.interpolation):
                self._launch(packing, made)
        return made

    def _launch(self, packing: Packing, made: Tensor) -> None:
        from featcache.vision.device_views.kernels import make_taps, resize_columns, resize_rows  # needs Triton

        size, device, (rows, columns) = self.spec.image_size, made.device, self._tile
        axes, column_passes, row_passes, pixels = self._send(packing, device)
        firsts = torch.empty(2 * len(packing) * size, dtype=torch.int32, device=device)
        weights = torch.empty(packing.weight_count, dtype=torch.int16, device=device)
        found = torch.empty(4 * len(packing), dtype=torch.int32, device=device)
        middle = torch.empty(packing.middle_bytes, dtype=torch.uint8, device=device)
        make_taps[(2 * len(packing),)](
            axes.view(torch.int64),
            firsts,
            weights,
            found,
            size,
            IS_BICUBIC=self.spec.interpolation == "bicubic",
            BLOCK=columns,
            enable_fp_fusion=False,
        )
        taps = firsts, weights, found
        grid = (len(packing), -(-packing.most_rows // rows), -(-size * 3 // columns))
        resize_columns[grid](column_passes.view(torch.int64), *taps, pixels, middle, size, ROWS=rows, COLUMNS=columns)
        grid = (len(packing), -(-size // rows), -(-size * 3 // columns))
        resize_rows[grid](row_passes.view(torch.int64), *taps, middle, made, size, ROWS=rows, COLUMNS=columns)

    def _send(self, packing: Packing, device: torch.device) -> list[Tensor]:
        """Start to copy tables and images to the device: axis passes, column passes, row passes and pixels, uint8."""
        pixels = torch.empty(packing.pixel_bytes, dtype=torch.uint8, device=device)
        copied = [self.memory.empty((packing.table_bytes,))]
        packing.write_tables(copied[0])
        try:
            tables = torch.from_numpy(copied[0]).to(device, non_blocking=True)
            for place, image in packing.images:
                copied.append(self.memory.put(image))
                source = torch.from_numpy(copied[-1].reshape(-1))
                pixels[place : place + image.size].copy_(source, non_blocking=True)
        finally:
            self.memory.keep(copied)
        return [*packing.tables_of(tables), pixels]

    def _gives_the_pixels_of_the_cpu(self, device: torch.device) -> bool:
        spec, views, expected = self.spec, [], []
        for height, width in ((5, 3), (2 * spec.image_size + 1, 3 * spec.image_size // 2)):  # enlarged, reduced
            image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
            for numbers in ([0], [1]):  # a recipe without plans has a clean view
                if planned := self.plan(image, b"", numbers):
                    views += planned
                    expected.append(make_views(image, spec, b"", numbers))
        return not views or bool((self._run(views, device).cpu().numpy() == np.concatenate(expected)).all())

    def _stop(self, device: torch.device, reason: str) -> None:
        self.note = f"views are made on the CPU, because {device} cannot make them: {reason}"


class DecodedViews:
    """Views that are made on the device of the network; see `DeviceInputs`.

    Parameters
    ----------
    maker : DeviceViews
    views : sequence of PlannedView
        In the order of the batch.
    is_planned : ndarray of bool, shape (n,), optional
        Which of them were not made yet. By default all.
    on_device : ndarray of bool, shape (n,), optional
        See `DeviceInputs`; a part of a batch notes it in the array of the batch. By default none.
    """

    def __init__(
        self,
        maker: DeviceViews,
        views: Sequence[PlannedView],
        is_planned: NDArray[np.bool_] | None = None,
        on_device: NDArray[np.bool_] | None = None,
    ) -> None:
        self._maker, self._views = maker, views
        self._is_planned = np.ones(len(views), np.bool_) if is_planned is None else is_planned
        self.on_device = np.zeros(len(views), np.bool_) if on_device is None else on_device

    @property
    def shape(self) -> tuple[int, ...]:
        """See `DeviceInputs`: (n, s, s, 3)."""
        size = self._maker.spec.image_size
        return len(self._views), size, size, 3

    def __len__(self) -> int:
        return len(self._views)

    def __getitem__(self, part: slice) -> DecodedViews:
        return DecodedViews(self._maker, self._views[part], self._is_planned[part], self.on_device[part])

    def join(self, other: Inputs) -> DecodedViews:
        """See `DeviceInputs`."""
        if not isinstance(other, DecodedViews):
            views = [_made_view(view) for view in np.asarray(other)]
            other = DecodedViews(self._maker, views, np.zeros(len(views), np.bool_))
        is_planned = np.concatenate([self._is_planned, other._is_planned])
        return DecodedViews(self._maker, [*self._views, *other._views], is_planned)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self._maker.draw(self._views).astype(dtype or np.uint8, copy=False)

    def to(self, device: torch.device) -> Tensor:
        """See `DeviceInputs`."""
        made = self._maker.make(self._views, device)
        self.on_device[:] = self._is_planned if made is not None else False
        return torch.from_numpy(self._maker.draw(self._views)).to(device) if made is None else made


def _made_view(view: Pixels) -> PlannedView:
    """A view (s, s, 3) that was made already: `make` copies it."""
    size = len(view)
    return PlannedView(view, ViewPlan(AxisPlan(0, size, size), AxisPlan(0, size, size)))


def _current(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
