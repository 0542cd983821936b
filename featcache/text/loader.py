"""`TextLoader`: reads texts and gives their views as tokens, in batches, for extraction."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache._utils.timing import PhaseTimer
from featcache.core.specs import TextSpec
from featcache.data.manifest import Manifest
from featcache.data.sample_loader import Batch
from featcache.data.tokens import Tokens
from featcache.text.read import read_text
from featcache.text.views import make_text_views

_AHEAD = 2
"""Batches that are prepared while the encoder computes."""


def cut_remark(spec: TextSpec) -> str:
    """The remark on a text whose end was cut off."""
    return f"longer than {spec.max_length} tokens, cut at its end"


class TokenizedTexts(Protocol):
    """Tokens of n texts.

    tokens : in the order of the texts. cut : shape (n,), whether the end of the text was cut off.
    """

    @property
    def tokens(self) -> Tokens: ...
    @property
    def cut(self) -> NDArray[np.bool_]: ...


class Tokenize(Protocol):
    """Turns texts into tokens; may run in another thread. separator : takes the place of U+001F, unless it is empty."""

    def __call__(self, texts: Sequence[str], separator: str, /) -> TokenizedTexts: ...


class _Chunk(NamedTuple):
    """Some rows with their views. skipped : reasons by row."""

    rows: list[int]
    tokens: Tokens | None
    cut: list[int]
    skipped: dict[int, str]


class TextLoader:
    """Views of the texts of a manifest as tokens; see `SampleLoader`. A thread reads and tokenizes ahead.

    Parameters
    ----------
    manifest : Manifest
        The texts.
    spec : TextSpec
        How texts become views.
    tokenize : Tokenize
        The tokenizer of the encoder.
    timer : PhaseTimer, optional
        Gets the seconds spent reading, making views and tokenizing.
    """

    def __init__(
        self, manifest: Manifest, spec: TextSpec, tokenize: Tokenize, *, timer: PhaseTimer | None = None
    ) -> None:
        self.manifest, self.spec = manifest, spec
        self.skipped: dict[int, str] = {}
        self.remarks: dict[int, str] = {}
        self._tokenize, self._timer = tokenize, timer or PhaseTimer()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="texts")

    def close(self) -> None:
        """See `SampleLoader`."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, rows: Sequence[int] | NDArray[np.int64], numbers: Sequence[int]) -> None:
        """See `SampleLoader`. Reading texts takes so little time that nothing is begun."""

    def batches(
        self, rows: Sequence[int] | NDArray[np.int64], numbers: Sequence[int], batch_size: int
    ) -> Iterator[Batch]:
        """See `SampleLoader`. A batch has fewer texts where some cannot be read."""
        numbers = list(numbers)
        chunks = iter(
            [int(row) for row in rows[start : start + batch_size]] for start in range(0, len(rows), batch_size)
        )
        pending: deque[Future[_Chunk]] = deque()
        try:
            while True:
                while len(pending) < _AHEAD and (chunk := next(chunks, None)):
                    pending.append(self._pool.submit(self._load, chunk, numbers))
                if not pending:
                    return
                loaded = pending.popleft().result()
                self.skipped.update(loaded.skipped)
                for row in loaded.cut:
                    self.remarks[row] = cut_remark(self.spec)
                if loaded.tokens is not None:
                    found = np.array(loaded.rows, np.int64)
                    yield Batch(found, loaded.tokens, self.manifest.samples.labels[found])
        finally:
            for future in pending:
                future.cancel()

    def _load(self, rows: list[int], numbers: list[int]) -> _Chunk:
        readable: list[int] = []
        views: list[str] = []
        skipped: dict[int, str] = {}
        for row in rows:
            sha256 = self.manifest.samples.sha256[row].tobytes()
            with self._timer.phase("read"):
                text = read_text(self.manifest, row, skipped)
            if text is not None:
                readable.append(row)
                with self._timer.phase("view"):
                    views += make_text_views(text, self.spec, sha256, numbers)
        if not readable:
            return _Chunk([], None, [], skipped)
        with self._timer.phase("tokenize"):
            tokenized = self._tokenize(views, self.spec.separator)
        is_cut: NDArray[np.bool_] = np.any(tokenized.cut.reshape(len(readable), len(numbers)), axis=1)
        return _Chunk(
            readable, tokenized.tokens, [row for row, cut in zip(readable, is_cut, strict=True) if cut], skipped
        )
