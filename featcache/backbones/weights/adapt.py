"""`adapt`: rename the tensors of a checkpoint to those of a network, or explain why they do not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from featcache.backbones.weights.candidates import Candidate, find_candidates, select_states
from featcache.backbones.weights.checkpoint import StateDict
from featcache.backbones.weights.fitting import AdaptedState, Convert, FitResult, StateFitter
from featcache.errors import BackboneError


def adapt(
    network: nn.Module,
    states: Sequence[StateDict],
    classifiers: Sequence[str],
    source: object,
    *,
    key: str | None = None,
    conversions: Mapping[str, Convert] | None = None,
) -> AdaptedState:
    """The first state dict that fits a network, by the network's names.

    A prefix is stripped if the tensors behind it fit. Tensors outside of it, below the classifiers, and in modules that
    the network does not have are left out. The network's own `load_state_dict` decides whether a state dict fits.

    Parameters
    ----------
    states : of the file, in the order in which they are tried.
    classifiers : names of the last layers, which featcache replaces; the file may have anything there.
    source : where the weights come from, for the message.
    key : which of the state dicts to take, by its key or by the prefix of its names.
    conversions : of the library that built the network, by its name; tried if a state dict does not fit unchanged.

    Raises
    ------
    BackboneError : no state dict fits, or the one that does holds NaN, or tensors that are sparse, quantized or without
        data.
    """
    fitter = StateFitter(network, classifiers)
    candidates = list(find_candidates(select_states(states, key, source), key, fitter.needed, fitter.parts))
    unread = next((state.unread for state in states if state.unread), "")
    nearest: FitResult | None = None
    for candidate in candidates:
        for library, convert in [("", None), *(conversions or {}).items()]:
            result = fitter.fit(candidate, library, convert)
            if result is None:
                continue
            if result.fits:
                _check_dense(result.adapted.state, fitter, source)
                _check_nan(result.adapted.state, fitter, source)
                notes = [
                    _note(result.adapted.note, candidate, candidates, fitter, key),
                    unread and f"{unread} are not read",
                ]
                return AdaptedState(result.adapted.state, "; ".join(filter(None, notes)))
            if nearest is None or (result.n_lacking, len(result.unknown)) < (nearest.n_lacking, len(nearest.unknown)):
                nearest = result
    assert nearest is not None  # each state dict is tried without changes
    _check_dense(max(candidates, key=lambda candidate: candidate.matches).inside, fitter, source)
    raise BackboneError(
        _describe_misfit(nearest, fitter, source, f"; the file also holds {unread}, which are not read" * bool(unread))
    )


def _note(changes: str, used: Candidate, candidates: Sequence[Candidate], fitter: StateFitter, key: str | None) -> str:
    """How the used candidate was changed, and which others would fit too."""
    notes = [f"took {used.key}"] if used.key else []
    others: list[str] = []
    listed = [fitter.matching_tensors(used)]
    for candidate in candidates:
        tensors = fitter.matching_tensors(candidate)
        is_listed = any(2 * len(tensors & other) > len(other) for other in listed)  # the same tensors by other names
        if candidate.matches >= max(1, used.matches) and not is_listed:
            listed.append(tensors)
            others.append(candidate.key if candidate.key != used.key else candidate.origin.rstrip("."))
    others = [name for name in dict.fromkeys(others) if name]
    if others and key is None:
        notes.append(f"{', '.join(others[:3])} would fit, too (--weights-key)")
    return ", ".join([*notes, *([changes] if changes else [])])


def _check_dense(state: Mapping[str, Tensor], fitter: StateFitter, source: object) -> None:
    """Raise BackboneError for tensors that are sparse, quantized, without data, or integers instead of floats."""
    unusable = {name: kind for name, value in state.items() if (kind := fitter.unusable_kind(name, value))}
    if unusable:
        name, kind = next(iter(unusable.items()))
        raise BackboneError(
            f"{len(unusable)} of {len(state)} tensors in {source} are {kind} (for example {name}). Save the weights as "
            "dense tensors of floating point numbers."
        )


def _check_nan(state: Mapping[str, Tensor], fitter: StateFitter, source: object) -> None:
    with_nan = [
        name
        for name, value in state.items()
        if not name.startswith(fitter.unused) and value.is_floating_point() and bool(torch.isnan(value).any())
    ]
    if with_nan:
        raise BackboneError(
            f"the weights in {source} hold NaN in {len(with_nan)} of {len(state)} tensors (for example {with_nan[0]}): "
            "their training diverged, or the file is damaged. Take an earlier checkpoint."
        )


def _describe_misfit(nearest: FitResult, fitter: StateFitter, source: object, unread: str) -> str:
    """Why the nearest candidate does not fit, and what to do. unread : what else the file holds, for the message."""
    missing, unknown, mismatched = nearest.missing, nearest.unknown, nearest.mismatched
    reasons = [f"{len(missing)} tensors missing (for example {missing[0]})"] if missing else []
    reasons += [f"{len(unknown)} unknown (for example {unknown[0]})"] if unknown else []
    reasons += mismatched[:1]
    reasons += [f"{len(mismatched) - 1} more of other shapes"] if len(mismatched) > 1 else []
    reasons += [nearest.error] if nearest.error else []
    after = (f" (having {nearest.changes})" if nearest.changes else "") + unread
    if missing and len(missing) == nearest.n_lacking and fitter.buffers == set(missing):
        return (
            f"the weights in {source} lack {len(missing)} buffers (for example {missing[0]}){after}. The file seems to "
            "hold only the parameters: save model.state_dict(), which includes the statistics of BatchNorm."
        )
    if 2 * nearest.n_lacking > nearest.needed:
        return (
            f"the weights in {source} are not those of this network: {'; '.join(reasons)}{after}. "
            "Pass the network that they belong to with --backbone."
        )
    fitting = nearest.needed - nearest.n_lacking
    return (
        f"the weights in {source} nearly fit: {fitting} of {nearest.needed} tensors match, but "
        f"{'; '.join(reasons)}{after}. They belong to a variant of this network: pass its name, or save the weights "
        "of the network as its library builds it."
    )
