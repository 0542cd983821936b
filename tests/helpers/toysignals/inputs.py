"""Signals that a saved model predicts: files and arrays."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from featcache.core.specs import ExtractSpec
from featcache.data.file_listing import read_names
from featcache.data.sources.base import Source
from featcache.errors import DataLayoutError
from featcache.models.inputs.base import MakeViews, Prepare, Prepared, SampleFile
from featcache.models.inputs.names import check_modality, file_of_bytes, samples_of_name
from featcache.models.prediction import OptionalColumn
from toysignals.data import SIGNALS, read_signal
from toysignals.views import SignalSpec, make_signal_views


class SignalInputs:
    """See `SampleInputs`."""

    modality = SIGNALS
    columns: tuple[OptionalColumn, ...] = ()
    stream_has_names = True

    def __init__(self, spec: ExtractSpec, /) -> None:
        self._view = spec.view_of(SignalSpec)

    def check_source(self, source: Source, /) -> None:
        check_modality(source, SIGNALS)

    def each(self, samples: Any, text_column: str | None = None, /) -> Iterator[Any]:
        if isinstance(samples, (str, os.PathLike)):
            yield from samples_of_name(samples, self)
        else:
            yield from map(_single_signal, samples)

    def of_strings(self, texts: Sequence[str], /) -> list[SampleFile]:
        if texts:
            raise DataLayoutError("signals are no texts")
        return []

    def read_stream(self, stream: Any, end: bytes = b"\n", text_column: str | None = None, /) -> Iterator[str]:
        return read_names(stream, end)

    def prepare_for(self, encoder: Any, /) -> Prepare:
        view = self._view

        def prepare(sample: bytes, name: str = "") -> MakeViews:
            def make(numbers: Sequence[int]) -> Prepared:
                digest = hashlib.sha256(sample).digest()
                values = read_signal(sample, view.length)
                return Prepared(make_signal_views(values, view, digest, numbers), "", digest)

            return make

        return prepare

    def describe(self) -> str:
        return f"signals of {self._view.length} values"

    def remark_hint(self) -> str:
        return ""

    def missing_hint(self, name: str, /) -> str:
        return ""


def _single_signal(signal: Any) -> Any:
    """A path, what reads a file, or an array."""
    if isinstance(signal, (str, os.PathLike, SampleFile)):
        return signal
    file = io.BytesIO()
    np.save(file, signal)
    return file_of_bytes(file.getvalue())
