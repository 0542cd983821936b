"""`load_text_encoder`: a `TextEncoder` by its name."""

from __future__ import annotations

from collections.abc import Sequence

from featcache.backbones.devices import resolve_device, resolve_precision
from featcache.backbones.text_encoder import TextEncoder
from featcache.backbones.text_sources import registry
from featcache.backbones.text_sources.registry import EMBEDDED_TEXT
from featcache.backbones.weights.location import absolute
from featcache.core.specs import PENULTIMATE


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
    """
    device, weights = resolve_device(device), absolute(weights)
    built = registry.build(name, weights, seed, max_length, prefix)
    return TextEncoder(
        built.module,
        built.tokenizer,
        name=name,
        weights=weights,
        architecture=built.architecture,
        pooling=built.pooling,
        normalize=built.normalize,
        layers=layers,
        device=device,
        precision=resolve_precision(precision, device),
    )
