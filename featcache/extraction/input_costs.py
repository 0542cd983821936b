"""`InputCosts`: what it takes to make the inputs of a network, measured on some samples; for `featcache plan`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import printable
from featcache.data.manifest import Manifest
from featcache.data.sample_loader import Batch, Inputs, SampleLoader, join_inputs

if TYPE_CHECKING:
    from featcache.extraction.plan import ExtractionPlan


class InputCosts(NamedTuple):
    """Means over the samples that can be read.

    Parameters
    ----------
    rows : ndarray, shape (n,), int64
        Rows of these samples.
    sample_bytes : float
        Size of a sample.
    decode_s : float
        Core-seconds to prepare a sample for its views, such as to decode an image.
    view_s : float
        Core-seconds to make a view, such as to crop an image, or to turn a text into tokens.
    inputs : Inputs, shape (n * v, ...)
        The views.
    unread : str
        A sample that cannot be read, with the reason; empty if there is none.
    """

    rows: NDArray[np.int64]
    sample_bytes: float
    decode_s: float
    view_s: float
    inputs: Inputs
    unread: str = ""


NO_INPUTS = np.zeros(0, np.uint8)


def describe_unread(manifest: Manifest, row: int, reason: str) -> str:
    """A sample that cannot be read, with the reason, for a message."""
    return f"{printable(manifest.where(manifest.samples.ids[row]))}: {reason}"


def measure_loader(plan: ExtractionPlan, manifest: Manifest, rows: Sequence[int], numbers: Sequence[int]) -> InputCosts:
    """Measure the loader of a plan, by the processor time of this process.

    Parameters
    ----------
    rows : sequence of int
        Rows of samples.
    numbers : sequence of int
        Numbers of the views.
    """
    with closing(plan.open_loader(manifest)) as loader:
        _core_seconds(loader, rows[:1], numbers[:1])  # imports, and opens what is opened once
        first_s, batches = _core_seconds(loader, rows, numbers[:1])
        several = numbers if len(numbers) > 1 else [*numbers, *numbers]
        all_s, more = _core_seconds(loader, rows, several)
        skipped = dict(loader.skipped)
    batches = more if len(numbers) > 1 else batches
    unread = describe_unread(manifest, *next(iter(skipped.items()))) if skipped else ""
    if not batches:
        return InputCosts(np.zeros(0, np.int64), 0.0, 0.0, 0.0, NO_INPUTS, unread)
    readable = np.concatenate([batch.rows for batch in batches])
    n = len(readable)
    view_s = min(max(0.0, all_s - first_s) / (len(several) - 1), first_s) / n
    sizes = [len(manifest.read(row)) for row in readable.tolist()]
    inputs = join_inputs(*(batch.inputs for batch in batches))
    return InputCosts(readable, float(np.mean(sizes)), first_s / n - view_s, view_s, inputs, unread)


def _core_seconds(loader: SampleLoader, rows: Sequence[int], numbers: Sequence[int]) -> tuple[float, list[Batch]]:
    started = time.process_time()
    batches = list(loader.batches(rows, numbers, len(rows)))
    return time.process_time() - started, batches
