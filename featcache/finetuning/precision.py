"""The precision in which a network is trained. PyTorch is imported only if there may be a GPU."""

from __future__ import annotations

from typing import Literal

from featcache.backbones.devices import resolve_device, resolve_precision


def requested_precision(precision: str | None, device: str) -> str:
    """The requested precision; where none is requested, "auto" on a GPU, as in extraction, and else "fp32"."""
    if precision is not None:
        return precision
    return "auto" if resolve_device(device).startswith("cuda") else "fp32"


def training_precision(precision: str | None, device: str, mode: Literal["all", "head"]) -> str:
    """The precision to load a network in. "auto" takes no fp16 to train it: gradients would need loss scaling."""
    precision = requested_precision(precision, device)
    if mode == "head" or precision != "auto":
        return precision
    best = resolve_precision("auto", resolve_device(device))
    return "fp32" if best == "fp16" else best


def no_bf16_note(precision: str | None, device: str, mode: Literal["all", "head"]) -> str:
    """Why a network on a GPU is not trained in the precision of extraction; "" if it is."""
    if mode == "head" or requested_precision(precision, device) != "auto":
        return ""
    if resolve_precision("auto", resolve_device(device)) != "fp16":
        return ""
    return "this GPU has no bf16: the network is trained in fp32, as gradients in fp16 would underflow"
