"""timm's networks: `timm/<model>`, also from repositories of the Hugging Face hub and from folders."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache._utils.telemetry import decline_usage_data
from featcache.backbones.sources.base import BackboneSource, BuiltNetwork
from featcache.backbones.sources.package_names import is_mentioned, registered_names
from featcache.backbones.sources.registry import SOURCES
from featcache.backbones.weights.location import PRETRAINED, is_file, locate
from featcache.core.close_names import closest_names, sizes_near
from featcache.core.specs import EMBEDDED
from featcache.errors import BackboneError, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featcache.backbones.weights.fitting import Convert

_PREFIX = "timm/"
_FOLDER = "local-dir:"
_LOCATIONS = ("hf-hub:", "hf_hub:", _FOLDER)
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_CAPTURING = threading.Lock()


class TimmSource(BackboneSource):
    """Networks of timm; see `BackboneSource`."""

    hint = f"{_PREFIX}<model>"
    prefix = _PREFIX
    locations: tuple[str, ...] = _LOCATIONS
    packages: tuple[str, ...] = ("timm",)

    def owns(self, name: str) -> bool:
        return name.startswith(_PREFIX)

    def check_name(self, name: str) -> None:
        model = self.model(name).partition(".")[0]
        if "timm" in sys.modules or is_mentioned("timm", model):
            return
        if models := registered_names("timm"):
            raise _no_model(model, models)

    def names(self) -> list[str]:
        models = _timm().list_models() if "timm" in sys.modules else registered_names("timm")
        return [f"{_PREFIX}{model}" for model in models]

    def is_reproducible(self, name: str) -> bool:
        return not self.model(name).startswith(_FOLDER)  # its files may change

    def model(self, name: str) -> str:
        """The name that timm has for a network."""
        return name.removeprefix(_PREFIX)

    def build(self, name: str, weights: str, image_size: int | None) -> BuiltNetwork:
        from featcache.backbones.weights.checkpoint import read_checkpoint
        from featcache.backbones.weights.load import load_state

        timm = _timm()
        _check_model(name, self.model(name))
        network, conversions = self._create(name, weights, None)
        config: Any = network.pretrained_cfg
        fixed = bool(config.get("fixed_input_size"))
        if image_size:
            _check_patches(name, network, image_size)
        if image_size and fixed and not _accepts(network, image_size):
            network, conversions = self._create(name, weights, image_size)
            if not _accepts(network, image_size):
                raise BackboneError(f"{name} does not accept images of {image_size} pixels. Drop --image-size.")
        else:
            image_size = None
        note = ""
        if is_file(weights):
            file = locate(weights, name)
            states, classifiers = read_checkpoint(file.path), self.classifiers(name, network)
            note = load_state(network, states, classifiers, file.path, key=file.key, conversions=conversions)
        values, resize_note = _preprocessing(timm.data.resolve_model_data_config(network), image_size)
        network.reset_classifier(0)  # type: ignore[operator]
        return BuiltNetwork(network, values, "; ".join(filter(None, [note, resize_note])), fixed)

    def preprocessing(self, name: str, weights: str) -> dict[str, Any] | None:
        timm, model = _timm(), self.model(name)
        try:
            config = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
        except RuntimeError:  # a tag that this version lacks
            return None
        return _preprocessing(timm.data.resolve_data_config(pretrained_cfg=config.to_dict()))[0] if config else None

    def hub_model(self, name: str) -> str:
        model = self.model(name)
        if model.startswith(_LOCATIONS):
            return "" if model.startswith(_FOLDER) else model.partition(":")[2].partition("@")[0]
        config = _timm().get_pretrained_cfg(model)
        return str(config.hf_hub_id or "") if config else ""

    def plain_network(self, name: str) -> nn.Module:
        return _timm().create_model(self.model(name), num_classes=1)  # networks without a classifier get one

    def classifiers(self, name: str, network: nn.Module) -> list[str]:
        """The layers that `reset_classifier` replaces: one, two (distilled), or none (headless)."""
        from torch import nn

        classifier: Any = network.get_classifier()  # type: ignore[operator]
        layers = classifier if isinstance(classifier, (tuple, list, nn.ModuleList)) else [classifier]
        return [path for path, module in network.named_modules() if any(module is layer for layer in layers)]

    def pretrained_state(self, name: str, weights: str) -> Mapping[str, Tensor]:
        from featcache.backbones.weights.adapt import adapt
        from featcache.backbones.weights.checkpoint import read_checkpoint

        network, conversions = self._create(name, weights, None)
        if not is_file(weights):
            return dict(network.state_dict())
        file = locate(weights, name)
        states, classifiers = read_checkpoint(file.path), self.classifiers(name, network)
        return adapt(network, states, classifiers, file.path, key=file.key, conversions=conversions).state

    def build_code(
        self, name: str, classifier: str, classes: int, width: int, image_size: int | None
    ) -> tuple[str, str]:
        size = f", img_size={image_size}" if image_size else ""
        return "import timm", f"model = timm.create_model({self.model(name)!r}, num_classes={classes}{size})"

    def _create(self, name: str, weights: str, image_size: int | None) -> tuple[nn.Module, dict[str, Convert]]:
        """The network, with its published weights if they are requested, and timm's conversion of foreign files."""
        timm, model = _timm(), self.model(name)
        options: dict[str, Any] = {"img_size": image_size} if image_size else {}
        published = weights == PRETRAINED
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
            raise _not_available(name, model, first_line(error)) from error


def _timm() -> Any:
    """timm, imported without the usage data of the Hugging Face client."""
    decline_usage_data()
    import timm

    return timm


def _preprocessing(config: Mapping[str, Any], image_size: int | None = None) -> tuple[dict[str, Any], str]:
    """The values of timm's data config, and a note on the one that featcache replaces."""
    size = image_size or config["input_size"][-1]
    interpolation = config["interpolation"]
    values = {
        "image_size": size,
        "resize_size": round(size / config["crop_pct"]),
        "interpolation": interpolation if interpolation == "bicubic" else "bilinear",
        "mean": config["mean"],
        "std": config["std"],
    }
    replaced = interpolation not in ("bicubic", "bilinear")
    return values, f"images are resized bilinear, not {interpolation}" if replaced else ""


def _create_with_filter(model: str, options: dict[str, Any]) -> tuple[nn.Module, dict[str, Convert]]:
    """A network with random weights, and the function by which timm converts names and shapes of a file for it.

    timm passes that function to `load_pretrained` only, which is therefore replaced during one call.
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
    filters = [function for function in captured if function is not None]

    def convert(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        with _quiet("timm", "root"):
            try:
                return filters[0](state, network)
            except TypeError:  # as timm does: the filters of VGG and RegNet take the state dict only
                return filters[0](state)

    return network, {"timm": convert} if filters else {}


def _check_patches(name: str, network: nn.Module, image_size: int) -> None:
    """Reject a size that is not a multiple of the patches: timm would silently drop the pixels at two edges."""
    timm = _timm()

    for embedding in network.modules():
        if isinstance(embedding, timm.layers.PatchEmbed):
            patch = max(embedding.patch_size)
            if image_size % patch and not embedding.dynamic_img_pad:
                raise BackboneError(
                    f"{name} cuts images into patches of {patch} pixels, and {image_size} is not a "
                    f"multiple of {patch}: choose {sizes_near(image_size, patch)}"
                )
            return  # the later ones merge patches


def _accepts(network: nn.Module, image_size: int) -> bool:
    """Whether a network takes pictures of this size without being built for it."""
    import torch

    training = network.training
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(1, 3, image_size, image_size))
        return True
    except (AssertionError, ArithmeticError, RuntimeError, ValueError):
        return False
    finally:
        network.train(training)


def _check_model(name: str, model: str) -> None:
    """Reject a model or a tag that timm does not have, with close ones."""
    timm = _timm()

    if model.startswith(_LOCATIONS):
        folder = Path(model.partition(":")[2])
        if model.startswith(_FOLDER) and not (folder / "config.json").is_file():
            raise BackboneError(
                f"{folder} has no config.json: {name} takes a folder that timm's save_for_hf or a download of the hub "
                "wrote (config.json, model.safetensors)"
            )
        return
    plain, _, tag = model.partition(".")
    if not timm.is_model(plain):
        raise _no_model(plain, timm.list_models())
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{plain}.*")]
    if tag and tag not in tags:
        close = closest_names(tag, tags, 12) or tags[:12]
        names = ", ".join(f"{_PREFIX}{plain}.{other}" for other in close)
        raise BackboneError(
            f"timm has no weights {tag!r} of {plain}{f'; it has {names}' if close else '; it has no weights'}"
        )


def _no_model(model: str, models: Iterable[str]) -> BackboneError:
    close = closest_names(model, models)
    names = f"; close: {', '.join(f'{_PREFIX}{other}' for other in close)}" if close else ""
    return BackboneError(f"timm has no model {model!r}{names}")


def _check_hub(name: str, model: str, published: bool) -> None:
    """Raise at once if a file is not on this machine and the hub cannot be reached: timm retries for minutes.

    published : whether the weights are needed; a repository of the hub needs its config in any case.
    """
    timm = _timm()
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    is_repository = model.startswith(_LOCATIONS)
    if model.startswith(_FOLDER) or not (published or is_repository):
        return
    config = None if is_repository else timm.get_pretrained_cfg(model)
    repository = model.partition(":")[2] if is_repository else config and config.hf_hub_id
    if not repository:
        return
    repository, _, revision = str(repository).partition("@")
    alternatives = [("config.json",)] * is_repository + [_HUB_FILES] * published
    if all(any(_is_cached(repository, file, revision) for file in files) for files in alternatives):
        return
    url = huggingface_hub.hf_hub_url(repository, "config.json", revision=revision or None)
    try:
        huggingface_hub.get_hf_file_metadata(url, timeout=10)
    except HfHubHTTPError:
        return  # the hub answers; timm reports the error
    except Exception as error:  # of any HTTP library
        raise _not_available(name, model, first_line(error), published) from error


def _is_cached(repository: str, file: str, revision: str) -> bool:
    import huggingface_hub

    return isinstance(huggingface_hub.try_to_load_from_cache(repository, file, revision=revision or None), str)


def _not_available(name: str, model: str, reason: str, published: bool = True) -> BackboneError:
    """published : whether the weights are needed; else the config of a repository of the hub."""
    location, _, path = model.partition(":")
    if f"{location}:" == _FOLDER:
        cure = f"Put model.safetensors into {path}"
    else:
        cure = f"Put {_hub_file(model)} into the Hugging Face cache ({_hub_cache()})"
    what, otherwise = ("pretrained weights", ", pass --weights PATH,") if published else ("config", "")
    verb = "are" if published else "is"
    return BackboneError(
        f"the {what} of {name} {verb} not available ({reason}). {cure}{otherwise} or use the embedded "
        f"--backbone {EMBEDDED}, which needs no download."
    )


def _hub_file(model: str) -> str:
    """The files that timm needs from the Hugging Face hub."""
    if model.startswith(_LOCATIONS):
        return f"config.json and model.safetensors of {model.partition(':')[2]}"
    config = _timm().get_pretrained_cfg(model)
    return f"model.safetensors of {config.hf_hub_id}" if config and config.hf_hub_id else "them"


def _hub_cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return str(HF_HUB_CACHE)


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Silence the messages of a library that our note repeats."""
    loggers = [logging.getLogger(None if name == "root" else name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


SOURCES.register("timm", TimmSource())
