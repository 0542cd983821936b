"""`adapt`: the names in a checkpoint, made those of a network, or the nearest reason why they are not."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Size, Tensor, nn

from featcache.backbones.weights.checkpoint import StateDict, with_metadata
from featcache.backbones.weights.key_names import preference, rename_keys
from featcache.errors import BackboneError, first_line

Convert = Callable[[OrderedDict[str, Tensor]], Mapping[str, Tensor]]
"""A library's own conversion of the names and shapes of older or foreign files."""

_TRAINING_ONLY = ("mask_token", "n_averaged", "queue", "queue_ptr", "decoder_pos_embed")
"""Tensors that stand beside a network while it is trained, and are no part of it."""

_AUXILIARY = ("AuxLogits", "aux1", "aux2")
"""Classifiers that Inception and GoogLeNet have for training alone."""

_TRIED = 6  # prefixes


@dataclass(frozen=True)
class Adapted:
    """A state dict by the names of a network.

    state : of the file, its classifier too. note : what was done to it, one line; "" where it is as it should be.
    """

    state: OrderedDict[str, Tensor]
    note: str


@dataclass(frozen=True)
class _Attempt:
    """How a state dict fits. done : names changed before; missing, surplus : names; wrong : tensors of other shapes."""

    adapted: Adapted
    done: str
    needed: int
    missing: list[str]
    surplus: list[str]
    wrong: list[str]
    error: str

    @property
    def fits(self) -> bool:
        return not (self.missing or self.surplus or self.wrong or self.error)

    @property
    def lacks(self) -> int:
        return len(self.missing) + len(self.wrong) + (self.needed if self.error else 0)


def adapt(
    network: nn.Module,
    states: Sequence[StateDict],
    classifiers: Sequence[str],
    source: object,
    *,
    key: str | None = None,
    conversions: Mapping[str, Convert] | None = None,
) -> Adapted:
    """The first state dict that fits a network, under its names.

    A prefix is stripped where what it leads to fits. Left out is what lies outside of it, below the classifiers, and
    in modules that the network does not have. Whether it fits is for the network's own `load_state_dict` to decide.

    Parameters
    ----------
    states : of the file, in the order in which they are tried.
    classifiers : names of the last layers, which featcache replaces: there the file may have anything.
    source : where the weights come from, for the message.
    key : which of the state dicts to take, by its key or by the prefix of its names.
    conversions : of the library that built the network, by its name: tried where a state dict does not fit as it is.

    Raises
    ------
    BackboneError : none fits, or the one that does holds NaN, or tensors that are sparse, quantized or without data.
    """
    fitter = _Fitter(network, classifiers)
    candidates = list(_candidates(fitter, _chosen(states, key, source), key))
    beside = next((state.beside for state in states if state.beside), "")
    nearest: _Attempt | None = None
    for candidate in candidates:
        for library, convert in [("", None), *(conversions or {}).items()]:
            attempt = fitter.attempt(candidate, library, convert)
            if attempt is None:
                continue
            if attempt.fits:
                _refuse_not_plain(attempt.adapted.state, fitter, source)
                _refuse_nan(attempt.adapted.state, fitter, source)
                notes = [
                    _note(attempt.adapted.note, candidate, candidates, fitter, key),
                    beside and f"{beside} are not read",
                ]
                return Adapted(attempt.adapted.state, "; ".join(filter(None, notes)))
            if nearest is None or (attempt.lacks, len(attempt.surplus)) < (nearest.lacks, len(nearest.surplus)):
                nearest = attempt
    assert nearest is not None  # each state dict is tried as it is
    _refuse_not_plain(max(candidates, key=lambda candidate: candidate.matches).inside, fitter, source)
    unread = f"; the file also holds {beside}, which are not read" if beside else ""
    raise BackboneError(_refusal(nearest, fitter, source, unread))


@dataclass(frozen=True)
class _Candidate:
    """A state dict behind a prefix. done : how its names were changed before. origin : the prefix in the file itself.
    matches : how many tensors have the names and shapes of the network's.
    """

    key: str
    done: str
    prefix: str
    origin: str
    inside: OrderedDict[str, Tensor]
    outside: list[str]
    matches: int


class _Fitter:
    """Tries state dicts on a copy of a network that has no data."""

    def __init__(self, network: nn.Module, classifiers: Sequence[str]) -> None:
        own = network.state_dict()
        self.unused = tuple(f"{name}." for name in (*classifiers, *_AUXILIARY))
        self.metadata = own._metadata  # type: ignore[attr-defined]
        self.shapes = {name: value.shape for name, value in own.items()}
        self.needed = {name: shape for name, shape in self.shapes.items() if not name.startswith(self.unused)}
        self._network = _without_data(network)
        self._own = self._network.state_dict()
        buffers = (name for name, _ in network.named_buffers() if not name.endswith("num_batches_tracked"))
        self.buffers = {name for name in buffers if name in self.needed}
        self.parts = [name for name, _ in network.named_children()]
        self._heads = {name.split(".")[0] for name in self.unused}
        self._roots = {name.split(".")[0] for name in self.needed}

    def attempt(self, candidate: _Candidate, library: str, convert: Convert | None) -> _Attempt | None:
        """How a candidate fits, as it is or converted; None where the conversion does nothing or fails."""
        named = candidate.inside
        if convert:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    named = with_metadata(convert(OrderedDict(named)), None)
            except Exception:  # it expects other names
                return None
            if _shapes(named) == _shapes(candidate.inside):
                return None
        metadata = getattr(named, "_metadata", None)
        attempt = self._load(candidate, named, metadata, library)
        if metadata is None and not attempt.fits:  # as of a file that keeps no versions, such as safetensors
            again = self._load(candidate, with_metadata(named, self.metadata), self.metadata, library)
            attempt = again if again.fits else attempt
        return attempt

    def _load(self, candidate: _Candidate, named: OrderedDict[str, Tensor], metadata: Any, library: str) -> _Attempt:
        used = {name: value for name, value in named.items() if not name.startswith(self.unused)}
        result, error = self._try(used, metadata)
        wrong: list[str] = []
        if result is None:
            wrong = sorted(name for name in used if self.shapes.get(name, used[name].shape) != used[name].shape)
            fitting = {name: value for name, value in used.items() if name not in wrong}
            filled = {**{name: self._own[name] for name in wrong}, **fitting}
            result, error = self._try(filled, metadata) if wrong else (None, error)
        missing, unexpected = result or ([], [])
        left = [name for name in unexpected if self._may_be_left_out(name)]
        dropped = [name for name in named if name.startswith(self.unused) and name not in self.shapes]
        left_out = [*candidate.outside, *left, *dropped]
        done = _what_was_done(candidate, named, library)
        more = (
            f"left out {len(left_out)} tensors that are no part of this network (for example {left_out[0]})"
            if left_out
            else ""
        )
        kept = OrderedDict((name, value) for name, value in named.items() if name not in set(left))
        return _Attempt(
            Adapted(with_metadata(kept, metadata), ", ".join(filter(None, [done, more]))),
            done,
            len(self.needed),
            sorted(missing),
            sorted(set(unexpected) - set(left)),
            [f"{name} is {tuple(used[name].shape)}, expected {tuple(self.shapes[name])}" for name in wrong],
            error,
        )

    def _try(self, used: Mapping[str, Tensor], metadata: Any) -> tuple[tuple[list[str], list[str]] | None, str]:
        """Names that are missing and unexpected after the modules' own conversions, or why loading fails."""
        unused = {name: self._own[name] for name in self._own if name.startswith(self.unused)}
        network = copy.deepcopy(self._network)  # loading an old MNASNet changes the network
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                state = with_metadata({**unused, **used}, metadata)
                found = network.load_state_dict(state, strict=False, assign=True)
        except Exception as error:  # modules raise whatever they like
            return None, _reason(error)
        return (list(found.missing_keys), list(found.unexpected_keys)), ""

    def used(self, candidate: _Candidate) -> set[int]:
        """Which tensors have the names and shapes of the network's."""
        inside = candidate.inside.items()
        return {id(value) for name, value in inside if self.needed.get(name) == value.shape}

    def kind(self, name: str, value: Tensor) -> str:
        """What a tensor of the network is instead of a dense one with data; "" where it is as it should be."""
        if name not in self.needed:
            return ""
        if value.is_meta:
            return "without data (on the device meta)"
        if value.is_quantized or value.layout != torch.strided:
            return "quantized" if value.is_quantized else "sparse"
        whole = self._own[name].is_floating_point() and not value.is_floating_point()
        return f"whole numbers ({str(value.dtype).removeprefix('torch.')})" if whole else ""

    def _may_be_left_out(self, name: str) -> bool:
        """Whether a tensor is of a head, or of a module that the network does not have."""
        root, dot, _ = name.partition(".")
        if not dot:
            return name in _TRAINING_ONLY
        return root not in self._roots and (root not in self.parts or root in self._heads)


def load_adapted(network: nn.Module, adapted: Adapted, classifiers: Sequence[str]) -> None:
    """Load it into the network itself, whose classifiers stay as they are."""
    unused = tuple(f"{name}." for name in (*classifiers, *_AUXILIARY))
    own = {name: value for name, value in network.state_dict().items() if name.startswith(unused)}
    used = {name: value for name, value in adapted.state.items() if not name.startswith(unused)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network.load_state_dict(with_metadata({**own, **used}, getattr(adapted.state, "_metadata", None)), strict=False)


def _without_data(network: nn.Module) -> nn.Module:
    """A copy on the device "meta", whose tensors have shapes alone."""
    memo: dict[int, Any] = {}
    for tensor in chain(network.parameters(), network.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if is_parameter else empty
    return copy.deepcopy(network, memo)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Size]:
    return {name: value.shape for name, value in state.items()}


def _chosen(states: Sequence[StateDict], key: str | None, source: object) -> Sequence[StateDict]:
    """Those that a key names, or all of them where it can be but a prefix. Raises BackboneError."""
    if key is None:
        return states
    named = [state for state in states if state.key == key] or [
        state for state in states if any(name.startswith(f"{key}.") for name in state.tensors)
    ]
    if not named:
        keys = {state.key for state in states if state.key}
        keys |= {name.split(".")[0] for state in states for name in state.tensors if "." in name}
        raise BackboneError(f"{source} has no weights under {key!r}; there are {', '.join(sorted(keys)[:12])}")
    return named


def _candidates(fitter: _Fitter, states: Sequence[StateDict], key: str | None) -> Iterator[_Candidate]:
    """State dicts as they are, and behind the prefixes that lead to most of the network's names."""
    for state in states:
        counts = _matches(state.tensors, fitter.needed)
        yield from _behind_prefixes(state.key, state.tensors, counts, None if key == state.key else key)
        tensors, outside, before = state.tensors, [], ""
        if key is not None and key != state.key:  # it is a prefix
            before = f"{key}."
            tensors = _inside(state.tensors, before)
            outside = [name for name in state.tensors if not name.startswith(before)]
            counts = _matches(tensors, fitter.needed)
        for other in rename_keys(tensors, fitter.needed, fitter.parts, max(counts.values())):
            done = f"stripped the prefix {before}, {other.done}" if before else other.done
            for found in _behind_prefixes(state.key, other.state, _matches(other.state, fitter.needed), None):
                left, origin = [*outside, *other.outside, *found.outside], before + other.origin(found.prefix)
                yield replace(found, done=done, outside=left, origin=origin)


def _behind_prefixes(
    key: str, tensors: OrderedDict[str, Tensor], counts: Mapping[str, int], asked: str | None
) -> Iterator[_Candidate]:
    """The candidates of one state dict, those that fit best first. asked : the prefix to look behind; None for any."""
    prefixes = sorted(counts, key=lambda prefix: (prefix != "", *preference(prefix, counts[prefix])))
    if asked is not None:
        prefixes = [prefix for prefix in prefixes if f"{prefix}.".startswith(f"{asked}.")] or [f"{asked}."]
    for prefix in prefixes[:_TRIED]:
        left = [name for name in tensors if not name.startswith(prefix)]
        yield _Candidate(key, "", prefix, prefix, _inside(tensors, prefix), left, counts.get(prefix, 0))


def _inside(tensors: OrderedDict[str, Tensor], prefix: str) -> OrderedDict[str, Tensor]:
    """What lies behind a prefix, without it, with the versions of its modules."""
    found = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
    return with_metadata(found, _stripped(getattr(tensors, "_metadata", None), prefix))


def _matches(tensors: Mapping[str, Tensor], needed: Mapping[str, Size]) -> dict[str, int]:
    """How many names and shapes of the network lie behind each prefix; "" and those that all names share count too."""
    counts = {"": 0}
    for name, value in tensors.items():
        parts = name.split(".")
        for depth in range(len(parts)):
            if needed.get(".".join(parts[depth:])) == value.shape:
                prefix = "".join(f"{part}." for part in parts[:depth])
                counts[prefix] = counts.get(prefix, 0) + 1
    shared = ""
    while len({name[len(shared) :].split(".")[0] for name in tensors}) == 1:
        part = next(iter(tensors))[len(shared) :].partition(".")
        if not part[1]:
            break
        shared += f"{part[0]}."
        counts.setdefault(shared, 0)
    return counts


def _stripped(metadata: Any, prefix: str) -> Any:
    """The versions of the modules behind a prefix."""
    if metadata is None or not prefix:
        return metadata
    inner = {name[len(prefix) :]: value for name, value in metadata.items() if name.startswith(prefix)}
    outer = {"": metadata[prefix[:-1]]} if prefix[:-1] in metadata else {}
    return {**outer, **inner}


def _what_was_done(candidate: _Candidate, named: Mapping[str, Tensor], library: str) -> str:
    """How names and shapes were changed."""
    before, parts = candidate.inside, [candidate.done] if candidate.done else []
    if candidate.prefix:
        parts.append(f"stripped the prefix {candidate.prefix}")
    if library and named.keys() != before.keys():
        parts.append(f"converted names as {library} does")
    resized = [name for name in named if name in before and named[name].shape != before[name].shape]
    if named.keys() != before.keys():  # a name may mean another tensor now
        resized = [name for name in resized if any(part in name for part in ("pos", "relative", "patch_embed"))]
    if resized:
        name = resized[0]
        more = f" and {len(resized) - 1} more" if len(resized) > 1 else ""
        shapes = f"{tuple(before[name].shape)} to {tuple(named[name].shape)}"
        parts.append(f"interpolated {name} from {shapes}{more} as {library} does")
    return ", ".join(parts)


def _note(done: str, taken: _Candidate, candidates: Sequence[_Candidate], fitter: _Fitter, key: str | None) -> str:
    """What was done, with what else would have fitted."""
    parts = [f"took {taken.key}"] if taken.key else []
    others: list[str] = []
    said = [fitter.used(taken)]
    for other in candidates:
        used = fitter.used(other)
        if other.matches >= max(1, taken.matches) and not any(2 * len(used & own) > len(own) for own in said):
            said.append(used)  # the same tensors by other names are told once
            others.append(other.key if other.key != taken.key else other.origin.rstrip("."))
    others = [name for name in dict.fromkeys(others) if name]
    if others and key is None:
        parts.append(f"{', '.join(others[:3])} would fit, too (--weights-key)")
    return ", ".join([*parts, *([done] if done else [])])


def _reason(error: Exception) -> str:
    """The first line of an error that says why: torch's own begins with the class of the network."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else first_line(error)


def _refuse_not_plain(state: Mapping[str, Tensor], fitter: _Fitter, source: object) -> None:
    """Raise BackboneError for tensors that are sparse, quantized, without data, or whole numbers instead of floats."""
    odd = {name: kind for name, value in state.items() if (kind := fitter.kind(name, value))}
    if odd:
        name, kind = next(iter(odd.items()))
        raise BackboneError(
            f"{len(odd)} of {len(state)} tensors in {source} are {kind} (for example {name}). Save the weights as "
            "dense tensors of floating point numbers."
        )


def _refuse_nan(state: Mapping[str, Tensor], fitter: _Fitter, source: object) -> None:
    spoilt = [
        name
        for name, value in state.items()
        if not name.startswith(fitter.unused) and value.is_floating_point() and bool(torch.isnan(value).any())
    ]
    if spoilt:
        raise BackboneError(
            f"the weights in {source} hold NaN in {len(spoilt)} of {len(state)} tensors (for example {spoilt[0]}): "
            "their training diverged, or the file is damaged. Take an earlier checkpoint."
        )


def _refusal(nearest: _Attempt, fitter: _Fitter, source: object, beside: str) -> str:
    """The nearest reason, and what to do about it. beside : what else the file holds."""
    missing, surplus, wrong = nearest.missing, nearest.surplus, nearest.wrong
    parts = [f"{len(missing)} tensors missing (for example {missing[0]})"] if missing else []
    parts += [f"{len(surplus)} unknown (for example {surplus[0]})"] if surplus else []
    parts += wrong[:1]
    parts += [f"{len(wrong) - 1} more of other shapes"] if len(wrong) > 1 else []
    parts += [nearest.error] if nearest.error else []
    done = f" (having {nearest.done})" if nearest.done else ""
    done += beside
    if missing and len(missing) == nearest.lacks and fitter.buffers == set(missing):
        return (
            f"the weights in {source} lack {len(missing)} buffers (for example {missing[0]}){done}. They seem to be "
            "the parameters alone: save model.state_dict(), which has the statistics of BatchNorm, too."
        )
    if 2 * nearest.lacks > nearest.needed:
        return (
            f"the weights in {source} are not those of this network: {'; '.join(parts)}{done}. "
            "Name the network they belong to with --backbone."
        )
    fitting = nearest.needed - nearest.lacks
    return (
        f"the weights in {source} nearly fit: {fitting} of {nearest.needed} tensors do, but {'; '.join(parts)}{done}. "
        "They are of a variant of this network: name that, or save the weights of the network as its library builds it."
    )
