"""A saved model as one module of PyTorch, from inputs to probabilities: what the formats of graphs export."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from featcache.core.model_card import ModelCard
from featcache.errors import ExportError, first_line
from featcache.heads.linear_layer import LinearWeights
from featcache.models.export.inputs.registry import input_of
from featcache.models.export.program import label_thresholds

if TYPE_CHECKING:
    from featcache.models.load import SavedModel


class _GraphModule(nn.Module):
    """From the inputs to logits and probabilities, each (b, c).

    features : from the inputs to features of each layer. numbers : of the layers that the head uses.
    """

    def __init__(self, features: nn.Module, numbers: Sequence[int], last: LinearWeights, multilabel: bool) -> None:
        super().__init__()
        self.features, self.numbers, self.multilabel = features, numbers, multilabel
        self.weight, self.bias = (nn.Parameter(torch.from_numpy(array).float(), requires_grad=False) for array in last)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(*inputs)
        x = torch.cat([features[number] for number in self.numbers], 1)
        logits = nn.functional.linear(x, self.weight, self.bias)
        return logits, logits.sigmoid() if self.multilabel else logits.softmax(1)


def graph_module(saved: SavedModel, last: LinearWeights) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The module to export, and an example of its inputs."""
    model_input = input_of(saved.card)
    features, example = model_input.features(saved)
    layers = model_input.layers(saved)
    numbers = [layers.index(layer) for layer in saved.backbone.layers]
    return _GraphModule(features, numbers, last, saved.card.multilabel).eval(), example


def graph_metadata(card: ModelCard) -> dict[str, str]:
    """The metadata of the exported file. ONNX requires strings."""
    return {
        "classes": json.dumps(card.classes),
        "several_labels": json.dumps(card.multilabel),
        **({"thresholds": json.dumps(label_thresholds(card))} if card.multilabel else {}),
        **input_of(card).metadata(card),
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
