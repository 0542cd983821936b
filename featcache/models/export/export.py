"""`export`: write a saved model as a file that needs no featcache, and check that file in a fresh process."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.environment import check_packages
from featcache._utils.files import atomic_write, draft_folder, move
from featcache._utils.formatting import human_bytes, indefinite
from featcache._utils.locks import lock_folder
from featcache._utils.results import NotebookResult, Result
from featcache._utils.telemetry import decline_usage_data
from featcache.core.model_card import ModelCard
from featcache.errors import ExportError, OutputError, OutputExistsError
from featcache.heads.linear_layer import LinearWeights, as_linear, layer
from featcache.heads.registry import fit_a_linear_head
from featcache.models.export.inputs.registry import input_of
from featcache.models.export.parity import check_folder, run_example
from featcache.models.export.program import MARK, with_imports
from featcache.models.export.registry import EXPORT_FORMATS
from featcache.models.load import SavedModel, open_model

MAX_DIFFERENCE = 1e-4
"""How far the logits of the exported model may be from featcache's, as a fraction of the largest logit."""


@dataclass(frozen=True, repr=False)
class Exported(Result, NotebookResult):
    """What `export` returns: an exported file.

    Attributes
    ----------
    path : Path
        The exported file.
    program : Path
        A program in the same folder, which reads samples and prints their classes without featcache.
    format : str
        The name of the format.
    size_bytes : int
        The size of the exported file.
    difference : float
        The largest difference between the logits of that program, run in a fresh process, and featcache's, as a
        fraction of the largest logit.
    snippet : str
        The text of the program.
    notes : tuple of str
        Notes for the user, a line each.
    sample : str
        An argument of the program, such as "photo.jpg".
    """

    path: Path
    program: Path
    format: str
    size_bytes: int
    difference: float
    snippet: str
    notes: tuple[str, ...]
    sample: str = "photo.jpg"

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.format}, {human_bytes(self.size_bytes)}",
            f"in a fresh process without featcache its logits differ by {self.difference:.1e} of the largest",
            *self.notes,
        ]
        command = f"python {shlex.quote(str(self.program))} {self.sample}"
        return "\n".join([*lines, f"the program that was run there: {command}"])

    def _json_fields(self) -> dict[str, Any]:
        fields = super()._json_fields()
        del fields["sample"]
        return fields


def export(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    format: str,
    *,
    weights: str | None = None,
    backbone: Any = None,
    overwrite: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> Exported:
    """Write a saved model as a file for PyTorch or ONNX Runtime, which computes in fp32 and needs no featcache.

    The program OUT.py is written beside the file. It reads photos or texts, prepares them as for training and prints
    their classes, without featcache; for texts the tokenizer is beside it, too. The program is run in a fresh process
    first, on images of noise or on a few texts. The export fails
    unless its logits are those of the saved model.

    Parameters
    ----------
    model : path
        A folder that `fit_head` or `finetune` wrote.
    out : path
        The file to write.
    format : str
        "state-dict" (weights for the plain network of torchvision or timm, with its last layer replaced), "onnx" or
        "torch-export" (graphs from pixels, shape (b, s, s, 3), uint8, or from token ids, shape (b, t), int64, and their
        numbers, shape (b,), to logits and probabilities, shape (b, c)), or
        a format that another package adds with an entry point in the group `featcache.exports`.
    weights : str, optional
        Where the backbone's weights are now, if they were moved.
    backbone : Backbone or torch.nn.Module, optional
        The network, if it is your own, see `Classifier.load`. It can be exported as a graph only.
    overwrite : bool
        Replace `out` if it exists. Default: False.
    on_step : Callable[[str], None]
        Called with the name of each step when it begins.

    Returns
    -------
    Exported

    Raises
    ------
    ExportError
        There is no such format, it cannot hold the model, or the file gives other logits. Nothing is written then.
    OutputExistsError
        `out` exists.
    MissingExtraError
        A package of the format is not installed.
    HeadError, BackboneError
        The model cannot be loaded, see `Classifier.load`.

    Examples
    --------
    Fit a head on features of a network with random weights, and export both as weights for the plain network of timm.

    >>> from featcache import export, extract, fit_head
    >>> cache = extract("photos", "photos.h5", backbone="timm/test_resnet", weights="none", image_size=32, views=0)
    >>> fitted = fit_head("photos.h5", "head", head="ridge")
    >>> exported = export("head", "model.pth", "state-dict")
    >>> str(exported.program)
    'model.pth.py'
    """
    out, program = Path(out), Path(f"{os.fspath(out)}.py")
    export_format = EXPORT_FORMATS.get(format)
    check_packages(f"the export format {format}", export_format.packages, export_format.extra)
    _check_target(out, program, overwrite)
    decline_usage_data()
    on_step(f"loading {model}")
    saved = open_model(model, weights=weights, device="cpu", precision="fp32", backbone=backbone)
    model_input, last = input_of(saved.card), _last_layer(saved, Path(model))
    for companion in model_input.companions(out):
        if os.path.lexists(companion) and not overwrite:
            raise OutputExistsError(f"{companion} exists. Give {out} another name, or overwrite it.")
    with draft_folder(out) as folder:
        draft = folder / out.name
        on_step(f"writing {format}")
        try:
            code = export_format.write(saved, last, draft)
            code = replace(code, imports=with_imports(code.imports, model_input.imports))
            text = model_input.program(saved, out.name, code)
            model_input.write_companions(saved, draft)
            on_step("running it in a fresh process")
            check = model_input.check(saved, check_folder(draft))
            expected = check.features @ last.weight.T + last.bias
            logits = run_example(text, draft, check.arguments)
        except OSError as error:
            raise OutputError.from_os_error(error, out) from error
        difference = _difference(logits, expected, last)
        if not difference <= MAX_DIFFERENCE:
            raise ExportError(
                f"{model} as {format} gives other logits in a fresh process: they differ by {difference:.1e} of the "
                f"largest, at most {MAX_DIFFERENCE:.0e} is allowed. Nothing was written. Use another format."
            )
        size = draft.stat().st_size
        # Under the lock, two exports at once cannot mix their files. Both are on the disk before either is renamed.
        with lock_folder(out.parent), atomic_write(program) as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
            for companion, target in zip(model_input.companions(draft), model_input.companions(out), strict=True):
                move(companion, target)
            move(draft, out)
    notes = (*_notes(saved.card, last), *model_input.notes(saved.card), *export_format.notes())
    return Exported(out, program, format, size, difference, text, notes, model_input.sample)


def _check_target(out: Path, program: Path, overwrite: bool) -> None:
    """Raise before the work begins if the files could not be written."""
    if os.path.lexists(out) and not overwrite:
        raise OutputExistsError(f"{out} exists. Give another name, or overwrite it.")
    is_exported = program.is_file() and MARK.encode() in program.read_bytes()
    if os.path.lexists(program) and not (overwrite and is_exported):
        remedy = "Give another name, or overwrite it." if is_exported else "Give another name."
        raise OutputExistsError(f"{program} exists, where the program for {out.name} goes. {remedy}")
    if not out.parent.is_dir():
        raise ExportError(f"{out.parent} is not a folder. Create it first.")


def _last_layer(saved: SavedModel, folder: Path) -> LinearWeights:
    """From the backbone's features to logits."""
    card = saved.card
    if card.kind == "network":
        head = saved.model.head
        return LinearWeights(head.weight.detach().double().numpy(), head.bias.detach().double().numpy())
    linear = as_linear(saved.model)
    if linear is None:
        raise ExportError(
            f"{folder} holds a head {card.head}, whose probabilities are not those of a linear layer: it cannot be "
            f"exported. {fit_a_linear_head()}"
        )
    return layer(linear, len(card.classes))


def _difference(logits: NDArray[np.float32], expected: NDArray[np.float64], last: LinearWeights) -> float:
    """The largest difference of all logits, over the largest logit that depends on the image: constant ones are huge.

    logits : of the first image, and then of all images, shape (1 + b, c). expected : of all images, shape (b, c).
    """
    largest = np.abs(expected[:, last.depends_on_input]).max(initial=np.finfo(np.float32).tiny)
    return float(np.abs(logits - np.concatenate([expected[:1], expected])).max() / largest)


def _notes(card: ModelCard, last: LinearWeights) -> list[str]:
    notes = []
    if card.tta:
        notes.append(
            f"the head's metrics average {card.tta} augmented views of {indefinite(card.spec.modality)} with the clean "
            "view; the file uses the clean view only"
        )
    if card.kind == "head" and card.spec.precision != "fp32":
        notes.append(f"the head was fitted on features in {card.spec.precision}; the file computes in fp32")
    for name in np.array(card.classes)[~last.depends_on_input]:
        notes.append(
            f"{name} has the same logit for every {card.spec.modality}: the training data cannot tell it from the "
            "others"
        )
    return notes
