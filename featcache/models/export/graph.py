"""A saved model as one module of PyTorch, from pixels to probabilities: what the formats of graphs export."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from featcache.backbones.feature_extractor import FeatureExtractor
from featcache.core.model_card import ModelCard
from featcache.errors import ExportError, first_line
from featcache.heads.linear_layer import LinearWeights
from featcache.models.export.program import label_thresholds

if TYPE_CHECKING:
    from featcache.models.load import SavedModel


class _GraphModule(nn.Module):
    """RGB images (b, s, s, 3), uint8, to logits and probabilities, each (b, c).

    layers : of the extractor, those that the head uses.
    """

    def __init__(
        self, extractor: FeatureExtractor, layers: Sequence[str], last: LinearWeights, multilabel: bool
    ) -> None:
        super().__init__()
        self.extractor, self.multilabel = extractor, multilabel
        self.numbers = [extractor.layers.index(layer) for layer in layers]
        self.weight, self.bias = (nn.Parameter(torch.from_numpy(array).float(), requires_grad=False) for array in last)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.extractor(pixels)
        x = torch.cat([features[number] for number in self.numbers], 1)
        logits = nn.functional.linear(x, self.weight, self.bias)
        return logits, logits.sigmoid() if self.multilabel else logits.softmax(1)


def graph_module(saved: SavedModel, last: LinearWeights) -> tuple[nn.Module, Tensor]:
    """The module to export, and an example input: two black images."""
    size = saved.card.spec.image_view.image_size
    backbone = saved.backbone
    module = _GraphModule(backbone.feature_extractor, backbone.layers, last, saved.card.multilabel).eval()
    return module, torch.zeros(2, size, size, 3, dtype=torch.uint8)


def graph_metadata(card: ModelCard) -> dict[str, str]:
    """The metadata of the exported file. ONNX requires strings."""
    view = card.spec.image_view
    return {
        "classes": json.dumps(card.classes),
        "several_labels": json.dumps(card.multilabel),
        **({"thresholds": json.dumps(label_thresholds(card))} if card.multilabel else {}),
        "pixels": (
            f"RGB, uint8, (b, {view.image_size}, {view.image_size}, 3); mean and deviation are part of the graph, the "
            f"middle of each picture, its short side resized to {view.resize_size} ({view.interpolation}, antialiased)"
        ),
        "resize_size": str(view.resize_size),
        "image_size": str(view.image_size),
        "interpolation": view.interpolation,
    }


@contextmanager
def exporting(saved: SavedModel, format: str) -> Iterator[None]:
    """Hide what PyTorch's exporters print and warn of. Their errors, of any class, become an ExportError."""
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except OSError:  # such as a full disk, where another format would not help
        raise
    except Exception as error:
        raise ExportError(
            f"PyTorch cannot export {saved.card.spec.backbone} as {format} ({first_line(error)}). Use another format."
        ) from error
