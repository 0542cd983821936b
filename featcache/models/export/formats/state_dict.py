"""`state-dict`: weights for the network as torchvision or timm builds it, with its last layer replaced."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from featcache.core.specs import PENULTIMATE
from featcache.errors import ExportError
from featcache.models.export.registry import EXPORT_FORMATS, ExampleCode, ExportFormat

if TYPE_CHECKING:
    from featcache.heads.linear_layer import LinearWeights
    from featcache.models.load import SavedModel

NAME = "state-dict"

_LOAD = """{build}
model.load_state_dict(torch.load(MODEL, weights_only=True))
model.eval()
mean, std = (torch.tensor(values).view(3, 1, 1) for values in ({mean!r}, {std!r}))
"""
_PREDICT = """with torch.inference_mode():
    logits = model((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std)
"""


def write_state_dict(saved: SavedModel, last: LinearWeights, path: Path) -> ExampleCode:
    """Write the weights for the network as torchvision or timm builds it with as many classes. Raises ExportError."""
    import torch

    from featcache._utils.files import deferred_errors
    from featcache.backbones.sources.registry import differs_in_size, get_source, is_named, linear_classifiers
    from featcache.models.export.graph import exporting

    card, name = saved.card, saved.card.spec.backbone
    if card.spec.modality != "image":
        raise ExportError(
            f"a state dict is for networks of images, and the head is for {card.spec.modality}s. Use onnx or "
            "torch-export."
        )
    if card.layer != PENULTIMATE:
        raise ExportError(
            f"the head uses layer {card.layer} of {name}. A state dict holds the plain network, which continues after "
            "that layer. Use onnx or torch-export, or fit the head with --layer penultimate."
        )
    if not is_named(name):
        raise ExportError(f"{name} is your own network, which no library builds. Use onnx or torch-export.")
    classifiers = linear_classifiers(name)
    if not classifiers:
        raise ExportError(
            f"the plain {name} does not end in a linear layer, which the head could replace in its state dict. "
            "Use onnx or torch-export."
        )
    state = saved.backbone.module.state_dict()
    for layer in classifiers:
        state[f"{layer}.weight"], state[f"{layer}.bias"] = (torch.from_numpy(array).float() for array in last)
    with exporting(saved, NAME), path.open("wb") as file, deferred_errors(file) as writer:
        torch.save({key: value.contiguous() for key, value in state.items()}, writer)
    image_size = card.spec.image_view.image_size if differs_in_size(name, saved.backbone.module) else None
    classes, width = last.weight.shape
    line, build = get_source(name).build_code(name, classifiers[0], classes, width, image_size)
    lines = ["import torch", line]
    return ExampleCode(
        "\n".join(sorted(lines, key=lambda line: (line.startswith("from"), line))),
        _PREDICT,
        probabilities="logits.sigmoid()" if card.multilabel else "logits.softmax(1)",
        load=_LOAD.format(build=build, mean=list(card.spec.image_view.mean), std=list(card.spec.image_view.std)),
    )


EXPORT_FORMATS.register(NAME, ExportFormat(write_state_dict))
