"""featcache finetune"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import click

from featcache.core.specs import EMBEDDED, EMBEDDED_TEXT
from featcache.finetuning.strategy import LP_FT_DEFAULTS, StrategyOptions
from featcache.finetuning.text_defaults import TEXT_DEFAULTS
from featcache.training.config import TrainConfig, TrainOptions
from featcache_cli import options, outputs
from featcache_cli.lazy_choice import LazyChoice

_F = TypeVar("_F", bound=Callable[..., Any])

GROUPS = {
    "Initial weights": ("backbone", "init", "weights", "weights_key", "init_head", "reuse_until"),
    "Trained layers": ("mode", "unfreeze", "layer_decay", "batchnorm", "wise_ft"),
    "Training": ("preset", "augment", "epochs", "patience", "lr", "head_lr", "momentum", "weight_decay", "optimizer",
                 "schedule", "step_size", "batch_size", "class_weight", "label_smoothing", "image_size", "max_length",
                 "prefix", "seed"),
    "Data": ("val_fraction", "split_seed", "allow_leak", "label_column", "text_column", "skip_missing", "max_pixels",
             "value_range", "image_cache"),
    "Records": ("log", "listed"),
    "Machine": ("workers", "device", "deterministic", "precision", "compile"),
}  # fmt: skip


def _presets() -> list[str]:
    from featcache.finetuning.presets import PRESETS

    return list(PRESETS)


def _unfreeze(_ctx: click.Context, _option: click.Parameter, text: str | None) -> str | int | None:
    """Parse all, last-stage or a number; the library rejects other values."""
    return int(text) if text and text.isascii() and text.isdigit() else text


def _class_weight(_ctx: click.Context, _option: click.Parameter, text: str | None) -> str | dict[str, float] | None:
    """Parse balanced, or CLASS=WEIGHT separated by commas; the library rejects unknown classes."""
    if text is None or text == "balanced":
        return text
    try:
        pairs = [pair.rpartition("=") for pair in text.split(",")]
        return {name: float(weight) for name, _, weight in pairs}
    except ValueError as error:
        raise click.BadParameter(f"{text} is neither balanced nor CLASS=WEIGHT,CLASS=WEIGHT, such as ants=3") from error


def _training(name: str, **attributes: Any) -> Callable[[_F], _F]:
    """The option of a field of `TrainOptions`; a preset, --init-head or texts may set another default."""
    note = f"; with --init-head {LP_FT_DEFAULTS[name]}" if name in LP_FT_DEFAULTS else ""
    note += f"; for texts {TEXT_DEFAULTS[name]}" if name in TEXT_DEFAULTS else ""
    return options.shared(name, TrainOptions, default=None, note=note, **attributes)


@options.command(groups=GROUPS)
@click.argument("data", type=options.PATH)
@click.option("-o", "--out", type=options.PATH, required=True, help="The folder of the run.")
@outputs.overwrite_option
@click.option("--preset", type=LazyChoice(_presets), help="Use a tutorial's settings; other options override them.")
@click.option("--backbone", help=f"The network, as in extract. [default: {EMBEDDED}, for texts {EMBEDDED_TEXT}]")
@click.option(
    "--init",
    type=click.Choice(["pretrained", "scratch"]),
    default="pretrained",
    show_default=True,
    help="Start from pretrained or from random weights.",
)
@click.option(
    "--weights", type=options.PATH, is_eager=True, help="Start from this weights file, or the folder of a run, instead."
)
@options.weights_key_option
@options.shared("init_head", StrategyOptions, type=str, metavar="HEAD")
@options.shared("reuse_until", StrategyOptions, metavar="STAGE")
@options.shared("mode", StrategyOptions, flag="--train")
@options.shared("unfreeze", StrategyOptions, default=None, type=str, callback=_unfreeze, metavar="STAGES")
@options.shared("layer_decay", StrategyOptions, default=None, type=click.FloatRange(0, 1, min_open=True))
@options.shared("batchnorm", StrategyOptions)
@options.shared("wise_ft", StrategyOptions, type=click.FloatRange(0, 1), metavar="SHARE")
@options.view_options
@options.text_options
@_training("epochs", type=click.IntRange(1))
@_training("lr", type=click.FloatRange(0, min_open=True))
@_training("head_lr", type=click.FloatRange(0, min_open=True))
@_training("momentum", type=click.FloatRange(0, 1))
@_training("weight_decay", type=click.FloatRange(0))
@_training("optimizer")
@_training("schedule")
@_training(
    "step_size",
    type=click.IntRange(1),
    help=f"After how many epochs --schedule step divides by {1 / TrainConfig().gamma:g}.",
)
@_training("batch_size", type=click.IntRange(1))
@_training("class_weight", type=str, callback=_class_weight, metavar="balanced|CLASS=W,...")
@_training("label_smoothing", type=click.FloatRange(0, 1, max_open=True))
@_training("patience", type=click.IntRange(1), metavar="EPOCHS")
@options.machine_options
@options.deterministic_option
@options.precision_option(
    None, help="The precision of the network; auto trains in bf16 or fp32. [default: auto on a GPU, else fp32]"
)
@click.option("--compile", is_flag=True, help="Train through torch.compile: it starts later, and then runs faster.")
@options.seed_option
@options.data_options
@options.text_column_option
@click.option(
    "--image-cache",
    type=options.PATH,
    help="Store the decoded images in this file, so that later epochs and runs do not decode them.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Train a run in --out longer: with more --epochs "
    "or --patience than before. An unchanged command resumes without it.",
)
@click.option(
    "--log",
    multiple=True,
    type=click.Choice(["jsonl", "tensorboard"]),
    help="Write the loss of each step and the metrics of each epoch into --out: log.jsonl, or event files of "
    "TensorBoard. Repeat it for both.",
)
@outputs.list_option
@options.as_json
def command(init: str, weights: str | None, listed: str | None, as_json: bool, **settings: Any) -> None:
    """Train a network on DATA end to end, or its head alone, and keep the weights of the best val epoch.

    Several processes train together, each on a part of every batch, if `torchrun --no-python featcache finetune
    ...` starts them.
    """
    import featcache
    from featcache.finetuning.precision import training_precision
    from featcache.finetuning.presets import resolve
    from featcache.reports.plots import plot_history
    from featcache.reports.style import save
    from featcache.training.distributed import ProcessGroup

    process_group = ProcessGroup.from_torchrun()
    if init == "scratch" and weights:
        raise click.UsageError("--init scratch starts from random weights: drop it, or --weights.")
    source = "none" if init == "scratch" else weights or "pretrained"
    precision = partial(training_precision, settings["precision"], settings["device"], settings["mode"])
    options.take_backbone(settings, weights=source, precision=precision)
    with options.progress_bar(then=options.LOADING, grace_s=options.TRAINING_GRACE_S) as progress:
        settings |= {"progress": progress if process_group.is_main_process else None, "process_group": process_group}
        settings["on_epoch"] = None if as_json or not process_group.is_main_process else options.echo
        settings["overwrite"] = outputs.overwrites(click.get_current_context())
        settings["on_note"] = None if as_json else options.note
        run = featcache.finetune(**resolve(settings), weights=source)
    if process_group.is_main_process:
        save(partial(plot_history, run.history), run.path / "curves.png")
        options.show(run, as_json)
        if listed:
            run.write_list(listed)
