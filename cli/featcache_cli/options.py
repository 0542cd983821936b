"""Options that several commands share; most come from the fields of `featcache.core.options`."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from featcache.core.head_options import LayerOptions
from featcache.core.options import AutoExtractArguments, ExtractArguments, fields_of
from featcache.core.specs import AUGMENTS, EMBEDDED, TEXT_AUGMENTS
from featcache.core.split_names import ALL, SPLITS
from featcache.reports.file_types import FORMATS
from featcache_cli import outputs
from featcache_cli.base import command as command
from featcache_cli.progress import LOADING as LOADING
from featcache_cli.progress import StoppedError as StoppedError
from featcache_cli.progress import ask as ask
from featcache_cli.progress import echo as echo
from featcache_cli.progress import end_display as end_display
from featcache_cli.progress import note as note
from featcache_cli.progress import progress_bar as progress_bar
from featcache_cli.progress import step as step
from featcache_cli.results import print_json as print_json
from featcache_cli.results import show as show
from featcache_cli.stopping import TRAINING_GRACE_S as TRAINING_GRACE_S

PATH = click.Path()
"""Type of arguments and options that take files: shells complete them. URLs are accepted."""

_F = TypeVar("_F", bound=Callable[..., Any])


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


def _all(*options: Callable[[_F], _F]) -> Callable[[_F], _F]:
    def decorate(function: _F) -> _F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def shared(
    name: str, kind: type[Any] = ExtractArguments, *, flag: str = "", note: str = "", **attributes: Any
) -> Callable[[_F], _F]:
    """The option of a field of `featcache.core.options`, with the default and the description of the field.

    Parameters
    ----------
    name : str
    kind : TypedDict
        The options that the field is one of.
    flag : str
        The option on the command line, where it is not the name of the field.
    note : str
        Text after the default in `[default: ...]`.
    attributes
        Of `click.option`; those that are not given come from the field.
    """
    field = fields_of(kind)[name]
    flag, default, text = flag or f"--{name.replace('_', '-')}", field.option.default, field.option.description
    if default is False:
        return click.option(flag, name, is_flag=True, help=text, **attributes)
    attributes = {"default": default, "help": text, **attributes}
    if attributes["default"] is None:
        shown = f"{default:g}" if isinstance(default, float) else default
        attributes["help"] += f" [default: {field.option.none or shown}{note}]"
    if field.choices:
        attributes.setdefault("type", click.Choice(field.choices))
    return click.option(flag, name, show_default=attributes["default"] is not None, **attributes)


val_fraction_option = shared("val_fraction", type=click.FloatRange(0, 1, min_open=True, max_open=True))
allow_leak_option = shared("allow_leak")
label_column_option = shared("label_column", metavar="NAME")
text_column_option = shared("text_column", metavar="NAME")
skip_missing_option = shared("skip_missing")
max_pixels_option = shared("max_pixels", type=click.IntRange(1))


def _value_range(_ctx: click.Context, _option: click.Parameter, text: str | None) -> tuple[float, float] | None:
    """A callback that reads two numbers from LOW:HIGH."""
    if text is None:
        return None
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise click.BadParameter(f"{text!r} is not a range such as 0:4095 or -1024:3071")
    return low, high


value_range_option = shared("value_range", metavar="LOW:HIGH", callback=_value_range)
data_options = _all(
    val_fraction_option,
    shared("split_seed"),
    allow_leak_option,
    label_column_option,
    skip_missing_option,
    max_pixels_option,
    value_range_option,
)
device_option = shared("device")
machine_options = _all(shared("workers", type=click.IntRange(1)), device_option)
deterministic_option = shared("deterministic")
batch_size_option = shared("batch_size", type=click.IntRange(1))
engine_option = shared("engine")


class ViewNumber(click.IntRange):
    """A number of views, or auto."""

    name = "integer|auto"

    def __init__(self) -> None:
        super().__init__(0, 65534)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType`."""
        return value if value == "auto" else super().convert(value, param, ctx)


views_option = shared("views", type=click.IntRange(0, 65534))
auto_views_option = shared("views", AutoExtractArguments, type=ViewNumber())
val_views_option = shared("val_views", type=click.IntRange(0))
layers_option = shared("layers")
dtype_option = shared("dtype")
layer_option = shared("layer", LayerOptions)


def split_option(default: str | None, text: str) -> Callable[[_F], _F]:
    """The option that selects rows of a cache."""
    return click.option(
        "--split", type=click.Choice((ALL, *SPLITS)), default=default, show_default=bool(default), help=text
    )


class Finite(click.FloatRange):
    """A number in a range; infinity and NaN are rejected."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType`."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


cluster_options = _all(
    click.option("--cluster", metavar="auto|ADDRESS", help="Use the machines of a Ray cluster; auto is the cluster "
                 "of this machine, or several workers on this machine."),
    click.option("--gpus-per-worker", type=Finite(0), help="How many GPUs a worker of --cluster gets. [default: 0]"),
    click.option("--cpus-per-worker", type=click.IntRange(1), help="How many cores a worker of --cluster gets. "
                 "[default: the cores of a machine, divided by its GPU workers, or all for one worker]"),
)  # fmt: skip


def take_cluster(settings: dict[str, Any]) -> Any:
    """Remove the `cluster_options` from the settings. Returns a Cluster, or None."""
    from featcache.core.ray_cluster import Cluster

    gpus, cpus = settings.pop("gpus_per_worker"), settings.pop("cpus_per_worker")
    address = settings.pop("cluster")
    if address is None and (gpus or cpus):
        raise click.UsageError("--gpus-per-worker and --cpus-per-worker need --cluster")
    return None if address is None else Cluster(address, gpus or 0, cpus)


strict_option = click.option(
    "--strict", is_flag=True, help="Stop at the first unreadable sample instead of listing it."
)


class RecipeName(click.Choice[str]):
    """The name of a view recipe of featcache, or of another package."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """See `click.ParamType`. The help text has the names, which are too long for one line."""
        return "RECIPE"

    def __init__(self) -> None:
        super().__init__(tuple(dict.fromkeys((*AUGMENTS, *TEXT_AUGMENTS))))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from featcache.core.view_recipes import versioned_name
        from featcache.core.view_specs.registry import VIEW_SPECS

        own = [name for modality in VIEW_SPECS.registered() for name in VIEW_SPECS.get(modality).recipes.names]
        if value in own or versioned_name(value, AUGMENTS) is not None:  # other packages load for other names only
            return value
        return super().convert(value, param, ctx)


image_size_option = shared("image_size", type=click.IntRange(1))
view_options = _all(
    shared("augment", type=RecipeName()),
    image_size_option,
    shared("interpolation"),
    shared("decode_side", type=click.IntRange(1)),
)
"""The options that determine the pixels of a view, except `--seed` and `--value-range`."""
text_options = _all(shared("max_length", type=click.IntRange(1)), shared("prefix", metavar="TEXT"))
"""The options that determine the tokens of a text."""
seed_option = shared("seed")
backbone_option = click.option(
    "--backbone",
    help="The network: efficientnet_lite0 (embedded), a torchvision model such as resnet18, or timm/NAME; or "
    "MODULE:FACTORY, your own function that returns the network. For texts: all-minilm-l6-v2 (embedded), "
    f"sentence-transformers/NAME or transformers/NAME. [default: {EMBEDDED}, for texts all-minilm-l6-v2]",
)


def _set_key(ctx: click.Context, _option: click.Parameter, key: str | None) -> None:
    """A callback that appends the key to the weights, which are parsed first."""
    if not key:
        return
    if ctx.params.get("weights") in (None, "pretrained", "none"):
        raise click.BadParameter("it needs --weights PATH: it selects a state dict of that file")
    ctx.params["weights"] += f"#{key}"


weights_key_option = click.option(
    "--weights-key", expose_value=False, callback=_set_key, metavar="KEY",
    help="The state dict in the file of --weights, such as model_ema, or a prefix of its names. [default: chosen "
    "automatically]",
)  # fmt: skip
weights_option = _all(shared("weights", type=PATH, is_eager=True), weights_key_option)


def _load_factory(_ctx: click.Context, _option: click.Parameter, name: str | None) -> Any:
    """A callback that returns the network of a factory."""
    from featcache.backbones.factory import call_factory, is_factory

    if name is None:
        return None
    if not is_factory(name):
        raise click.BadParameter(f"{name} is not of the form MODULE:FACTORY; drop it for a network of a library")
    import_from_here()
    return call_factory(name)


factory_option = click.option(
    "--backbone", callback=_load_factory, metavar="MODULE:FACTORY", help="Your own network: a function "
    "that returns it.",
)  # fmt: skip


def take_backbone(
    settings: dict[str, Any],
    layers: str | Sequence[str] = "penultimate",
    weights: str | None = None,
    precision: Callable[[], str] | None = None,
) -> None:
    """Replace the name of a factory in the settings by its network.

    weights : source of the weights, for a command without the setting `weights`; "none" is `--init scratch`.
    precision : gives that of the network. None: the setting `precision`.
    """
    name = str(settings.get("backbone") or "")
    if ":" not in name:
        return
    from featcache.backbones.factory import from_factory, is_factory

    if not is_factory(name):
        return
    if (weights or settings.get("weights")) not in (None, "pretrained"):
        option = "--init scratch" if weights == "none" else "--weights"
        raise click.UsageError(f"{name} returns a network with its own weights: drop {option}")
    import_from_here()
    chosen = precision() if precision else settings.get("precision", "auto") or "fp32"
    settings["backbone"] = from_factory(name, layers=layers, device=settings["device"], precision=chosen)


def import_from_here() -> None:
    """Make modules of the working folder importable, as `python -m` does."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


_PRECISION = fields_of(ExtractArguments)["precision"].option.description


def precision_option(
    default: str | None,
    name: str = "--precision",
    help: str = _PRECISION,
) -> Callable[[_F], _F]:
    """The option for the precision of the network."""
    choices = click.Choice(["auto", "fp32", "bf16", "fp16"])
    return click.option(name, type=choices, default=default, show_default=default is not None, help=help)


def picture(ctx: click.Context, option: click.Parameter, name: str | None) -> str | None:
    """A callback for the name of a picture file."""
    if name and Path(name).suffix.lower() not in FORMATS:
        raise click.BadParameter(f"{name} is not a picture file: its name must end in .png, .svg or .pdf")
    return outputs.new_file(ctx, option, name)


def picture_option(function: _F, required: bool = False) -> _F:
    """The option `--out` for a picture file."""
    default = "" if required else " [default: none]"
    text = f"Write the picture to this file, which ends in .png, .svg or .pdf.{default}"
    return outputs.overwrite_option(
        click.option("-o", "--out", type=PATH, required=required, callback=picture, help=text)(function)
    )


def duration(_ctx: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """A callback that reads seconds from 10, 10s, 1.5m or 2h."""
    if text is None:
        return None
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    try:
        seconds = float(text[:-1] if unit else text) * (unit or 1)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise click.BadParameter(f"{text!r} is not a duration such as 30s, 2m or 1.5h")
    return seconds
