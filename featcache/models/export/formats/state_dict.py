"""`state-dict`: weights for the network as torchvision or timm builds it, with its last layer replaced."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from featcache.core.specs import PENULTIMATE
from featcache.errors import ExportError
from featcache.models.export.program import IMPORT_PILLOW
from featcache.models.export.registry import EXPORT_FORMATS, ExampleCode, ExportFormat

if TYPE_CHECKING:
    from featcache.heads.linear_layer import LinearWeights
    from featcache.models.load import SavedModel

NAME = "state-dict"

_PREDICT = """{build}
model.load_state_dict(torch.load(MODEL, weights_only=True))
model.eval()
mean, std = (torch.tensor(values).view(3, 1, 1) for values in ({mean!r}, {std!r}))
with torch.inference_mode():
    logits = model((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std)
"""


def write_state_dict(saved: SavedModel, last: LinearWeights, path: Path) -> ExampleCode:
    """Write the weights for the network as torchvision or timm builds it with as many classes. Raises ExportError."""
    import torch

    from featcache._utils.files import deferred_errors
    from featcache.backbones.sources.registry import is_named, linear_classifiers
    from featcache.models.export.graph import exporting

    card, name = saved.card, saved.card.spec.backbone
    if card.layer != PENULTIMATE:
        raise ExportError(
            f"the head uses layer {card.layer} of {name}. A state dict holds the plain network, which continues after "
            "that layer. Use onnx or torch-export."
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
    imports, build = _build_code(name, classifiers[0], last, size_option(name, saved))
    return ExampleCode(
        imports,
        _PREDICT.format(build=build, mean=list(card.spec.mean), std=list(card.spec.std)),
        probabilities="logits.sigmoid()" if card.multilabel else "logits.softmax(1)",
    )


def size_option(name: str, saved: SavedModel) -> str:
    """The option that builds the network for its image size; empty if that is the network's usual size."""
    from featcache.backbones.sources.registry import differs_in_size, timm_name

    if not differs_in_size(name, saved.backbone.module):
        return ""
    return f"{'image_size' if timm_name(name) is None else 'img_size'}={saved.card.spec.view.image_size}"


def _build_code(backbone: str, classifier: str, last: LinearWeights, size: str) -> tuple[str, str]:
    """The imports of a program that uses a network without featcache, and the lines that build it."""
    from featcache.backbones.sources.registry import timm_name

    (classes, width), model = last.weight.shape, timm_name(backbone)
    if model is not None:
        build = f"model = timm.create_model({model!r}, num_classes={classes}{size and f', {size}'})"
        return f"import timm\nimport torch\n{IMPORT_PILLOW}", build
    inception = backbone in ("googlenet", "inception_v3")  # as featcache builds them
    options = "aux_logits=False, transform_input=True, init_weights=False" if inception else size
    attribute = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in classifier.split("."))
    build = f"model = {backbone}({options})\nmodel{attribute} = torch.nn.Linear({width}, {classes})"
    return f"import torch\n{IMPORT_PILLOW}\nfrom torchvision.models import {backbone}", build


EXPORT_FORMATS.register(NAME, ExportFormat(write_state_dict))
