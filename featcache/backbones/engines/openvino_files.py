"""Conversions of networks to OpenVINO: how they are made, and their files in the user's cache folder."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from featcache._utils.files import draft_folder
from featcache._utils.locks import lock_folder
from featcache._utils.telemetry import import_openvino
from featcache.errors import first_line

if TYPE_CHECKING:
    from torch import Tensor, nn


def convert(network: nn.Module, example: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> Any:
    """Convert with the frontend: `openvino.convert_model` would send usage data.

    Parameters
    ----------
    example : inputs for the trace, each with two items or more.
    shapes : of the inputs; -1 is any size.

    Raises
    ------
    RuntimeError : the network cannot be converted.
    """
    import_openvino()
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch.jit.trace: it is deprecated, and the trace has constants
            decoder = TorchScriptPythonDecoder(network, example_input=tuple(example))  # must outlive the conversion
            model = frontend.convert(frontend.load(decoder))
        model.reshape({number: list(shape) for number, shape in enumerate(shapes)})
    except Exception as error:  # tracing and converting raise any type
        raise RuntimeError(first_line(error)) from error
    return model


def read(core: Any, path: Path | None) -> Any:
    """A cached conversion; None if there is no valid one."""
    if path is None:
        return None
    with lock_folder(path.parent, shared=True):  # `save` of another process replaces three files
        return core.read_model(path) if is_valid(path) else None


@contextmanager
def draft(model: Any, path: Path | None) -> Iterator[Path | None]:
    """The model in a temporary folder beside `path`; None if nothing can be written there."""
    with ExitStack() as stack:
        try:
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                folder = stack.enter_context(draft_folder(path))
            else:
                folder = Path(stack.enter_context(TemporaryDirectory(ignore_cleanup_errors=True)))
            file = folder / "network.xml"
            import_openvino().save_model(model, file, compress_to_fp16=False)
        except (OSError, RuntimeError):
            file = None
        yield file


def save(file: Path, path: Path) -> None:
    """Move a draft to its path, the hash last. If the folder cannot be written, the next run converts again."""
    graph, weights, digest = files(file)
    with suppress(OSError):
        digest.write_text(hash_of(graph, weights), encoding="ascii")
        with lock_folder(path.parent):
            for part, target in zip((graph, weights, digest), files(path), strict=True):
                part.replace(target)


def files(path: Path) -> tuple[Path, Path, Path]:
    """Files of graph, weights, and the hash of both, which is written last."""
    return path, path.with_suffix(".bin"), path.with_suffix(".sha256")


def hash_of(graph: Path, weights: Path) -> str:
    """The content of the third file."""
    digests = []
    for part in (graph, weights):
        with part.open("rb") as raw:
            digests.append(hashlib.file_digest(raw, "sha256").hexdigest())
    return " ".join(digests)


def is_valid(path: Path) -> bool:
    """Whether a conversion exists and has its hash."""
    graph, weights, digest = files(path)
    try:
        return digest.read_text(encoding="ascii") == hash_of(graph, weights)
    except (OSError, ValueError):
        return False
