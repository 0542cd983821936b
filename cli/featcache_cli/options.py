"""What several commands share: options, the progress bar, JSON on stdout."""

from __future__ import annotations

import difflib
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from featcache.core.specs import AUGMENTS as AUGMENTS
from featcache_cli import outputs, progress
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
"""Of arguments and options that take files, which a shell completes; URLs are fine, too."""

_F = TypeVar("_F", bound=Callable[..., Any])


PICTURES = (".png", ".svg", ".pdf")  # as of `featcache.reports.style`, whose import help does not wait for

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


def _all(*options: Callable[[_F], _F]) -> Callable[[_F], _F]:
    def decorate(function: _F) -> _F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


val_fraction_option = click.option(
    "--val-fraction",
    default=0.2,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="The share of images that is held out as val where DATA has no val folder.",
)
allow_leak_option = click.option(
    "--allow-leak", is_flag=True, help="Go on where images of val or test are in train, too."
)
label_column_option = click.option(
    "--label-column", metavar="NAME", help="The column of the labels. [default: label, or the only one it may be]"
)
skip_missing_option = click.option(
    "--skip-missing",
    is_flag=True,
    help="Skip images of a manifest whose files are missing, and list them.",
)
max_pixels_option = click.option(
    "--max-pixels", type=click.IntRange(1), default=178_956_970, show_default=True, help="Larger images are skipped."
)


def _value_range(_ctx: click.Context, _option: click.Parameter, text: str | None) -> tuple[float, float] | None:
    """A callback: two numbers from LOW:HIGH."""
    if text is None:
        return None
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise click.BadParameter(f"{text!r} is no range such as 0:4095 or -1024:3071")
    return low, high


value_range_option = click.option(
    "--value-range", metavar="LOW:HIGH", callback=_value_range, help="Values of images with more than 8 bits a channel "
    "that become black and white, as 0:4095. [default: whole bits that hold the values of the training images]",
)  # fmt: skip
data_options = _all(
    val_fraction_option,
    click.option("--split-seed", default=0, show_default=True, help="The seed of that split."),
    allow_leak_option,
    label_column_option,
    skip_missing_option,
    max_pixels_option,
    value_range_option,
)
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Where the network runs: auto (CUDA, then MPS, then CPU), cpu, cuda:1.",
)
machine_options = _all(
    click.option("--workers", type=click.IntRange(1), help="How many threads decode images. [default: one a core]"),
    device_option,
)
batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(1),
    help="How many views go through the network at once. [default: 32, on a GPU 256]",
)
engine_option = click.option(
    "--engine",
    type=click.Choice(["auto", "pytorch", "compiled", "openvino"]),
    default="auto",
    show_default=True,
    help="What runs the network; auto takes OpenVINO, or torch.compile, on CPUs where it pays.",
)


class Finite(click.FloatRange):
    """A range that neither nan nor inf is in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType`."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


cluster_options = _all(
    click.option("--cluster", metavar="auto|ADDRESS", help="Work on the machines of a Ray cluster; auto is the one "
                 "that this machine is in, else several workers on this machine."),
    click.option("--gpus-per-worker", type=Finite(0), help="How many GPUs a worker of --cluster gets. [default: 0]"),
    click.option("--cpus-per-worker", type=click.IntRange(1), help="How many cores a worker of --cluster gets. "
                 "[default: a machine's cores, shared by a worker for each GPU, or for one worker]"),
)  # fmt: skip


def take_cluster(settings: dict[str, Any]) -> Any:
    """What `cluster_options` say, taken out of the settings: a Cluster, or None."""
    from featcache.core.ray_cluster import Cluster

    gpus, cpus = settings.pop("gpus_per_worker"), settings.pop("cpus_per_worker")
    address = settings.pop("cluster")
    if address is None and (gpus or cpus):
        raise click.UsageError("--gpus-per-worker and --cpus-per-worker are of --cluster: give it, too")
    return None if address is None else Cluster(address, gpus or 0, cpus)


strict_option = click.option("--strict", is_flag=True, help="Stop at the first unreadable image instead of listing it.")
augment_option = click.option(
    "--augment",
    type=click.Choice(AUGMENTS),
    default="tutorial",
    show_default=True,
    help="The recipe of the augmented views.",
)
image_size_option = click.option(
    "--image-size", type=click.IntRange(1), help="The side of the square image in pixels. [default: the network's]"
)
seed_option = click.option("--seed", default=0, show_default=True, help="The seed of views, order and new weights.")
backbone_option = click.option(
    "--backbone",
    default="efficientnet_lite0",
    show_default=True,
    help="The network: efficientnet_lite0 (embedded), a torchvision model such as resnet18, or timm/NAME; or "
    "MODULE:FACTORY, a function of yours that returns the network.",
)


def _set_key(ctx: click.Context, _option: click.Parameter, key: str | None) -> None:
    """A callback: the key becomes part of the weights, which are read before it."""
    if not key:
        return
    if ctx.params.get("weights") in (None, "pretrained", "none"):
        raise click.BadParameter("it chooses in a file: give --weights PATH, too")
    ctx.params["weights"] += f"#{key}"


weights_key_option = click.option(
    "--weights-key", expose_value=False, callback=_set_key, metavar="KEY",
    help="Which state dict of that file, such as model_ema, or a prefix of its names. [default: the usual one]",
)  # fmt: skip
weights_option = _all(
    click.option("--weights", type=PATH, default="pretrained", show_default=True, is_eager=True, help="The network's "
                 "weights: pretrained, none (random), the PATH of a weights file, or a folder that finetune wrote."),
    weights_key_option,
)  # fmt: skip


def _own_network(_ctx: click.Context, _option: click.Parameter, name: str | None) -> Any:
    """A callback: what the factory of this name returns."""
    from featcache.backbones.factory import call_factory, is_factory

    if name is None:
        return None
    if not is_factory(name):
        raise click.BadParameter(f"{name} is no MODULE:FACTORY; networks of libraries are loaded by their names alone")
    import_from_here()
    return call_factory(name)


own_network_option = click.option(
    "--backbone", callback=_own_network, metavar="MODULE:FACTORY", help="The network, where it is your own: a function "
    "that returns it.",
)  # fmt: skip


def take_backbone(
    settings: dict[str, Any], layers: Sequence[str] = ("penultimate",), weights: str | None = None
) -> None:
    """Put a network of the user's own into the settings, where they name a factory.

    weights : where they come from, for a command whose settings do not hold that; "none" is `--init scratch` there.
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
    settings["backbone"] = from_factory(
        name, layers=layers, device=settings["device"], precision=settings.get("precision", "auto") or "fp32"
    )


def import_from_here() -> None:
    """Let modules of the working folder be imported, as `python -m` does."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def precision_option(
    default: str, name: str = "--precision", help: str = "The precision that the network computes in."
) -> Callable[[_F], _F]:
    """The precision that the network computes in."""
    choices = click.Choice(["auto", "fp32", "bf16", "fp16"])
    return click.option(name, type=choices, default=default, show_default=True, help=help)


def _picture(ctx: click.Context, option: click.Parameter, name: str | None) -> str | None:
    if name and Path(name).suffix.lower() not in PICTURES:
        raise click.BadParameter(f"{name} is no picture; end it in .png, .svg or .pdf")
    return outputs.new_file(ctx, option, name)


def picture_option(function: _F, required: bool = False) -> _F:
    """Where a picture goes."""
    default = "" if required else " [default: none]"
    told = f"Write the picture to this file, which ends in .png, .svg or .pdf.{default}"
    return outputs.overwrite_option(
        click.option("-o", "--out", type=PATH, required=required, callback=_picture, help=told)(function)
    )


def duration(_ctx: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """A callback: seconds from 10, 10s, 1.5m or 2h."""
    if text is None:
        return None
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    try:
        seconds = float(text[:-1] if unit else text) * (unit or 1)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise click.BadParameter(f"{text!r} is no duration such as 30s, 2m or 1.5h")
    return seconds


_GROUPS: dict[str, tuple[str, ...]] = {
    "Images": ("val_fraction", "split_seed", "allow_leak", "max_pixels", "strict"),
    "Network": ("backbone", "weights", "layers", "image_size", "augment", "precision", "train_precision", "engine",
                    "dtype"),
    "Machine": ("workers", "device", "batch_size", "cluster", "gpus_per_worker", "cpus_per_worker"),
    "Printing": ("as_json", "quiet", "verbose"),
}  # fmt: skip
_FEW = 8  # options that need no groups

_BOUNDS = re.compile(r"(?:([\d.e+-]+)(<=?))?x(?:(<=?)([\d.e+-]+)|(>=?)([\d.e+-]+))")
_NO_BOUND = 1e9


def _set_verbosity(level: int) -> Callable[[click.Context, click.Parameter, bool], None]:
    def remember(_ctx: click.Context, _option: click.Parameter, given: bool) -> None:
        if given:
            progress.set_verbosity(level)

    return remember


def verbosity_options() -> list[click.Parameter]:
    """-q and -v, which every command has."""
    quiet, verbose = _set_verbosity(progress.QUIET), _set_verbosity(progress.VERBOSE)
    return [
        click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=quiet,
                     help="Print the result alone, without progress and notes."),
        click.Option(["-v", "--verbose"], is_flag=True, expose_value=False, callback=verbose,
                     help="Also print the seconds of each step, and the traceback of an error."),
    ]  # fmt: skip


class Command(click.Command):
    """A command with -q and -v, a display of its progress, and a help in groups.

    Parameters
    ----------
    groups : headings with names of parameters, before those that all commands share; the rest comes first.
    """

    def __init__(self, *args: Any, groups: Mapping[str, Sequence[str]] | None = None, **given: Any) -> None:
        super().__init__(*args, **given)
        self.params += verbosity_options()
        self.groups = groups or {}

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, with a display."""
        outputs.refuse_inputs(ctx)
        with progress.showing(ctx):
            return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options."""
        records: dict[str, tuple[str, str]] = {}
        for option in self.get_params(ctx):
            if isinstance(option, click.Option) and (record := option.get_help_record(ctx)):
                records[option.name or ""] = (record[0].replace(" RANGE", ""), bounds_in_words(record[1]))
        groups = {**self.groups, **_GROUPS} if len(records) > _FEW or self.groups else {}
        help_ = records.pop("help", None)
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for heading, names in groups.items():
            sections[heading] = [records.pop(name) for name in names if name in records]
        sections["Options"] = list(records.values())
        last = [heading for heading in sections if sections[heading]][-1:] or ["Options"]
        sections[last[0]] += [help_] if help_ else []
        for heading, rows in sections.items():
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


def bounds_in_words(text: str) -> str:
    """`[1<=x<=200]` as `[1 to 200]`, `[x>=2]` as `[at least 2]`; bounds that no one meets are left out."""

    def spell(found: re.Match[str]) -> str:
        low, low_mark, high_mark, high, mark, alone = found.groups()
        if high is not None and float(high) >= _NO_BOUND:
            high = None
            mark, alone = (">" if low_mark == "<" else ">="), low
        if high is None and alone is not None:
            if mark == ">=" and float(alone) <= 1:  # a count, or a rate that is not 0
                return ""
            return f"above {alone}" if mark == ">" else f"at least {alone}"
        if low is None:
            return f"below {high}" if high_mark == "<" else f"at most {high}"
        return f"between {low} and {high}" if low_mark == "<" else f"{low} to {high}"

    return re.sub(r" *\[\]", "", re.sub(r"; (?=\])", "", _BOUNDS.sub(spell, text)))


def command(*args: Any, **given: Any) -> Callable[[Callable[..., Any]], Command]:
    """A decorator: `click.command` with `Command`."""
    return click.command(*args, cls=Command, **given)


def refuse_unknown(ctx: click.Context, name: str, commands: Collection[str]) -> None:
    """Raise UsageError for a command that there is not, naming those that are spelt alike."""
    if name in commands or name.startswith("-"):
        return
    alike = difflib.get_close_matches(name.lower().replace("_", "-"), commands, n=2, cutoff=0.7)
    hint = f" Did you mean {' or '.join(alike)}?" if alike else f" There are {', '.join(commands)}."
    raise click.UsageError(f"There is no command {name!r}.{hint}", ctx)
