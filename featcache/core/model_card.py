"""`ModelCard`: the model.json of a saved model, which says what it is and how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from featcache._utils.environment import check_writable
from featcache._utils.files import write_file
from featcache._utils.formatting import json_safe
from featcache._utils.regular_files import read_json
from featcache.core.model_folder import CARD as FILE
from featcache.core.model_folder import REPORT as REPORT
from featcache.core.model_folder import commit
from featcache.core.specs import ExtractSpec
from featcache.errors import HeadError

_FORMAT = "featcache-model"
_VERSION = 1
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
    "unknown",
)  # of all files that we write into a model's folder
_LATER = {"thresholds": None, "tta": 0, "engine": ""}  # left out, so that versions that know none can read the others


@dataclass(frozen=True)
class ModelCard:
    """What a model folder holds.

    kind : "head", a classifier on features of a frozen backbone; "network", a network trained whole.
    file : the weights beside model.json. head : name of the head. spec : how its features are extracted.
    weights : where the backbone's weights come from: "pretrained", "none" or a path. layer : of the features.
    metrics : what it reached on val, see `Accuracy.to_dict`. multilabel : whether an image can have several classes.
    thresholds : the probability of each of several labels above which it is predicted; None is 0.5 for each.
    tta : augmented views of an image that its figures were averaged over, and by which it predicts.
    engine : what made the features that a head was fitted on, see `Backbone.select_engine`; "" where that is not known.
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
    thresholds: tuple[float, ...] | None = None
    tta: int = 0
    engine: str = ""

    def write(
        self, folder: Path, weights: bytes | None = None, others: Mapping[str, bytes | None] = MappingProxyType({})
    ) -> None:
        """Make this the model of a folder, all of it or nothing; see `modelfolder.commit`.

        Parameters
        ----------
        folder : Path
            The model's folder; it exists.
        weights : bytes, optional
            Content of the weights' file. None takes the file that is there, or that `modelfolder.staged` names.
        others : mapping of str to bytes or None
            Name and content of files beside it; None removes one.

        Raises
        ------
        OutputError
            A file cannot be written. The model that was there before is unchanged.
        """
        fields = {**asdict(self), "spec": self.spec.flat(), "digest": self.spec.digest()}
        for name, usual in (
            ("thresholds", None),
            ("tta", 0),
            ("engine", ""),
        ):  # versions that know none of them can read the others
            if fields[name] == usual:
                del fields[name]
        files = {**({} if weights is None else {self.file: weights}), **others}
        commit(folder, json_safe({"format": _FORMAT, "version": _VERSION, **fields}), files)

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
            fields = dict(read_json(path))
            if fields.pop("format") != _FORMAT or fields.pop("version") != _VERSION:
                raise HeadError(f"{path} is not a model of this version of featcache")
            fields.pop("sha256", None)  # of the files beside it, see `modelfolder.locate`
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
            if type(fields.get("tta", 0)) is not int or not 0 <= fields.get("tta", 0) <= spec.val_views:
                raise HeadError(f"{path} is damaged: its tta is {fields['tta']!r}")
            if not isinstance(fields.get("engine", ""), str):
                raise HeadError(f"{path} is damaged: its engine is {fields['engine']!r}")
            if "thresholds" in fields:
                fields["thresholds"] = _thresholds(path, fields)
            return cls(**{**fields, "spec": spec, "classes": tuple(fields["classes"])})
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            if isinstance(error, HeadError):
                raise
            raise HeadError(f"{path} is not a featcache model: {error}") from error


def _thresholds(path: Path, fields: Mapping[str, Any]) -> tuple[float, ...]:
    """Those of a card; raises HeadError where they are not a number from 0 up to 1 for each of several labels."""
    thresholds = fields["thresholds"]
    numbers = isinstance(thresholds, list) and all(
        type(value) in (int, float) and 0 <= value < 1 for value in thresholds
    )
    if not numbers or len(thresholds) != len(fields["classes"]) or not fields.get("multilabel", False):
        raise HeadError(f"{path} is damaged: its thresholds are {thresholds!r}")
    return tuple(map(float, thresholds))


def write_json(path: Path, value: Any) -> None:
    """Write JSON to a file, whole or not at all."""
    write_file(path, as_json(value))


def as_json(value: Any) -> bytes:
    """The bytes of a JSON file; numbers that JSON does not have become null."""
    return (json.dumps(json_safe(value), indent=1) + "\n").encode()


def prepare_folder(folder: Path, model: Literal["head", "run"]) -> None:
    """Make a folder for a fitted head or a fine-tuning run; refuse one that holds other things. Raises HeadError."""
    if folder.is_file():
        raise HeadError(f"{folder} is a file; give a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HeadError(f"{folder} cannot be made: {error.strerror} ({error.filename})") from error
    check_writable(folder / FILE)
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
        return "config" not in read_json(folder / REPORT)
    except FileNotFoundError:
        return False
    except (ValueError, TypeError):
        return True
