"""`TextEncoder`: a frozen network that turns texts into features. It is an `Encoder` of `Tokens`."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import split_names
from featcache.backbones.engines.base import Engine
from featcache.backbones.engines.data_parallel import join_engines
from featcache.backbones.engines.select import TEXT_CONVERSION_PAYS, EngineStarters
from featcache.backbones.engines.text_batches import as_tokens
from featcache.backbones.frozen_network import FrozenNetwork
from featcache.backbones.metadata_cache import cache_path
from featcache.backbones.text_sources.registry import build, find_text_source
from featcache.backbones.trainable import SubmitLogits
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
    from torch import Tensor, nn

    from featcache.backbones.text_features import TextFeatures
    from featcache.backbones.text_metadata import TextMetadata
    from featcache.backbones.text_tokenizer import Tokenizer
    from featcache.data.sample_loader import Inputs
    from featcache.data.tokens import Tokens

_PROBES = ("a", "The film is good.", "It is not bad, but it is long: two hours, and then one more. " * 8)
"""Texts of different lengths, by which a conversion to OpenVINO is compared with the encoder."""


class TextEncoder(FrozenNetwork):
    """A pretrained encoder of texts, in `eval()` mode, without gradients; see `FrozenNetwork`.

    Features of a text do not depend on the other texts of a batch, up to rounding.

    Parameters
    ----------
    module : nn.Module or callable
        From ids (b, t), int64, and a mask (b, t), bool, which is True at real tokens, to the hidden states (b, t, d):
        the embeddings, and the output of each layer. A callable returns the module; it is called when the module is
        needed.
    tokenizer : Tokenizer
        Turns texts into tokens.
    name : str
        Stored in caches and heads.
    weights : str, default "none"
        Where the weights come from: "pretrained", "none" or a path. Stored only.
    architecture : str, default ""
        What decides the features beside the weights, such as the number of heads; it is part of `weights_sha256`. Only
        with it is the conversion to OpenVINO cached for later runs.
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
    metadata : TextMetadata, optional
        Cached hash, widths and layers, which are otherwise measured.

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
    engine : {"pytorch", "openvino"}
        What runs the network, see `select_engine`.
    engine_note : str
        Why a faster engine could not be used; "" otherwise.

    Raises
    ------
    BackboneError
        The module returns something else than finite features, its features depend on padding, or it has no such
        layer.

    Examples
    --------
    A network of your own needs a tokenizer. This one makes a token of each word, by its number of letters.

    >>> import numpy as np
    >>> import torch
    >>> from featcache import TextEncoder
    >>> from featcache.backbones.text_tokenizer import Tokenized
    >>> from featcache.data.tokens import Tokens
    >>> class Letters:
    ...     sha256, max_length, prefix, separator = "0" * 64, 16, "", "\\n"
    ...
    ...     def __call__(self, texts, separator="", /):
    ...         words = [text.replace("\\x1f", separator or " ").split() for text in texts]
    ...         ids = [np.array([len(word) for word in each[:16]], np.int64) for each in words]
    ...         return Tokenized(Tokens(ids), np.array([len(each) > 16 for each in words]))
    >>> class Network(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.vectors = torch.nn.Embedding(100, 8)
    ...
    ...     def forward(self, ids, mask):
    ...         return [self.vectors(ids), self.vectors(ids) ** 2]  # the embeddings, and the output of one layer
    >>> encoder = TextEncoder(Network(), Letters(), name="letters", layers="all")
    >>> encoder.layers
    ('penultimate', 'layer.1:cls', 'layer.1:max')
    >>> encoder.embed(["A film to remember.", "Dull."]).shape
    (2, 8)
    """

    conversion_pays = TEXT_CONVERSION_PAYS

    def __init__(
        self,
        module: nn.Module | Callable[[], nn.Module],
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
        metadata: TextMetadata | None = None,
    ) -> None:
        super().__init__(module, name=name, weights=weights, device=device, precision=precision)
        self.tokenizer, self.pooling, self.normalize = tokenizer, pooling, normalize
        self.architecture = architecture
        self.weights_sha256 = metadata.weights_sha256 if metadata else ""
        self.layers = self._computed = tuple(metadata.dims) if metadata else self._expand_layers(split_names(layers))
        self.dims = metadata.dims if metadata else self._measure_dims()

    @cached_property
    def text_features(self) -> TextFeatures:
        """The network in PyTorch. Raises BackboneError if its weights are not those of the cached metadata."""
        from featcache.backbones.text_features import TextFeatures
        from featcache.backbones.weights.load import sha256_of

        module = self._build()
        state_sha256 = sha256_of(module.state_dict())
        self._check_weights(hashlib.sha256(f"{state_sha256} {self.architecture}".encode()).hexdigest())
        return TextFeatures(
            module,
            name=self.name,
            pooling=self.pooling,
            normalize=self.normalize,
            layers=self._computed,
            device=self.device,
            precision=self.precision,
        )

    @property
    def module(self) -> nn.Module:
        """The network, from ids and mask to the hidden states."""
        return self.text_features.network

    @property
    def batch_size(self) -> int:
        """Texts to submit at once. They are cut into forward passes by their length.

        On a CPU, with 256, a pass has texts of more different lengths, and extraction is slower.
        """
        return 2048 if self.device.startswith("cuda") else 512

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Features (b, d) of the main layer from b texts.

        Parameters
        ----------
        texts : sequence of str
            b texts.
        """
        return self.embed_layers(texts)[self.main_layer]

    def embed_layers(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Features of every layer by its name, each (b, d), float32; see `embed`.

        Parameters
        ----------
        texts : sequence of str
            b texts.
        """
        return dict(zip(self.layers, self.submit(self.tokenizer(texts).tokens)(), strict=True))

    def network_input(self, inputs: Inputs) -> Tensor:
        """Ids (b, t) with -1 at padding, on the device; see `TrainableNetwork`."""
        from featcache.backbones.text_training import padded_ids

        return padded_ids(as_tokens(inputs), self.text_features.device)

    def embed_on_device(self, inputs: Inputs) -> Tensor:
        """Features (b, d) of the main layer, on the device; see `TrainableNetwork`."""
        import torch

        return torch.from_numpy(self.submit(inputs)()[self.layers.index(self.main_layer)]).to(self.device)

    def trainable_module(self) -> nn.Module:
        """A copy of the encoder with gradients, with its pooling; see `TrainableNetwork`."""
        return self._trainable(copy.deepcopy(self.module).requires_grad_(True))

    def frozen_module(self) -> nn.Module:
        """The encoder with its pooling; see `TrainableNetwork`."""
        return self._trainable(self.module)

    def random_module(self, spec: ExtractSpec) -> nn.Module:
        """See `TrainableNetwork`. Raises BackboneError if it cannot be built by its name."""
        view = spec.text_view
        return self._trainable(build(self.name, "none", view.seed, view.max_length, view.prefix).module)

    def stages(self, spec: ExtractSpec) -> list[str]:
        """The layers of the transformer; see `TrainableNetwork`."""
        from featcache.backbones.text_training import find_layers

        return find_layers(self.frozen_module())

    def trained_logits(self, network: nn.Module, head: nn.Module) -> SubmitLogits:
        """The encoder, which has the trained weights, computes features, in passes of similar length; the head follows.

        See `TrainableNetwork`.
        """
        weight, bias = (value.detach().cpu().numpy().astype(np.float64) for value in head.parameters())

        def submit(tokens: Inputs) -> Callable[[], NDArray[Any]]:
            features = self.submit(tokens)
            return lambda: features()[0] @ weight.T + bias

        return submit

    def autocast(self) -> AbstractContextManager[None]:
        """See `TrainableNetwork`."""
        return self.text_features.autocast()

    def exact(self) -> AbstractContextManager[None]:
        """See `TrainableNetwork`."""
        return self.text_features.exact()

    def text_spec(self, *, augment: Augment = "none", seed: int = 0, joins_columns: bool = False) -> TextSpec:
        """A TextSpec with this encoder's tokenizer and pooling.

        Parameters
        ----------
        augment : str
            Recipe of the views. Default: none.
        seed : int
            Of the views. Default: 0.
        joins_columns : bool
            Whether texts are those of several columns. Default: False.
        """
        return TextSpec(
            tokenizer_sha256=self.tokenizer.sha256,
            max_length=self.tokenizer.max_length,
            prefix=self.tokenizer.prefix,
            pooling=self.pooling,
            normalize=self.normalize,
            augment=augment,
            seed=seed,
            separator=self.tokenizer.separator if joins_columns else "",
        )

    def extract_spec(
        self,
        *,
        views: int,
        dtype: StorageDtype,
        val_views: int = 0,
        augment: Augment = "none",
        seed: int = 0,
        joins_columns: bool = False,
    ) -> ExtractSpec:
        """The spec of features of this encoder.

        Parameters
        ----------
        views : int
            Augmented views of each training text.
        dtype : {"float16", "float32"}
            Type in which features are stored.
        val_views : int
            Augmented views of each other text. Default: 0.
        augment, seed, joins_columns
            See `text_spec`.
        """
        view = self.text_spec(augment=augment, seed=seed, joins_columns=joins_columns)
        return self._spec(view, views=views, dtype=dtype, val_views=val_views)

    def with_settings(self, *, layers: str | Sequence[str], device: str, precision: Precision) -> TextEncoder:
        """This encoder with other layers, on another device or in another precision. Its network is copied.

        Parameters
        ----------
        layers : str or sequence of str
            Names of layers.
        device : str
            As of `load_text_encoder`.
        precision : {"fp32", "bf16", "fp16"}
            In which the encoder computes.
        """
        return TextEncoder(
            copy.deepcopy(self.module),
            self.tokenizer,
            name=self.name,
            weights=self.weights,
            architecture=self.architecture,
            pooling=self.pooling,
            normalize=self.normalize,
            layers=layers,
            device=device,
            precision=precision,
        )

    def _trainable(self, network: nn.Module) -> nn.Module:
        from featcache.backbones.text_training import TrainableText

        return TrainableText(network, self.pooling, self.normalize, self.tokenizer(["a"]).tokens.pad_id)

    def _expand_layers(self, layers: tuple[str, ...]) -> tuple[str, ...]:
        from featcache.backbones.text_features import expand_text_layers
        from featcache.backbones.text_probe import measure_hidden_states

        states = measure_hidden_states(self._build(), self.tokenizer, self.name)
        return expand_text_layers(self.name, layers, states, pooling=self.pooling, normalize=self.normalize)

    def _measure_dims(self) -> dict[str, int]:
        """Width of each layer. Raises BackboneError if features are not finite or depend on padding."""
        from featcache.backbones.text_probe import check_padding

        features = self.embed_layers(["a"])
        if not all(np.isfinite(values).all() for values in features.values()):
            raise BackboneError(
                f"{self.name} returns features that are not finite: its weights hold NaN or inf, or its values are too "
                f"large for {self.precision}."
            )
        check_padding(self.text_features, self.tokenizer)
        return {layer: values.shape[1] for layer, values in features.items()}

    def _conversion_path(self, _size: int) -> Path | None:
        if not self.architecture:
            return None
        identity = (self.name, self.weights_sha256, self._computed, self.pooling, self.normalize)
        return cache_path(".xml", find_text_source(self.name), *identity)

    def _start_pytorch(self) -> Engine:
        from featcache.backbones.engines.text_pytorch import TextEngine

        in_flight = self.batch_size if self.device.startswith("cuda") else 0
        return join_engines([TextEngine(features, in_flight) for features in self._extractors])

    def _engine_starters(self, size: int) -> EngineStarters:
        def probe() -> Tokens:
            return self.tokenizer(_PROBES).tokens

        def start_openvino() -> Engine:
            from featcache.backbones.engines.openvino_text import OpenVinoTextEngine

            path = self._conversion_path(size)
            return OpenVinoTextEngine(lambda: self.text_features, probe, self.precision, path, self.batch_size)

        return {"openvino": start_openvino}

    @cached_property
    def _extractors(self) -> list[TextFeatures]:
        """The network on each device."""
        return self.text_features.on_devices(self.devices)
