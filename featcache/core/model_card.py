"""`ModelCard`: model.json of a saved model, with all that is needed to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from featcache._utils.environment import check_writable
from featcache._utils.files import write_file
from featcache._utils.formatting import join_words, json_safe, split_names
from featcache._utils.regular_files import read_json
from featcache.core.layer_names import join_layer, join_layers
from featcache.core.model_folder import CARD as FILE
from featcache.core.model_folder import README, commit, is_edited
from featcache.core.model_folder import REPORT as REPORT
from featcache.core.specs import ExtractSpec
from featcache.errors import HeadError

_FORMAT = "featcache-model"
_VERSION = 1
CHECKPOINT = "last.pt"  # of fine-tuning
_FILES = {"head": ("head.safetensors", "head.skops"), "network": ("network.safetensors",)}
_STEMS = (
    "model",
    "head",
    "held-out",
    "network",
    "last",
    "run",
    "curves",
    "val",
    "test",
    "unknown",
    "README",
    "log",
    "tensorboard",
    "training-samples",
)  # first parts of all file names that featcache writes into a model folder
_LATER: dict[str, Any] = {"thresholds": None, "tta": 0, "engine": "", "self_training": None, "networks": []}
"""Fields that are left out if default, so that earlier versions can read the card."""


@dataclass(frozen=True)
class NetworkCard:
    """One of several networks whose features a head uses.

    name : of its cache, as in the names of the layers of the head. spec, weights, engine : see `ModelCard`. layer : as
    the cache names it.
    """

    name: str
    spec: ExtractSpec
    weights: str
    layer: str
    engine: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "spec": self.spec.flat(), "digest": self.spec.digest()}

    @classmethod
    def from_dict(cls, path: Path, fields: Any) -> NetworkCard:
        """The reverse of `to_dict`. Raises HeadError, KeyError, TypeError or ValueError. path : for messages."""
        fields = dict(fields)
        spec, digest = ExtractSpec.from_json(json.dumps(fields.pop("spec"))), fields.pop("digest")
        if spec.digest() != digest or not all(isinstance(value, str) for value in fields.values()):
            raise HeadError(f"{path} is damaged: the network {fields.get('name')!r} contradicts its digest")
        return cls(spec=spec, **fields)


@dataclass(frozen=True)
class ModelCard:
    """Description of a saved model.

    kind : "head", a classifier on features of a frozen backbone; "network", a fine-tuned network.
    file : name of the weights file. head : name of the head. spec : how the features are extracted.
    weights : source of the backbone's weights: "pretrained", "none" or a path. layer : of the features.
    metrics : results on val, see `Accuracy.to_dict`. multilabel : whether an image can have several labels.
    thresholds : with several labels, the probability above which each is predicted; None is 0.5 for each.
    tta : augmented views per image that are averaged with the clean view, in the metrics and in predictions.
    engine : engine that computed the features of the head, see `Backbone.select_engine`; "" if unknown.
    networks : of a head on several networks, in the order of its features; then `spec`, `weights` and `engine` are
    those of the first one, and the names of the layers begin with those of the networks, see `join_layer`.
    self_training : how the head learned from samples without a label, see `SelfTraining`; None if it did not.
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
    networks: tuple[NetworkCard, ...] = ()
    self_training: dict[str, Any] | None = None

    @property
    def own_layer(self) -> str:
        """The layers of the network of `spec`, as its cache names them."""
        return self.networks[0].layer if self.networks else self.layer

    @property
    def backbones(self) -> str:
        """The names of the networks, for people."""
        return join_words([network.spec.backbone for network in self.networks] or [self.spec.backbone])

    def write(
        self, folder: Path, weights: bytes | None = None, others: Mapping[str, bytes | None] = MappingProxyType({})
    ) -> None:
        """Write this card and its files into a folder, all or nothing; see `model_folder.commit`.

        Parameters
        ----------
        folder : Path
            An existing folder.
        weights : bytes, optional
            Content of the weights file. None uses the existing file, or the one at `model_folder.staged`.
        others : mapping of str to bytes or None
            Name -> content of other files; None removes a file.

        Raises
        ------
        OutputError
            A file cannot be written. The previous model is unchanged.
        """
        fields = {**asdict(self), "spec": self.spec.flat(), "digest": self.spec.digest()}
        fields["networks"] = [network.to_dict() for network in self.networks]
        for name, usual in _LATER.items():
            if fields[name] == usual:
                del fields[name]
        files = {**({} if weights is None else {self.file: weights}), **others}
        commit(folder, json_safe({"format": _FORMAT, "version": _VERSION, **fields}), files)

    @classmethod
    def read(cls, folder: Path) -> ModelCard:
        """Read model.json. Raises HeadError if the folder is not a valid model."""
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
            fields.pop("sha256", None)  # of the files beside it, see `model_folder.locate`
            digest = fields.pop("digest")
            spec = ExtractSpec.from_json(json.dumps(fields.pop("spec")))
            if spec.digest() != digest:
                raise HeadError(f"{path} is damaged: its spec does not have its digest")
            if fields["file"] not in _FILES[fields["kind"]]:  # reject paths to other folders
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
            if not isinstance(fields.get("self_training", {}), dict):
                raise HeadError(f"{path} is damaged: its self_training is {fields['self_training']!r}")
            if "thresholds" in fields:
                fields["thresholds"] = _thresholds(path, fields)
            if "networks" in fields:
                fields["networks"] = _networks(path, fields, spec)
            return cls(**{**fields, "spec": spec, "classes": tuple(fields["classes"])})
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            if isinstance(error, HeadError):
                raise
            raise HeadError(f"{path} is not a featcache model: {error}") from error


def _networks(path: Path, fields: Mapping[str, Any], spec: ExtractSpec) -> tuple[NetworkCard, ...]:
    """Check and return the networks. Raises HeadError."""
    networks = tuple(NetworkCard.from_dict(path, network) for network in fields["networks"])
    layers = [join_layer(network.name, layer) for network in networks for layer in split_names(network.layer)]
    if len(networks) < 2 or networks[0].spec != spec or join_layers(layers) != fields["layer"]:
        raise HeadError(f"{path} is damaged: its networks contradict its layers, {fields['layer']!r}")
    return networks


def _thresholds(path: Path, fields: Mapping[str, Any]) -> tuple[float, ...]:
    """Check and return the thresholds: one per label, at least 0 and below 1. Raises HeadError."""
    thresholds = fields["thresholds"]
    numbers = isinstance(thresholds, list) and all(
        type(value) in (int, float) and 0 <= value < 1 for value in thresholds
    )
    if not numbers or len(thresholds) != len(fields["classes"]) or not fields.get("multilabel", False):
        raise HeadError(f"{path} is damaged: its thresholds are {thresholds!r}")
    return tuple(map(float, thresholds))


def write_json(path: Path, value: Any) -> None:
    """Write JSON to a file atomically."""
    write_file(path, as_json(value))


def as_json(value: Any) -> bytes:
    """Encode as a JSON file; NaN and infinity become null."""
    return (json.dumps(json_safe(value), indent=1) + "\n").encode()


def prepare_folder(folder: Path, model: Literal["head", "run"]) -> None:
    """Create the folder of a head or a run. Raises HeadError for a folder with other files."""
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


def kept_readme(folder: Path) -> list[str]:
    """A note, if README.md of the folder was edited, so that a new model keeps it; else nothing.

    folder : any folder, before the model is saved.
    """
    if not is_edited(folder):
        return []
    return [
        f"{folder / README} was edited, so it is kept: it may describe an earlier model. For a new one, delete it "
        "and repeat the command."
    ]


def _is_head(folder: Path) -> bool:
    """Whether the folder is of `fit_head`: its report has no "config". A run that was killed early has no report."""
    try:
        return "config" not in read_json(folder / REPORT)
    except FileNotFoundError:
        return False
    except (ValueError, TypeError):
        return True
