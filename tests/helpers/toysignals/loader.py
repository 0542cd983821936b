"""Signals of a manifest as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.data.manifest import Manifest
from featcache.data.sample_loader import Batch
from toysignals.data import read_signal
from toysignals.views import SignalSpec, make_signal_views


class SignalLoader:
    """See `SampleLoader`."""

    def __init__(self, manifest: Manifest, spec: SignalSpec) -> None:
        self.manifest, self.spec = manifest, spec
        self.skipped: dict[int, str] = {}
        self.remarks: dict[int, str] = {}

    def start(self, rows: Any, numbers: Any) -> None:
        pass

    def close(self) -> None:
        pass

    def batches(
        self, rows: Sequence[int] | NDArray[np.int64], numbers: Sequence[int], batch_size: int
    ) -> Iterator[Batch]:
        for start in range(0, len(rows), batch_size):
            views: dict[int, NDArray[np.float32]] = {}
            for row in map(int, rows[start : start + batch_size]):
                try:
                    values = read_signal(self.manifest.read(row), self.spec.length)
                except OSError as error:
                    self.skipped[row] = str(error)
                    continue
                sha256 = self.manifest.samples.sha256[row].tobytes()
                views[row] = make_signal_views(values, self.spec, sha256, numbers)
            if views:
                found = np.array([*views], np.int64)
                yield Batch(found, np.concatenate([*views.values()]), self.manifest.samples.labels[found])
