"""timm's networks by name, without their classifiers; and the embedded one, which is one of timm's."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featcache._utils.telemetry import decline_usage_data
from featcache.backbones.sources.names import SOURCES, no_timm_model
from featcache.backbones.weights.adapt import Convert, adapt
from featcache.backbones.weights.checkpoint import read_checkpoint
from featcache.backbones.weights.load import Built, embedded_state, load_state
from featcache.backbones.weights.location import PRETRAINED, is_file, locate
from featcache.core.close_names import closest_names, sizes_near
from featcache.core.specs import EMBEDDED
from featcache.errors import BackboneError, first_line

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_CAPTURING = threading.Lock()


def _timm() -> Any:
    """timm, which imports the Hugging Face hub's client, without its usage data."""
    decline_usage_data()
    import timm

    return timm


def names() -> list[str]:
    """All of timm's own."""
    timm = _timm()

    return timm.list_models()


def build(name: str, model: str, weights: str, image_size: int | None) -> Built:
    """A network without its classifier. See `load_backbone`.

    name : as the user gives it; model : as timm does.
    """
    timm = _timm()

    _check_name(name, model)
    network, conversions = _create(name, model, weights, None)
    config: Any = network.pretrained_cfg
    fixed = bool(config.get("fixed_input_size"))
    if image_size:
        _check_patches(name, network, image_size)
    if image_size and fixed and not _accepts(network, image_size):
        network, conversions = _create(name, model, weights, image_size)
        if not _accepts(network, image_size):
            raise BackboneError(f"{name} takes no pictures of {image_size} pixels. Drop --image-size.")
    else:
        image_size = None
    note = ""
    if name == EMBEDDED and weights == PRETRAINED:
        network.load_state_dict(embedded_state(network))
    elif is_file(weights):
        file = locate(weights, name)
        layers = classifiers(network)
        note = load_state(network, read_checkpoint(file.path), layers, file.path, key=file.key, conversions=conversions)
    shape, said = preprocessing_of(timm.data.resolve_model_data_config(network), image_size)
    network.reset_classifier(0)  # type: ignore[operator]
    return Built(network, shape, "; ".join(filter(None, [note, said])), fixed)


def pretrained_state(name: str, model: str, weights: str) -> Mapping[str, Tensor]:
    """All tensors of the weights, the classifier's too, by the names of the plain network."""
    if is_file(weights):
        file = locate(weights, name)
        network, conversions = _create(name, model, weights, None)
        states = read_checkpoint(file.path)
        layers = classifiers(network)
        return adapt(network, states, layers, file.path, key=file.key, conversions=conversions).state
    network, _ = _create(name, model, weights, None)
    return embedded_state(network) if name == EMBEDDED else dict(network.state_dict())


def preprocessing(model: str) -> dict[str, Any] | None:
    """The preprocessing of timm's own networks, without building them; None of others."""
    timm = _timm()

    try:
        config = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
    except RuntimeError:  # a tag that this version does not know
        return None
    return preprocessing_of(timm.data.resolve_data_config(pretrained_cfg=config.to_dict()))[0] if config else None


def preprocessing_of(config: Mapping[str, Any], image_size: int | None = None) -> tuple[dict[str, Any], str]:
    """From timm's data config; and what of it is not done as it says."""
    size = image_size or config["input_size"][-1]
    asked = config["interpolation"]
    found = {
        "image_size": size,
        "resize_size": round(size / config["crop_pct"]),
        "interpolation": asked if asked == "bicubic" else "bilinear",
        "mean": config["mean"],
        "std": config["std"],
    }
    return found, "" if asked in ("bicubic", "bilinear") else f"pictures are resized bilinear, not {asked}"


def classifiers(network: nn.Module) -> list[str]:
    """Names of the layers that `reset_classifier` will replace: one, two (distilled), or none (headless)."""
    found: Any = network.get_classifier()  # type: ignore[operator]
    layers = found if isinstance(found, (tuple, list, nn.ModuleList)) else [found]
    return [path for path, module in network.named_modules() if any(module is layer for layer in layers)]


def with_one_class(model: str) -> nn.Module:
    """The plain network; those without a classifier get one."""
    timm = _timm()

    return timm.create_model(model, num_classes=1)


def _create(name: str, model: str, weights: str, image_size: int | None) -> tuple[nn.Module, dict[str, Convert]]:
    """The network, with its published weights where those are asked for, and timm's conversion of foreign files."""
    timm = _timm()

    options: dict[str, Any] = {"img_size": image_size} if image_size else {}
    published = weights == PRETRAINED and name != EMBEDDED
    try:
        _check_hub(name, model, published)
        if is_file(weights):
            return _create_with_filter(model, options)
        return timm.create_model(model, pretrained=published, **options), {}
    except BackboneError:
        raise
    except Exception as error:
        if image_size:
            raise BackboneError(
                f"{name} cannot be built for {image_size} pixels ({first_line(error)}). Choose a multiple of its "
                "patches, or drop --image-size."
            ) from error
        if not published:
            raise BackboneError(f"timm cannot build {model!r}: {first_line(error)}") from error
        raise _not_to_be_had(name, model, first_line(error)) from error


def _create_with_filter(model: str, options: dict[str, Any]) -> tuple[nn.Module, dict[str, Convert]]:
    """A network with random weights, and what timm's builder would do to the names and shapes of a file for it.

    timm hands that to its `load_pretrained` alone, which is therefore replaced for the time of one call.
    """
    timm = _timm()
    from timm.models import _builder

    captured: list[Any] = []
    with _CAPTURING:
        load = _builder.load_pretrained
        _builder.load_pretrained = lambda *_, filter_fn=None, **__: captured.append(filter_fn)
        try:
            network = timm.create_model(model, pretrained=True, **options)
        finally:
            _builder.load_pretrained = load
    filters = [found for found in captured if found is not None]

    def convert(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        with _quiet("timm", "root"):
            try:
                return filters[0](state, network)
            except TypeError:  # as timm does: those of VGG and RegNet take the state dict alone
                return filters[0](state)

    return network, {"timm": convert} if filters else {}


def _check_patches(name: str, network: nn.Module, image_size: int) -> None:
    """Refuse a size that patches do not fill: timm would leave out the pixels at two edges without a word."""
    timm = _timm()

    for embedding in network.modules():
        if isinstance(embedding, timm.layers.PatchEmbed):
            patch = max(embedding.patch_size)
            if image_size % patch and not embedding.dynamic_img_pad:
                raise BackboneError(
                    f"{name} cuts pictures into patches of {patch} pixels, and {image_size} is no multiple of {patch}: "
                    f"choose {sizes_near(image_size, patch)}"
                )
            return  # what follows merges patches


def _accepts(network: nn.Module, image_size: int) -> bool:
    """Whether a network takes pictures of this size as it is."""
    training = network.training
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(1, 3, image_size, image_size))
        return True
    except (AssertionError, ArithmeticError, RuntimeError, ValueError):
        return False
    finally:
        network.train(training)


def _check_name(name: str, model: str) -> None:
    """Refuse a name or a tag that timm does not know, with those that are near."""
    timm = _timm()

    if model.startswith(SOURCES):
        folder = Path(model.partition(":")[2])
        if model.startswith("local-dir:") and not (folder / "config.json").is_file():
            raise BackboneError(
                f"{folder} has no config.json: {name} takes a folder that timm's save_for_hf or a download of the hub "
                "wrote (config.json, model.safetensors)"
            )
        return
    plain, _, tag = model.partition(".")
    if not timm.is_model(plain):
        raise no_timm_model(plain, names())
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{plain}.*")]
    if tag and tag not in tags:
        close = closest_names(tag, tags, 12) or tags[:12]
        more = f"; it has {', '.join(f'timm/{plain}.{one}' for one in close)}" if close else "; it has no weights"
        raise BackboneError(f"timm has no weights {tag!r} of {plain}{more}")


def _check_hub(name: str, model: str, published: bool) -> None:
    """Refuse at once where a file is not on this machine and the hub cannot be reached: timm tries on.

    published : whether the weights are needed; of a repository of the hub the config is in any case.
    """
    timm = _timm()
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    of_hub = model.startswith(SOURCES)
    if model.startswith("local-dir:") or not (published or of_hub):
        return
    own = None if of_hub else timm.get_pretrained_cfg(model)
    repository = model.partition(":")[2] if of_hub else own and own.hf_hub_id
    if not repository:
        return
    repository, _, revision = str(repository).partition("@")
    wanted = [("config.json",)] * of_hub + [_HUB_FILES] * published
    if all(any(_is_cached(repository, file, revision) for file in files) for files in wanted):
        return
    url = huggingface_hub.hf_hub_url(repository, "config.json", revision=revision or None)
    try:
        huggingface_hub.get_hf_file_metadata(url, timeout=10)
    except HfHubHTTPError:
        return  # it answers: timm says what
    except Exception as error:  # of whichever HTTP library it uses
        raise _not_to_be_had(name, model, first_line(error), published) from error


def _is_cached(repository: str, file: str, revision: str) -> bool:
    import huggingface_hub

    return isinstance(huggingface_hub.try_to_load_from_cache(repository, file, revision=revision or None), str)


def _not_to_be_had(name: str, model: str, reason: str, published: bool = True) -> BackboneError:
    """published : whether the weights were needed, and not the config of a repository of the hub alone."""
    source, _, place = model.partition(":")
    if source == "local-dir":
        cure = f"Put model.safetensors into {place}"
    else:
        cure = f"Put {_hub_file(model)} into the Hugging Face cache ({_hub_cache()})"
    what, otherwise = ("pretrained weights", ", give --weights PATH,") if published else ("config", "")
    return BackboneError(
        f"the {what} of {name} cannot be had ({reason}). {cure}{otherwise} or use the embedded --backbone {EMBEDDED}, "
        "which needs no network."
    )


def _hub_file(model: str) -> str:
    """The files that timm looks for on the Hugging Face hub."""
    timm = _timm()

    if model.startswith(SOURCES):
        return f"config.json and model.safetensors of {model.partition(':')[2]}"
    config = timm.get_pretrained_cfg(model)
    return f"model.safetensors of {config.hf_hub_id}" if config and config.hf_hub_id else "them"


def _hub_cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return str(HF_HUB_CACHE)


@contextmanager
def _quiet(*loggers: str) -> Iterator[None]:
    """Without the messages of a library, which repeat what our note says."""
    found = [logging.getLogger(None if name == "root" else name) for name in loggers]
    levels = [logger.level for logger in found]
    for logger in found:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(found, levels, strict=True):
            logger.setLevel(level)
