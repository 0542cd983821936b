"""`TextEngine`: a frozen encoder of texts in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featcache.backbones.engines.base import PendingFeatures
from featcache.backbones.engines.text_batches import as_tokens, cut_by_length, join_parts
from featcache.data.tokens import Tokens
from featcache.errors import BackboneError, first_line

if TYPE_CHECKING:
    from torch import Tensor

    from featcache.backbones.text_features import TextFeatures
    from featcache.data.sample_loader import Inputs

_MAX_TOKENS = {"cuda": 32_768}
_MAX_TOKENS_CPU = 512
"""Tokens in one forward pass, padding included. With 4,096 on a CPU, short texts took a third longer."""


class TextEngine:
    """PyTorch; see `Engine`. On a GPU copies and kernels are queued, and only a request for features waits.

    If a forward pass does not fit into the memory of the device, this and later ones get half the tokens until it fits.

    Parameters
    ----------
    max_in_flight : sequences to submit in addition to those whose features are awaited.
    """

    def __init__(self, features: TextFeatures, max_in_flight: int = 0) -> None:
        self._features = features
        self.max_in_flight = max_in_flight
        self._max_tokens = _MAX_TOKENS.get(features.device.type, _MAX_TOKENS_CPU)
        self.note = ""

    def submit(self, tokens: Inputs, /) -> PendingFeatures:
        """See `Engine`. Raises BackboneError if one sequence does not fit into the memory of the device."""
        import torch

        tokens = as_tokens(tokens)
        n = len(tokens)
        sequences = tokens if n else Tokens([np.zeros(1, np.int64)])  # whose features are dropped
        while True:
            parts = cut_by_length(sequences.lengths, self._max_tokens)
            try:
                waiting = [self._start(sequences.take(part)) for part in parts]
                break
            except torch.OutOfMemoryError as error:
                reason = first_line(error)
            self._halve(int(sequences.lengths.max()), reason)  # here the error, which keeps tensors, is gone

        def collect() -> list[NDArray[np.float32]]:
            features = [[layer.numpy() for layer in wait()] for wait in waiting]
            return [layer[:n] for layer in join_parts(parts, features)]

        return collect

    def _start(self, tokens: Tokens) -> Callable[[], list[Tensor]]:
        """Queue a forward pass, and the copies of its features to the host."""
        import torch

        from featcache.backbones.transfer import to_device, to_host

        device = self._features.device
        on_gpu = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
        with torch.inference_mode(), on_gpu:
            ids, lengths = to_device(np.asarray(tokens), device), to_device(tokens.lengths, device)
            with self._features.autocast():
                features = self._features(ids, lengths)
            return to_host(features, device)

    def _halve(self, longest: int, reason: str) -> None:
        import torch

        device = self._features.device
        if self._max_tokens <= longest:
            raise BackboneError(
                f"one text of {longest} tokens does not fit into the free memory of {device} ({reason}). Stop other "
                "programs that use this memory, or give a smaller max_length, --device cpu or another encoder."
            )
        self._max_tokens = max(longest, self._max_tokens // 2)
        self.note = f"{device} has too little free memory for larger batches: batches have {self._max_tokens} tokens"
        if device.type == "cuda":
            torch.cuda.empty_cache()
