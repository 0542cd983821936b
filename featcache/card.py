"""`ModelCard`: the model.json of a saved model, which says what it is and how to load it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from featcache.atomic import atomic_write, write_file
from featcache.errors import HeadError
from featcache.report import finite
from featcache.spec import ExtractSpec

_FORMAT = "featcache-model"
_VERSION = 1
FILE = "model.json"
REPORT = "run.json"
CHECKPOINT = "last.pt"  # of fine-tuning
_FILES = {"head": ("head.safetensors", "head.skops"), "network": ("network.safetensors",)}
_STEMS = (
    "model",
    "head",
    "network",
    "last",
    "run",
    "curves",
    "val",
    "test",
)  # of all files that we write into a model's folder


@dataclass(frozen=True)
class ModelCard:
    """What a model folder holds.

    kind : "head", a classifier on features of a frozen backbone; "network", a network trained whole.
    file : the weights beside model.json. head : name of the head. spec : how its features are extracted.
    weights : where the backbone's weights come from: "pretrained", "none" or a path. layer : of the features.
    metrics : what it reached on val, see `Accuracy.to_dict`. multilabel : whether an image can have several classes.
    """

    kind: Literal["head", "network"]
    file: str
    head: str
    classes: tuple[str, ...]
    spec: ExtractSpec
    weights: str
    layer: str
    metrics: dict[str, Any]
    multilabel: bool = False

    def write(self, folder: Path, weights: bytes | None = None) -> None:
        """Write the weights' file, if its bytes are given, and model.json, each whole or not at all.

        Both are drafts before either takes its name: on a full disk the model of before is still there, and whole.
        """
        fields = {**asdict(self), "spec": self.spec.flat(), "digest": self.spec.digest()}
        with atomic_write(folder / FILE) as card:
            card.write(_json({"format": _FORMAT, "version": _VERSION, **fields}))
            card.flush()
            if weights is not None:
                with atomic_write(folder / self.file) as file:
                    file.write(weights)
                    file.flush()
                    (folder / FILE).unlink(missing_ok=True)  # a kill must not leave new weights under an old card

    @classmethod
    def read(cls, folder: Path) -> ModelCard:
        """Read model.json. Raises HeadError where the folder is no model."""
        path = folder / FILE
        if not path.is_file():
            raise HeadError(
                f"{folder} is not a saved model: it has no {FILE}. Give the folder that "
                "`featcache fit-head -o` or `featcache finetune -o` wrote."
            )
        try:
            fields = dict(json.loads(path.read_text(encoding="utf-8")))
            if fields.pop("format") != _FORMAT or fields.pop("version") != _VERSION:
                raise HeadError(f"{path} is not a model of this version of featcache")
            digest = fields.pop("digest")
            spec = ExtractSpec.from_json(json.dumps(fields.pop("spec")))
            if spec.digest() != digest:
                raise HeadError(f"{path} is damaged: its spec does not have its digest")
            if fields["file"] not in _FILES[fields["kind"]]:  # a path could lead anywhere
                raise HeadError(f"{path} names a file outside its folder: {fields['file']}")
            kinds = {"head": str, "weights": str, "layer": str, "classes": list, "metrics": dict}
            for name, kind in kinds.items():
                if not isinstance(fields[name], kind):
                    raise HeadError(f"{path} is damaged: its {name} is {fields[name]!r}")
            if len(fields["classes"]) < 2 or not all(isinstance(name, str) for name in fields["classes"]):
                raise HeadError(f"{path} is damaged: its classes are {fields['classes']!r}")
            if not isinstance(fields.get("multilabel", False), bool):
                raise HeadError(f"{path} is damaged: its multilabel is {fields['multilabel']!r}")
            return cls(**{**fields, "spec": spec, "classes": tuple(fields["classes"])})
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            if isinstance(error, HeadError):
                raise
            raise HeadError(f"{path} is not a featcache model: {error}") from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON to a file, whole or not at all."""
    write_file(path, _json(value))


def _json(value: Any) -> bytes:
    return (json.dumps(finite(value), indent=1) + "\n").encode()


def prepare_folder(folder: Path, model: Literal["head", "run"]) -> None:
    """Make a folder for a fitted head or a fine-tuning run; refuse one that holds other things. Raises HeadError."""
    if folder.is_file():
        raise HeadError(f"{folder} is a file; give a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HeadError(f"{folder} cannot be made: {error.strerror} ({error.filename})") from error
    foreign = any(path.name.split(".")[0] not in _STEMS for path in folder.iterdir())
    if foreign and not (folder / FILE).exists():
        raise HeadError(f"{folder} holds other files and no {FILE}. Give an empty or a new folder.")
    run = (folder / CHECKPOINT).exists()
    if model == "head" and run:
        raise HeadError(f"{folder} holds a fine-tuned run. Give another folder.")
    if model == "run" and not run and _is_head(folder):
        raise HeadError(f"{folder} holds a fitted head. Give another folder.")


def _is_head(folder: Path) -> bool:
    """Whether `fit_head` wrote here; a run's report has a config, and a run killed early has no report."""
    try:
        return "config" not in json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except ValueError:
        return True
