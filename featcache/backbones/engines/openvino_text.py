"""`OpenVinoTextEngine`: a frozen encoder of texts in OpenVINO, faster than PyTorch on CPUs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.backbones.engines import openvino_files
from featcache.backbones.engines.base import PendingFeatures
from featcache.backbones.engines.openvino_network import OpenVinoNetwork, compare_features
from featcache.backbones.engines.text_batches import as_tokens, cut_by_length, join_parts
from featcache.core.specs import Precision
from featcache.data.tokens import Tokens

if TYPE_CHECKING:
    from featcache.backbones.text_features import TextFeatures
    from featcache.data.sample_loader import Inputs

_MAX_TOKENS = 512
"""Tokens in one forward pass, padding included. With 1,024, short texts took an eighth longer; with 4,096, twice as
long: the activations of more do not stay in the cache of a core."""


class OpenVinoTextEngine:
    """A converted encoder of texts of any length; see `OpenVinoNetwork` and `Engine`.

    Parameters
    ----------
    features : returns the encoder; called only if there is no cached conversion.
    probe : returns tokens of some texts of different lengths, by which the conversion is compared with the encoder.
    path : file of the cached conversion; None to cache none.
    max_in_flight : sequences to submit in addition to those whose features are awaited.

    Raises
    ------
    RuntimeError : OpenVINO cannot convert this encoder, or returns other features.
    """

    note = ""

    def __init__(
        self,
        features: Callable[[], TextFeatures],
        probe: Callable[[], Tokens],
        precision: Precision,
        path: Path | None,
        max_in_flight: int,
    ) -> None:
        def check(network: OpenVinoNetwork) -> None:
            tokens, original = probe(), features()
            converted = network.submit(_inputs(tokens)).result()
            compare_features(converted, original.embed(tokens), original.embed(tokens, "fp32"), precision)

        self._network = OpenVinoNetwork(
            path,
            precision,
            convert=lambda: _convert(features(), probe()),
            check=check,
            smallest=[np.zeros((1, 1), np.int64), np.ones(1, np.int64)],
        )
        self.max_in_flight = max_in_flight

    def submit(self, tokens: Inputs, /) -> PendingFeatures:
        """See `Engine`."""
        tokens = as_tokens(tokens)
        n = len(tokens)
        sequences = tokens if n else Tokens([np.zeros(1, np.int64)])  # whose features are dropped
        parts = cut_by_length(sequences.lengths, _MAX_TOKENS)
        waiting = [self._network.submit(_inputs(sequences.take(part))) for part in parts]
        return lambda: [layer[:n] for layer in join_parts(parts, [batch.result() for batch in waiting])]


def _inputs(tokens: Tokens) -> list[Any]:
    return [np.asarray(tokens), tokens.lengths]


def _convert(features: TextFeatures, probe: Tokens) -> Any:
    import torch

    example = [torch.from_numpy(values) for values in _inputs(probe)]
    return openvino_files.convert(features, example, [(-1, -1), (-1,)])
