"""The formats that a model is exported in: each writes its file and gives the program that uses it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from featcache._utils.files import deferred_errors
from featcache._utils.report import human_bytes
from featcache.backbones.feature_extractor import FeatureExtractor
from featcache.backbones.sources.registry import differs_in_size, get_source, is_named, linear_classifiers
from featcache.core.model_card import ModelCard
from featcache.core.specs import PENULTIMATE
from featcache.core.thresholds import HALF
from featcache.errors import ExportError, first_line
from featcache.heads.linear_layer import LinearWeights

if TYPE_CHECKING:
    from featcache.models.load import SavedModel

_ONNX_BYTES = 2_000_000_000  # an ONNX file is one message of protobuf, which holds 2 GiB at most

_PROGRAM = '''"""Name the classes of photos, whose names are the arguments of this program.

Written by `featcache export`; it needs the exported file beside it, and no featcache.
"""

import sys
from pathlib import Path

import numpy as np
{imports}

CLASSES = {classes!r}
{thresholds}MODEL = Path(__file__).with_name({file!r})


def load(photo):
    """Its middle, upright, as the network has seen photos: RGB, uint8, shape ({size}, {size}, 3)."""
    formats = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no EPS, a program that Pillow would run
    image = ImageOps.exif_transpose(Image.open(photo, formats=formats))
{deep}    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    short = min(image.size)
    width, height = ({resize} * side // short for side in image.size)
    image = image.resize((width, height), Image.Resampling.{interpolation})
    left, top = round((width - {size}) / 2), round((height - {size}) / 2)
    return np.asarray(image.crop((left, top, left + {size}, top + {size})))


photos = sys.argv[1:] or sys.exit(__doc__)
pixels = np.stack([load(photo) for photo in photos])
{run}for photo, row in zip(photos, {rows}):
    {show}
'''
_DEEP = """    if image.mode.startswith(("I", "F")):  # more than 8 bits: {low:.15g} becomes black, {high:.15g} white
        values = (np.asarray(image, np.float64) - {low!r}) * 255 / {width!r}
        image = Image.fromarray(np.rint(values.clip(0, 255)).astype(np.uint8))
"""
_SHOW = 'print(f"{photo}\\t{CLASSES[row.argmax()]}\\t{row.max():.4f}")'
_THRESHOLDS = "THRESHOLDS = {thresholds!r}  # above which probability a label is named\n"
_SHOW_LABELS = """named = zip(CLASSES, row, THRESHOLDS)
    print(photo, *(f"{name} {share:.4f}" for name, share, least in named if share > least), sep="\\t")"""

_PILLOW = "from PIL import Image, ImageOps"

_STATE_DICT = """{build}
model.load_state_dict(torch.load(MODEL, weights_only=True))
model.eval()
mean, std = (torch.tensor(one).view(3, 1, 1) for one in ({mean!r}, {std!r}))
with torch.inference_mode():
    logits = model((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std)
"""

_IMPORT_ONNX = """import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # ONNX Runtime sends usage data unless it is told not to before its import

import onnxruntime"""

_ONNX = """session = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
logits, probabilities = session.run(["logits", "probabilities"], {"pixels": pixels})
"""

_TORCH_EXPORT = """model = torch.export.load(MODEL).module()
with torch.inference_mode():
    logits, probabilities = model(torch.from_numpy(pixels))
"""


def write_state_dict(saved: SavedModel, last: LinearWeights, path: Path) -> str:
    """Weights for the network as torchvision or timm builds it with as many classes. Raises ExportError."""
    card, name = saved.card, saved.card.spec.backbone
    if card.layer != PENULTIMATE:
        raise ExportError(
            f"the head works on layer {card.layer} of {name}, behind which the plain network goes on, so no state "
            "dict holds them both. Use onnx or torch-export."
        )
    if not is_named(name):
        raise ExportError(f"{name} is a network of your own, which no library builds. Use onnx or torch-export.")
    classifiers = linear_classifiers(name)
    if not classifiers:
        raise ExportError(
            f"the plain {name} does not end in a linear layer, so its state dict has no place for the head. "
            "Use onnx or torch-export."
        )
    state = saved.backbone.module.state_dict()
    for layer in classifiers:
        state[f"{layer}.weight"], state[f"{layer}.bias"] = (torch.from_numpy(part).float() for part in last)
    with _exporting(saved, "state-dict"), path.open("wb") as file, deferred_errors(file) as writer:
        torch.save({name: value.contiguous() for name, value in state.items()}, writer)
    size = card.spec.view.image_size if differs_in_size(name, saved.backbone.module) else None
    classes, width = last.weight.shape
    line, code = get_source(name).build_code(name, classifiers[0], classes, width, size)
    lines = ["import torch", _PILLOW, line]
    imports = "\n".join(sorted(lines, key=lambda line: (line.startswith("from"), line)))
    run = _STATE_DICT.format(build=code, mean=list(card.spec.mean), std=list(card.spec.std))
    return _program(card, path, imports, run, rows="logits.sigmoid()" if card.multilabel else "logits.softmax(1)")


class _Deployed(nn.Module):
    """RGB squares (b, s, s, 3), uint8, to logits and probabilities, each (b, c)."""

    def __init__(self, frozen: FeatureExtractor, last: LinearWeights, multilabel: bool) -> None:
        super().__init__()
        self.frozen, self.multilabel = frozen, multilabel
        self.weight, self.bias = (nn.Parameter(torch.from_numpy(part).float(), requires_grad=False) for part in last)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        logits = nn.functional.linear(torch.cat(self.frozen(pixels), 1), self.weight, self.bias)
        return logits, logits.sigmoid() if self.multilabel else logits.softmax(1)


def write_onnx(saved: SavedModel, last: LinearWeights, path: Path) -> str:
    """A graph for ONNX Runtime, in one file. Raises ExportError."""
    module, example = _deployed(saved, last)
    size = sum(value.nbytes for value in module.state_dict().values())
    if size > _ONNX_BYTES:
        raise ExportError(f"an ONNX file holds 2 GB, and this network has {human_bytes(size)}. Use torch-export.")
    with _exporting(saved, "onnx"):
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: "batch"},),
            input_names=["pixels"],
            output_names=["logits", "probabilities"],
            verbose=False,
        )
        assert program is not None  # it is with dynamo=True
        program.model.metadata_props.update(_metadata(saved.card))
        program.save(path, external_data=False)
    return _program(saved.card, path, f"{_IMPORT_ONNX}\n{_PILLOW}", _ONNX)


def write_torch_export(saved: SavedModel, last: LinearWeights, path: Path) -> str:
    """A graph for PyTorch. Raises ExportError."""
    module, example = _deployed(saved, last)
    with _exporting(saved, "torch-export"):
        program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        buffer = BytesIO()  # to a file, PyTorch would abort the process where the disk is full
        torch.export.save(program, buffer, extra_files={"metadata.json": json.dumps(_metadata(saved.card))})
        path.write_bytes(buffer.getbuffer())
    return _program(saved.card, path, f"import torch\n{_PILLOW}", _TORCH_EXPORT)


WRITERS: Mapping[str, Callable[[SavedModel, LinearWeights, Path], str]] = {
    "state-dict": write_state_dict,
    "onnx": write_onnx,
    "torch-export": write_torch_export,
}


def _deployed(saved: SavedModel, last: LinearWeights) -> tuple[nn.Module, Tensor]:
    """The module to export, and an input."""
    size = saved.card.spec.view.image_size
    module = _Deployed(saved.backbone.feature_extractor, last, saved.card.multilabel).eval()
    return module, torch.zeros(2, size, size, 3, dtype=torch.uint8)


def _preprocessing(card: ModelCard) -> tuple[str, str]:
    """What the input of a graph is, and how a picture becomes it."""
    view = card.spec.view
    return (
        f"RGB, uint8, (b, {view.image_size}, {view.image_size}, 3); mean and deviation are part of the graph",
        f"the middle of each picture, its short side resized to {view.resize_size} ({view.interpolation}, antialiased)",
    )


def _metadata(card: ModelCard) -> dict[str, str]:
    """What the file says of itself: texts, as ONNX wants them."""
    view = card.spec.view
    return {
        "classes": json.dumps(card.classes),
        "several_labels": json.dumps(card.multilabel),
        **({"thresholds": json.dumps(_thresholds(card))} if card.multilabel else {}),
        "pixels": ", ".join(_preprocessing(card)),
        "resize_size": str(view.resize_size),
        "image_size": str(view.image_size),
        "interpolation": view.interpolation,
    }


def _thresholds(card: ModelCard) -> list[float]:
    return list(card.thresholds or [HALF] * len(card.classes))


def _program(card: ModelCard, path: Path, imports: str, run: str, *, rows: str = "probabilities") -> str:
    """A program that reads photos as featcache does and prints what the exported file says of them."""
    view = card.spec.view
    low, high = view.value_range or (0.0, 0.0)
    return _PROGRAM.format(
        imports=imports,
        classes=list(card.classes),
        thresholds=_THRESHOLDS.format(thresholds=_thresholds(card)) if card.multilabel else "",
        file=path.name,
        deep=_DEEP.format(low=low, high=high, width=high - low) if view.value_range else "",
        resize=view.resize_size,
        size=view.image_size,
        interpolation=view.interpolation.upper(),
        run=run,
        rows=rows,
        show=_SHOW_LABELS if card.multilabel else _SHOW,
    )


@contextmanager
def _exporting(saved: SavedModel, format: str) -> Iterator[None]:
    """Exporters print and warn of their own affairs, and raise whatever they like."""
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except OSError:  # a full disk is nothing that another format helps against
        raise
    except Exception as error:
        raise ExportError(
            f"PyTorch cannot export {saved.card.spec.backbone} as {format} ({first_line(error)}). Use another format."
        ) from error
