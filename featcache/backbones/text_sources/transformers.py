"""Encoders of the package transformers: `transformers/<name or folder>`, and the network of every other text source.

Only files of this machine are used, and no code of a repository.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache._utils.telemetry import decline_usage_data
from featcache.backbones.text_sources.base import BuiltTextEncoder, TextSource
from featcache.backbones.text_sources.folders import build_from_folder, find_folder, folder_files, repository_of
from featcache.backbones.text_sources.registry import TEXT_SOURCES
from featcache.errors import BackboneError, MissingExtraError, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

_PREFIX = "transformers/"
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_ATTENTION = "featcache_sdpa"


class TransformersSource(TextSource):
    """Encoders of transformers; their features are the mean over the tokens. See `TextSource`."""

    hint = f"{_PREFIX}<name or folder>"

    def owns(self, name: str) -> bool:
        return name.startswith(_PREFIX)

    def files(self, name: str, weights: str) -> list[Path]:
        return folder_files(find_folder(name, name.removeprefix(_PREFIX)), name, weights)

    def hub_model(self, name: str) -> str:
        return repository_of(name.removeprefix(_PREFIX))

    def build(self, name: str, weights: str, max_length: int | None, prefix: str | None) -> BuiltTextEncoder:
        folder = find_folder(name, name.removeprefix(_PREFIX))
        return build_from_folder(folder, name, weights, max_length=max_length, prefix=prefix or "")


def build_module(folder: Path, name: str, state: Mapping[str, Tensor] | None) -> tuple[nn.Module, Any]:
    """The network of a folder, from ids and mask to the hidden states, and its configuration.

    Parameters
    ----------
    state : its weights; None for random ones.

    Raises
    ------
    BackboneError : transformers has no such encoder, or the weights do not fit.
    MissingExtraError : transformers is not installed.
    """
    import torch

    transformers = _transformers()
    with _quiet(transformers):
        try:
            config = transformers.AutoConfig.from_pretrained(folder, **_LOCAL)
            config._attn_implementation = "eager"  # that of the file may be a kernel of the hub, which is code
            with torch.device("meta"):
                draft = transformers.AutoModel.from_config(config, trust_remote_code=False)
        except Exception as error:  # of reading files and of the network's own code
            raise BackboneError(f"{name} cannot be built from {folder}: {first_line(error)}") from error
        kind = type(draft)
        _check_kind(draft, name)
        if config.is_encoder_decoder:
            raise BackboneError(f"{name} is an encoder with a decoder ({config.model_type}); give an encoder of texts")
        if getattr(config, "quantization_config", None):
            raise BackboneError(f"{name} has quantized weights, which featcache does not read")
        if kind._supports_sdpa:
            config._attn_implementation = _attention()
        try:
            model = kind(config).float() if state is None else _load(kind, config, name, state)
        except BackboneError:
            raise
        except Exception as error:
            raise BackboneError(f"the weights of {name} do not fit its network: {first_line(error)}") from error
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # which features do not use: files without it give the same hash
    model.loss_function = None  # for training; transformers warns where a conversion reads the attribute
    return _hidden_states(model), config


def load_slow_tokenizer(folder: Path, name: str) -> Any:
    """The `tokenizers.Tokenizer` that transformers makes of other files than tokenizer.json. Raises BackboneError."""
    transformers = _transformers()
    with _quiet(transformers):
        try:
            return transformers.AutoTokenizer.from_pretrained(folder, **_LOCAL).backend_tokenizer
        except Exception as error:
            raise BackboneError(f"{name} has no tokenizer.json, and no other tokenizer: {first_line(error)}") from error


def most_tokens(module: nn.Module, config: Any) -> int | None:
    """The longest sequence that a network takes, by its positions; None if nothing says so."""
    for path, part in module.named_modules():
        if path.rpartition(".")[2] == "position_embeddings" and hasattr(part, "num_embeddings"):
            padding: Any = part.padding_idx
            return int(part.num_embeddings) - (0 if padding is None else padding + 1)
    most = getattr(config, "max_position_embeddings", None)
    return int(most) if most and most > 0 else None


def _transformers() -> Any:
    """transformers, imported without usage data."""
    decline_usage_data()
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError.for_package("transformers", "text") from error
    return transformers


def _attention() -> str:
    """PyTorch's attention with the mask of the padding in any case.

    transformers leaves the mask out for a batch without padding. For this the host waits for the GPU, and the same text
    takes another kernel.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def mask(*args: Any, **options: Any) -> Any:
        return sdpa_mask(*args, **{**options, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})

    if _ATTENTION not in AttentionInterface().valid_keys():
        AttentionMaskInterface.register(_ATTENTION, mask)
        AttentionInterface.register(_ATTENTION, sdpa_attention_forward)
    return _ATTENTION


def _check_kind(model: Any, name: str) -> None:
    """Raise BackboneError if a model takes no tokens, such as one of images, or of images and texts."""
    kind, main = type(model).__name__, getattr(model, "main_input_name", None)
    try:
        embedding = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        embedding = None
    if main != "input_ids" or not hasattr(embedding, "num_embeddings"):
        reason = f"takes {main}" if main not in (None, "input_ids") else "has no table of vectors for tokens"
        raise BackboneError(f"{name} is not an encoder of texts: its {kind} {reason}. Give an encoder of texts alone.")


def _load(kind: Any, config: Any, name: str, state: Mapping[str, Tensor]) -> nn.Module:
    import torch

    model, report = kind.from_pretrained(
        None, config=config, state_dict=dict(state), dtype=torch.float32, output_loading_info=True, **_LOCAL
    )
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise BackboneError(
            f"the weights of {name} do not fit its network: {len(missing)} tensors are missing, such as {missing[0]}"
        )
    return model


def _hidden_states(model: nn.Module) -> nn.Module:
    """A module from ids (b, t) and mask (b, t) to the hidden states of a model of transformers."""
    from torch import nn

    class HiddenStates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def forward(self, ids: Tensor, mask: Tensor) -> Sequence[Tensor]:
            output = self.network(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
            return (*output.hidden_states[:-1], output.last_hidden_state)

    return HiddenStates()


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Silence transformers' progress bars and reports of what it loads."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


TEXT_SOURCES.register("transformers", TransformersSource())
