"""`TextEncoder`: a frozen network that turns texts into features. It is an `Encoder` of `Tokens`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import split_names
from featcache.backbones.devices import allows_tf32, expand_device, name_devices
from featcache.backbones.engines.base import Engine, EngineName, PendingFeatures
from featcache.backbones.engines.data_parallel import join_engines
from featcache.core.specs import (
    PENULTIMATE,
    Augment,
    ExtractSpec,
    Precision,
    StorageDtype,
    TextPooling,
    TextSpec,
)
from featcache.errors import BackboneError

if TYPE_CHECKING:
    from torch import nn

    from featcache.backbones.text_features import TextFeatures
    from featcache.backbones.text_tokenizer import Tokenizer
    from featcache.data.sample_loader import Inputs


class TextEncoder:
    """A pretrained encoder of texts, in `eval()` mode, without gradients.

    Features of a text do not depend on the other texts of a batch, up to rounding.

    Parameters
    ----------
    module : nn.Module
        From ids (b, t), int64, and a mask (b, t), bool, which is True at real tokens, to the hidden states (b, t, d):
        the embeddings, and the output of each layer.
    tokenizer : Tokenizer
        Turns texts into tokens.
    name : str
        Stored in caches and heads.
    weights : str, default "none"
        Where the weights come from: "pretrained", "none" or a path. Stored only.
    architecture : str, default ""
        What decides the features beside the weights, such as the number of heads; it is part of `weights_sha256`.
    pooling : {"mean", "cls", "max"}, default "mean"
        How the last hidden state becomes the penultimate features.
    normalize : bool, default False
        Whether the penultimate features are scaled to length 1.
    layers : str or sequence of str, default ("penultimate",)
        Layers that `embed_layers` returns, or the sets "last", "stages" and "all"; see `expand_text_layers`.
    device : str, default "cpu"
        Device of the network, such as "cpu" or "cuda:1"; "cuda:all" is all GPUs, each with a copy of the network.
    precision : {"fp32", "bf16", "fp16"}, default "fp32"
        Precision of the network's computations.

    Attributes
    ----------
    layers : tuple of str
        Names of the layers that `embed_layers` returns.
    dims : dict of str to int
        Width d of each layer.
    devices : tuple of str
        Where it computes features; `device` is the first of them.
    weights_sha256 : str
        Hash of the weights and of `architecture`.
    engine : {"pytorch"}
        What runs the network.

    Raises
    ------
    BackboneError
        The module returns something else than finite features, its features depend on padding, or it has no such
        layer.
    """

    def __init__(
        self,
        module: nn.Module,
        tokenizer: Tokenizer,
        *,
        name: str,
        weights: str = "none",
        architecture: str = "",
        pooling: TextPooling = "mean",
        normalize: bool = False,
        layers: str | Sequence[str] = (PENULTIMATE,),
        device: str = "cpu",
        precision: Precision = "fp32",
    ) -> None:
        from featcache.backbones.text_features import TextFeatures, expand_text_layers
        from featcache.backbones.text_probe import check_padding, measure_widths
        from featcache.backbones.weights.load import sha256_of

        self.name, self.weights, self.tokenizer = name, weights, tokenizer
        self.pooling, self.normalize = pooling, normalize
        self.devices, self.precision = expand_device(device), precision
        self.device = self.devices[0]
        self.engine: EngineName = "pytorch"
        self.engine_note = ""
        state_sha256 = sha256_of(module.state_dict())
        self.weights_sha256 = hashlib.sha256(f"{state_sha256} {architecture}".encode()).hexdigest()
        widths = measure_widths(module, tokenizer, name)
        self.layers = expand_text_layers(
            name, split_names(layers), len(widths) - 1, pooling=pooling, normalize=normalize
        )
        features = TextFeatures(
            module,
            name=name,
            pooling=pooling,
            normalize=normalize,
            layers=self.layers,
            device=self.device,
            precision=precision,
        )
        self._networks = features.on_devices(self.devices)
        self._pytorch_engine: Engine = join_engines([_engine(network, self.batch_size) for network in self._networks])
        self.dims = {layer: values.shape[1] for layer, values in self._probe().items()}
        check_padding(features, tokenizer)

    @property
    def module(self) -> nn.Module:
        """The network, from ids and mask to the hidden states."""
        network: nn.Module = self._networks[0].network
        return network

    @property
    def note(self) -> str:
        """Notes for the user on engine and size of the batches, a line each."""
        return "\n".join(filter(None, [self.engine_note, self._pytorch_engine.note]))

    @property
    def main_layer(self) -> str:
        """The penultimate layer, or the first layer if the penultimate one was not requested."""
        return PENULTIMATE if PENULTIMATE in self.layers else self.layers[0]

    @property
    def dim(self) -> int:
        """Width d of the main layer."""
        return self.dims[self.main_layer]

    @property
    def batch_size(self) -> int:
        """Texts to submit at once. They are cut into forward passes by their length."""
        return 2048 if self.device.startswith("cuda") else 256

    @property
    def max_in_flight(self) -> int:
        """Texts to submit in addition to those whose features are awaited, so that the network is always busy."""
        return self._pytorch_engine.max_in_flight

    @property
    def device_name(self) -> str:
        """ "cpu", "mps", or the name of the GPU, or of all of them."""
        return name_devices(self.devices)

    @property
    def allows_tf32(self) -> bool:
        """Whether a GPU may compute in TF32 what bf16 or fp16 leaves in float32. The precision "fp32" is IEEE's."""
        return allows_tf32(self.device, self.precision)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Features (b, d) of the main layer from b texts."""
        return self.embed_layers(texts)[self.main_layer]

    def embed_layers(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Features of every layer by its name, each (b, d), float32; see `embed`."""
        return dict(zip(self.layers, self.submit(self.tokenizer(texts).tokens)(), strict=True))

    def submit(self, tokens: Inputs, /) -> PendingFeatures:
        """Start on `Tokens` of texts. Call the result to get the features, in the order of `layers`."""
        return self._pytorch_engine.submit(tokens)

    def select_engine(self, size: int, /, engine: EngineName = "auto", views: int = 0, like: str = "") -> None:
        """Choose what runs the network: PyTorch, the only engine for texts so far.

        Parameters
        ----------
        size : int
            Most tokens of a text.
        engine : {"auto", "pytorch", "compiled", "openvino"}, default "auto"
            The requested engine.
        views : int
            Number of views to come.
        like : str, default ""
            Engine that made the features which the new ones go with. In bf16 two engines round differently, which
            `engine_note` reports.

        Raises
        ------
        BackboneError
            The requested engine does not run encoders of texts.
        """
        if engine not in ("auto", "pytorch"):
            raise BackboneError(f"the engine {engine} runs no encoders of texts. Drop --engine.")
        self.engine_note = ""
        if self.precision == "bf16" and like not in ("", self.engine):
            self.engine_note = (
                f"the earlier features were computed by {like} in bf16, and {self.engine} is used now: features differ "
                "by about 1 %, and predictions can change"
            )

    def text_spec(self, *, augment: Augment = "none", seed: int = 0) -> TextSpec:
        """A TextSpec with this encoder's tokenizer and pooling; for the parameters see `TextSpec`."""
        return TextSpec(
            tokenizer_sha256=self.tokenizer.sha256,
            max_length=self.tokenizer.max_length,
            prefix=self.tokenizer.prefix,
            pooling=self.pooling,
            normalize=self.normalize,
            augment=augment,
            seed=seed,
        )

    def extract_spec(
        self, *, views: int, dtype: StorageDtype, val_views: int = 0, augment: Augment = "none", seed: int = 0
    ) -> ExtractSpec:
        """The spec of features of this encoder; for the parameters see `ExtractSpec` and `TextSpec`."""
        return ExtractSpec(
            backbone=self.name,
            weights_sha256=self.weights_sha256,
            view=self.text_spec(augment=augment, seed=seed),
            views=views,
            layers=self.layers,
            precision=self.precision,
            dtype=dtype,
            val_views=val_views,
        )

    def _probe(self) -> dict[str, NDArray[np.float32]]:
        """Features of one text. Raises BackboneError if they are not finite."""
        features = self.embed_layers(["a"])
        if not all(np.isfinite(values).all() for values in features.values()):
            raise BackboneError(
                f"{self.name} returns features that are not finite: its weights hold NaN or inf, or its values are too "
                f"large for {self.precision}."
            )
        return features


def _engine(network: TextFeatures, batch_size: int) -> Engine:
    from featcache.backbones.engines.text_pytorch import TextEngine

    return TextEngine(network, batch_size if network.device.type == "cuda" else 0)
