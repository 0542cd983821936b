"""`export`: a saved model as a file that needs no featcache, tried in a fresh process before it gets its name."""

from __future__ import annotations

import importlib.util
import os
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from featcache._utils.files import atomic_write, draft_folder, lock_folder, move
from featcache._utils.formatting import human_bytes
from featcache._utils.notebook import NotebookResult
from featcache._utils.telemetry import decline_usage_data
from featcache.core.bit_depth import format_range
from featcache.errors import ExportError, MissingExtraError, OutputError, OutputExistsError
from featcache.heads.linear_layer import FIT_ONE, LinearWeights, as_linear, layer
from featcache.models.export.formats import WRITERS
from featcache.models.export.parity import make_pictures, run_example
from featcache.models.load import SavedModel, open_model
from featcache.vision.augment import make_views

Format = Literal["state-dict", "onnx", "torch-export"]
FORMATS: tuple[str, ...] = get_args(Format)

_MARK = b"Written by `featcache export`"  # in a program, which then may be replaced

LIMIT = 1e-4
"""How far logits of the exported model may lie from ours, as a share of the largest."""

_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime")}  # they come with the extra of the format's name


@dataclass(frozen=True, repr=False)
class Exported(NotebookResult):
    """A file that holds a model.

    program : a file beside it, which reads photos and prints their classes. difference : the largest of the logits of
        that program from ours, in a fresh process, over the largest of ours. snippet : the text of the program.
        notes : what a user should know, a line each.
    """

    path: Path
    program: Path
    format: Format
    size_bytes: int
    difference: float
    snippet: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.format}, {human_bytes(self.size_bytes)}",
            f"in a fresh process without featcache its logits differ by {self.difference:.1e} of the largest",
            *self.notes,
        ]
        return "\n".join([*lines, f"the program that was run there: python {shlex.quote(str(self.program))} photo.jpg"])

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "path": str(self.path), "program": str(self.program)}


def export(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    format: Format,
    *,
    weights: str | None = None,
    backbone: Any = None,
    overwrite: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> Exported:
    """Write a folder of `fit_head` or `finetune` as a file for PyTorch or ONNX Runtime alone, which computes in fp32.

    Beside it, as OUT.py, a program that reads photos, prepares them as the network has seen them and prints their
    classes, without featcache.

    Parameters
    ----------
    format : "state-dict", weights for the plain network of torchvision or timm with its last layer replaced; "onnx"
        and "torch-export", graphs from pixels (b, s, s, 3), uint8, to logits and probabilities (b, c).
    weights : where the backbone's weights lie now, if they have moved. backbone : the network, where it is your own,
        see `Classifier.load`; then as a graph alone.
    overwrite : replace `out` where it exists.
    on_step : called with what is done next.

    Raises
    ------
    ExportError : a model that the format cannot hold, or a file that gives other logits; then nothing is written.
    OutputExistsError : `out` exists.
    MissingExtraError : "onnx" without its packages. HeadError, BackboneError : see `open_model`.
    """
    out, program = Path(out), Path(f"{os.fspath(out)}.py")
    _check_target(out, format, overwrite)
    decline_usage_data()
    on_step(f"loading {model}")
    saved = open_model(model, weights=weights, device="cpu", precision="fp32", backbone=backbone)
    view, last = saved.card.spec.view, _last_layer(saved, Path(model))
    pictures = make_pictures(view.resize_size)  # resizing leaves them as they are, whoever does it
    squares = np.concatenate([make_views(picture, view, b"", [0]) for picture in pictures])
    features = np.concatenate([*saved.backbone.embed_layers(squares).values()], axis=1)
    expected = features @ last.weight.T + last.bias
    with draft_folder(out) as folder:
        draft = folder / out.name
        on_step(f"writing {format}")
        try:
            snippet = WRITERS[format](saved, last, draft)
            on_step("running it in a fresh process")
            found = run_example(snippet, draft, pictures)
        except OSError as error:
            raise OutputError.of(error, out) from error
        difference = _difference(found, expected, last)
        if not difference <= LIMIT:
            raise ExportError(
                f"{model} as {format} gives other logits in a fresh process: they differ by {difference:.1e} of the "
                f"largest, at most {LIMIT:.0e} is allowed. Nothing was written. Use another format."
            )
        size = draft.stat().st_size
        # Of two exports at once both files are those of one; both are on the disk before either gets its name.
        with lock_folder(out.parent), atomic_write(program) as file:
            file.write(snippet.encode())
            file.flush()
            os.fsync(file.fileno())
            move(draft, out)
    return Exported(out, program, format, size, difference, snippet, _notes(saved, last, format))


def _check_target(out: Path, format: str, overwrite: bool) -> None:
    """Refuse what cannot be written before the work, not after it."""
    if format not in FORMATS:
        raise ExportError(f"there is no format {format!r}; use {', '.join(FORMATS)}")
    for package in _PACKAGES.get(format, ()):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError.of(package, format)
    if os.path.lexists(out) and not overwrite:
        raise OutputExistsError(f"{out} exists. Give another name, or overwrite it.")
    program = Path(f"{out}.py")
    own = program.is_file() and _MARK in program.read_bytes()
    if os.path.lexists(program) and not (overwrite and own):
        cure = "Give another name, or overwrite it." if own else "Give another name."
        raise OutputExistsError(f"{program} exists, where the program for {out.name} goes. {cure}")
    if not out.parent.is_dir():
        raise ExportError(f"{out.parent} is no folder: make it first")


def _last_layer(saved: SavedModel, folder: Path) -> LinearWeights:
    """From the backbone's features to logits."""
    card = saved.card
    if card.kind == "network":
        head = saved.model.head
        return LinearWeights(head.weight.detach().double().numpy(), head.bias.detach().double().numpy())
    folded = as_linear(saved.model)
    if folded is None:
        raise ExportError(
            f"{folder} holds a head {card.head}, whose probabilities are not those of a linear layer: it cannot be "
            f"exported. {FIT_ONE}"
        )
    return layer(folded, len(card.classes))


def _difference(found: NDArray[np.float32], expected: NDArray[np.float64], last: LinearWeights) -> float:
    """The largest of all logits, over the largest of those that depend on the picture; the others may be far off."""
    largest = np.abs(expected[:, last.learnt]).max(initial=np.finfo(np.float32).tiny)
    return float(np.abs(found - np.concatenate([expected[:1], expected])).max() / largest)


def _notes(saved: SavedModel, last: LinearWeights, format: Format) -> tuple[str, ...]:
    card = saved.card
    notes = []
    if card.tta:
        notes.append(f"the head's figures average {card.tta} augmented views of an image; the file takes the clean one")
    if card.kind == "head" and card.spec.precision != "fp32":
        notes.append(f"the head was fitted on features in {card.spec.precision}; the file computes in fp32")
    if card.spec.view.value_range:
        given = format_range(card.spec.view.value_range)
        notes.append(
            f"the program scales grey images of more than 8 bits by the range {given}, as featcache does; of 16-bit "
            "colours it takes the upper byte"
        )
    for name in np.array(card.classes)[~last.learnt]:
        notes.append(f"{name} has the same logit for every picture: train had nothing to tell it by")
    if format == "torch-export":
        notes.append(f"written by PyTorch {torch.__version__}; other versions may not read it")
    return tuple(notes)
