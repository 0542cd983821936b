"""`load_text_encoder`: a `TextEncoder` by its name; `load_text_encoder_of`: the one that made a cache or a head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featcache._utils.formatting import split_names
from featcache.backbones.devices import resolve_device, resolve_precision
from featcache.backbones.text_encoder import TextEncoder
from featcache.backbones.text_metadata import load_metadata, metadata_path, store_metadata
from featcache.backbones.text_sources import registry
from featcache.backbones.text_sources.base import BuiltTextEncoder
from featcache.backbones.text_sources.registry import find_text_source
from featcache.backbones.text_tokenizer import TextTokenizer
from featcache.backbones.weights.location import absolute
from featcache.core.specs import EMBEDDED_TEXT, PENULTIMATE, ExtractSpec
from featcache.errors import BackboneError


def load_text_encoder(
    name: str = EMBEDDED_TEXT,
    *,
    weights: str = "pretrained",
    layers: str | Sequence[str] = (PENULTIMATE,),
    device: str = "auto",
    precision: str = "auto",
    max_length: int | None = None,
    prefix: str | None = None,
    seed: int = 0,
    lazy: bool = False,
) -> TextEncoder:
    """Load a frozen encoder of texts. Nothing is downloaded.

    Parameters
    ----------
    name : str, default "all-minilm-l6-v2"
        "all-minilm-l6-v2" (embedded, in the extra `text`), "sentence-transformers/<name or folder>", or
        "transformers/<name or folder>", whose features are the mean over the tokens. A name is that of a repository in
        the Hugging Face cache of this machine.
    weights : str, default "pretrained"
        "pretrained", "none" (random weights drawn with `seed`), or the path of a weights file.
    layers : str or sequence of str, default ("penultimate",)
        "penultimate" (the encoder's own pooling and normalization), inner layers such as "layer.6:mean", or the sets
        "last", "stages" (also the means of the upper half of the layers) and "all" ("cls", "mean" and "max" of each).
    device : str, default "auto"
        "auto", "cpu", "cuda", "cuda:1", "cuda:all" (all GPUs) or "mps".
    precision : {"auto", "fp32", "bf16", "fp16"}, default "auto"
        "auto" is bf16 if the device multiplies matrices in bf16, fp16 on older GPUs, and fp32 otherwise.
    max_length : int, optional
        Most tokens of a text, special tokens and those of the prefix included. None is the usual number of the encoder.
    prefix : str, optional
        Put before every text, such as "query: ". None is the encoder's own default, mostly none.
    seed : int, default 0
        Seed of random weights.
    lazy : bool, default False
        Use metadata that an earlier run cached, and build the network when it is needed: a cached OpenVINO model does
        without it.

    Returns
    -------
    encoder : TextEncoder
        The encoder with its tokenizer.

    Raises
    ------
    BackboneError
        The name is unknown, or the weights are not available or do not fit.
    MissingExtraError
        The extra `text` is not installed.

    Examples
    --------
    >>> from featcache import load_text_encoder
    >>> encoder = load_text_encoder(weights="none", device="cpu")
    >>> encoder.embed(["A film to remember.", "Dull."]).shape
    (2, 384)
    """
    device, weights, layers = resolve_device(device), absolute(weights), split_names(layers)
    settings: dict[str, Any] = {"name": name, "weights": weights, "layers": layers, "device": device}
    settings["precision"] = resolve_precision(precision, device)

    def build() -> BuiltTextEncoder:
        return registry.build(name, weights, seed, max_length, prefix)

    def path_for(names: Sequence[str]) -> Path | None:
        return metadata_path(name, weights, names, seed, max_length, prefix)

    metadata = load_metadata(path_for(layers)) if lazy else None
    if metadata:
        settings |= {field: getattr(metadata, field) for field in ("architecture", "pooling", "normalize")}
        tokenizer = TextTokenizer.from_settings(metadata.tokenizer)
        return TextEncoder(lambda: build().module, tokenizer, metadata=metadata, **settings)
    built = build()
    settings |= {"architecture": built.architecture, "pooling": built.pooling, "normalize": built.normalize}
    encoder = TextEncoder(built.module, built.tokenizer, **settings)
    for names in dict.fromkeys([layers, encoder.layers]):  # the second is what a cache stores
        store_metadata(path_for(names), encoder)
    return encoder


def load_text_encoder_of(
    spec: ExtractSpec,
    path: Path,
    *,
    weights: str,
    layers: Sequence[str],
    device: str,
    precision: str,
    encoder: TextEncoder | None = None,
    lazy: bool = False,
) -> TextEncoder:
    """Load the encoder of a spec, by its name or from the user's own, with the length and the prefix of the spec.

    The caller compares the weights with the spec's.

    Parameters
    ----------
    path : Path
        File or folder that was made with the encoder, for the message.
    encoder : TextEncoder, optional
        The user's encoder. None loads it by its name.

    The other parameters are those of `load_text_encoder`.

    Raises
    ------
    BackboneError
        `load_text_encoder` cannot load the name, and `encoder` is None; or its tokenizer gives other tokens.
    """
    view = spec.text_view
    if encoder is not None:
        encoder = _own_encoder(encoder, spec, path, layers, device, precision)
    else:
        if find_text_source(spec.backbone) is None:
            raise BackboneError(
                f"{path} was made with your own encoder {spec.backbone!r}, and stores only its name. Pass the encoder: "
                "--backbone MODULE:FACTORY, or backbone=... in Python."
            )
        encoder = load_text_encoder(
            spec.backbone,
            weights=weights,
            layers=layers,
            device=device,
            precision=precision,
            max_length=view.max_length,
            prefix=view.prefix,
            seed=view.seed,
            lazy=lazy,
        )
    if encoder.tokenizer.sha256 != view.tokenizer_sha256:
        raise BackboneError(
            f"{path} was made with tokenizer {view.tokenizer_sha256[:12]}..., that of {encoder.name} is "
            f"{encoder.tokenizer.sha256[:12]}...: it gives other tokens. Use the encoder as it was then, or extract "
            "again."
        )
    return encoder


def _own_encoder(
    encoder: object, spec: ExtractSpec, path: Path, layers: Sequence[str], device: str, precision: str
) -> TextEncoder:
    """A copy of the user's encoder for these layers. Raises BackboneError if it computes other features."""
    if not isinstance(encoder, TextEncoder):
        kind = type(encoder).__name__
        raise BackboneError(f"{path} is for texts, and the network is a {kind}: give the TextEncoder that made it.")
    given, expected = vars(encoder.text_spec()), vars(spec.text_view)
    others = [name for name in ("max_length", "prefix", "pooling", "normalize") if given[name] != expected[name]]
    if others:
        differences = ", ".join(f"{name} {given[name]!r} instead of {expected[name]!r}" for name in others)
        raise BackboneError(f"{encoder.name} has {differences}: it does not compute the features of {path}.")
    device = resolve_device(device)
    return encoder.with_settings(layers=layers, device=device, precision=resolve_precision(precision, device))
