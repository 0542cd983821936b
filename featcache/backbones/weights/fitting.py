"""`StateFitter`: loads candidates into a copy of a network that has no data, and reports what does not fit."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Size, Tensor, nn

from featcache.backbones.weights.candidates import Candidate
from featcache.backbones.weights.checkpoint import with_metadata
from featcache.errors import first_line

Convert = Callable[[OrderedDict[str, Tensor]], Mapping[str, Tensor]]
"""A library's conversion of the names and shapes of older or foreign files."""

_TRAINING_ONLY = ("mask_token", "n_averaged", "queue", "queue_ptr", "decoder_pos_embed")
"""Tensors that exist beside a network while it is trained."""

_AUXILIARY = ("AuxLogits", "aux1", "aux2")
"""Classifiers that Inception and GoogLeNet use in training only."""


@dataclass(frozen=True)
class AdaptedState:
    """A state dict by the names of a network, with the file's classifier. note : how it was changed, one line or ""."""

    state: OrderedDict[str, Tensor]
    note: str


@dataclass(frozen=True)
class FitResult:
    """How a candidate fits a network.

    Attributes
    ----------
    adapted : the candidate by the names of the network.
    changes : how its names were changed.
    needed : number of tensors that the network needs.
    missing, unknown : names. mismatched : a text for each tensor of another shape.
    error : why the network's `load_state_dict` failed; "" if it did not.
    """

    adapted: AdaptedState
    changes: str
    needed: int
    missing: list[str]
    unknown: list[str]
    mismatched: list[str]
    error: str

    @property
    def fits(self) -> bool:
        """Whether the network can use it."""
        return not (self.missing or self.unknown or self.mismatched or self.error)

    @property
    def n_lacking(self) -> int:
        """Number of the network's tensors that it does not provide."""
        return len(self.missing) + len(self.mismatched) + (self.needed if self.error else 0)


class StateFitter:
    """Tries candidates on a copy of a network that has no data.

    Parameters
    ----------
    network : with its classifiers.
    classifiers : names of the last layers, which need no weights.
    """

    def __init__(self, network: nn.Module, classifiers: Sequence[str]) -> None:
        state = network.state_dict()
        self.unused = _prefixes_of_unused(classifiers)
        self.metadata = state._metadata  # type: ignore[attr-defined]
        self.shapes = {name: value.shape for name, value in state.items()}
        self.needed = {name: shape for name, shape in self.shapes.items() if not name.startswith(self.unused)}
        self._network = _without_data(network)
        self._empty_state = self._network.state_dict()
        buffers = (name for name, _ in network.named_buffers() if not name.endswith("num_batches_tracked"))
        self.buffers = {name for name in buffers if name in self.needed}
        self.parts = [name for name, _ in network.named_children()]
        self._heads = {name.split(".")[0] for name in self.unused}
        self._roots = {name.split(".")[0] for name in self.needed}

    def fit(self, candidate: Candidate, library: str, convert: Convert | None) -> FitResult | None:
        """How a candidate fits, after the conversion of a library; None if that changes nothing or fails."""
        state = candidate.inside
        if convert:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    state = with_metadata(convert(OrderedDict(state)), None)
            except Exception:  # it expects other names
                return None
            if _shapes(state) == _shapes(candidate.inside):
                return None
        metadata = getattr(state, "_metadata", None)
        result = self._load(candidate, state, metadata, library)
        if metadata is None and not result.fits:  # as of a file without versions, such as safetensors
            retried = self._load(candidate, with_metadata(state, self.metadata), self.metadata, library)
            result = retried if retried.fits else result
        return result

    def matching_tensors(self, candidate: Candidate) -> set[int]:
        """Ids of the tensors with names and shapes of the network."""
        items = candidate.inside.items()
        return {id(value) for name, value in items if self.needed.get(name) == value.shape}

    def unusable_kind(self, name: str, value: Tensor) -> str:
        """What a needed tensor is instead of dense floating point numbers; "" for a usable one."""
        if name not in self.needed:
            return ""
        if value.is_meta:
            return "without data (on the device meta)"
        if value.is_quantized or value.layout != torch.strided:
            return "quantized" if value.is_quantized else "sparse"
        is_integer = self._empty_state[name].is_floating_point() and not value.is_floating_point()
        return f"whole numbers ({str(value.dtype).removeprefix('torch.')})" if is_integer else ""

    def _load(self, candidate: Candidate, state: OrderedDict[str, Tensor], metadata: Any, library: str) -> FitResult:
        used = {name: value for name, value in state.items() if not name.startswith(self.unused)}
        names, error = self._try(used, metadata)
        mismatched: list[str] = []
        if names is None:
            mismatched = sorted(name for name in used if self.shapes.get(name, used[name].shape) != used[name].shape)
            fitting = {name: value for name, value in used.items() if name not in mismatched}
            filled = {**{name: self._empty_state[name] for name in mismatched}, **fitting}
            names, error = self._try(filled, metadata) if mismatched else (None, error)
        missing, unexpected = names or ([], [])
        ignored = [name for name in unexpected if self._may_be_ignored(name)]
        classifiers = [name for name in state if name.startswith(self.unused) and name not in self.shapes]
        left_out = [*candidate.outside, *ignored, *classifiers]
        changes = _describe_changes(candidate, state, library)
        omission = (
            f"left out {len(left_out)} tensors that are not part of this network (for example {left_out[0]})"
            if left_out
            else ""
        )
        remaining = OrderedDict((name, value) for name, value in state.items() if name not in set(ignored))
        return FitResult(
            AdaptedState(with_metadata(remaining, metadata), ", ".join(filter(None, [changes, omission]))),
            changes,
            len(self.needed),
            sorted(missing),
            sorted(set(unexpected) - set(ignored)),
            [f"{name} is {tuple(used[name].shape)}, expected {tuple(self.shapes[name])}" for name in mismatched],
            error,
        )

    def _try(self, used: Mapping[str, Tensor], metadata: Any) -> tuple[tuple[list[str], list[str]] | None, str]:
        """Missing and unexpected names after the conversions of the network's modules, or why loading fails."""
        unused = {name: self._empty_state[name] for name in self._empty_state if name.startswith(self.unused)}
        network = copy.deepcopy(self._network)  # loading an old MNASNet changes the network
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                state = with_metadata({**unused, **used}, metadata)
                keys = network.load_state_dict(state, strict=False, assign=True)
        except Exception as error:  # modules raise any type
            return None, _reason(error)
        return (list(keys.missing_keys), list(keys.unexpected_keys)), ""

    def _may_be_ignored(self, name: str) -> bool:
        """Whether a tensor belongs to a head, or to a module that the network does not have."""
        root, dot, _ = name.partition(".")
        if not dot:
            return name in _TRAINING_ONLY
        return root not in self._roots and (root not in self.parts or root in self._heads)


def load_adapted(network: nn.Module, adapted: AdaptedState, classifiers: Sequence[str]) -> None:
    """Load a state dict into a network, whose classifiers keep their weights."""
    unused = _prefixes_of_unused(classifiers)
    unchanged = {name: value for name, value in network.state_dict().items() if name.startswith(unused)}
    used = {name: value for name, value in adapted.state.items() if not name.startswith(unused)}
    state = with_metadata({**unchanged, **used}, getattr(adapted.state, "_metadata", None))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network.load_state_dict(state, strict=False)


def _prefixes_of_unused(classifiers: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{name}." for name in (*classifiers, *_AUXILIARY))


def _without_data(network: nn.Module) -> nn.Module:
    """A copy on the device "meta", whose tensors have only shapes."""
    memo: dict[int, Any] = {}
    for tensor in chain(network.parameters(), network.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if is_parameter else empty
    return copy.deepcopy(network, memo)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Size]:
    return {name: value.shape for name, value in state.items()}


def _describe_changes(candidate: Candidate, state: Mapping[str, Tensor], library: str) -> str:
    """How names and shapes of a candidate were changed."""
    before, changes = candidate.inside, [candidate.changes] if candidate.changes else []
    if candidate.prefix:
        changes.append(f"stripped the prefix {candidate.prefix}")
    if library and state.keys() != before.keys():
        changes.append(f"converted names as {library} does")
    resized = [name for name in state if name in before and state[name].shape != before[name].shape]
    if state.keys() != before.keys():  # a name may now belong to another tensor
        resized = [name for name in resized if any(part in name for part in ("pos", "relative", "patch_embed"))]
    if resized:
        name = resized[0]
        more = f" and {len(resized) - 1} more" if len(resized) > 1 else ""
        shapes = f"{tuple(before[name].shape)} to {tuple(state[name].shape)}"
        changes.append(f"interpolated {name} from {shapes}{more} as {library} does")
    return ", ".join(changes)


def _reason(error: Exception) -> str:
    """The first line of an error that gives a reason: torch's own begins with the class of the network."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else first_line(error)
