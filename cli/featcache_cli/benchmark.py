"""featcache benchmark"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from featcache.finetuning.text_defaults import TEXT_DEFAULTS
from featcache.training.config import TrainOptions
from featcache_cli import options, outputs
from featcache_cli.wrapping import wrap

_F = TypeVar("_F", bound=Callable[..., Any])


def _training(name: str, help: str, **attributes: Any) -> Callable[[_F], _F]:
    """The option of a field of `TrainOptions`, whose default depends on the samples."""
    note = f"; for texts {TEXT_DEFAULTS[name]}"
    return options.shared(name, TrainOptions, default=None, note=note, help=help, **attributes)


@options.command()
@click.argument("data", type=options.PATH)
@click.option(
    "-o",
    "--out",
    type=options.PATH,
    required=True,
    help="The folder for report.md, report.json, report.png and the runs. An interrupted benchmark resumes in it.",
)
@outputs.overwrite_option
@click.option(
    "--routes",
    help="Which routes to run, separated by commas: cached, tfidf (for texts, without an encoder), frozen "
    "(run live every epoch), lpft (fine-tuning from a fitted head), finetune, scratch. [default: all]",
)
@options.backbone_option
@options.weights_option
@options.views_option
@click.option("--head", default="auto", show_default=True, help="The head of the cached route; see `fit-head`.")
@options.view_options
@options.text_options
@_training("epochs", "How many epochs live routes train.", type=click.IntRange(1))
@_training(
    "lr",
    "The learning rate of live routes; LP-FT, and a head on a frozen encoder of texts, have their own.",
    type=click.FloatRange(0, min_open=True),
)
@_training("batch_size", "The batch size of live routes.", type=click.IntRange(1))
@click.option("--repeats", type=click.IntRange(1), help="How many seeds to run. [default: 1; with --budget 3, as far "
              "as they fit]")  # fmt: skip
@click.option(
    "--budget",
    "budget_s",
    callback=options.duration,
    help="The time for the whole benchmark, such as 10m. Runs that do not fit are skipped. [default: no limit]",
)
@options.machine_options
@options.deterministic_option
@options.precision_option("auto", help="The precision of the extraction.")
@options.precision_option(
    None, "--train-precision", "The precision of live routes. [default: that of --precision; auto for fp16]"
)
@options.seed_option
@options.val_fraction_option
@options.allow_leak_option
@options.label_column_option
@options.text_column_option
@options.skip_missing_option
@options.value_range_option
@options.as_json
def command(epochs: int | None, lr: float | None, batch_size: int | None, as_json: bool, **settings: Any) -> None:
    """Compare a cached head, the frozen network run live, LP-FT, fine-tuning and training from scratch on DATA.

    For texts, TF-IDF with logistic regression is compared, too, and the verdict says whether it is enough.
    """
    import featcache
    from featcache.reports.benchmark_report import comparison_values, write_report
    from featcache.reports.pages.benchmark import write_benchmark_page

    options.import_from_here()  # --backbone may name a factory of the working folder
    given = {"epochs": epochs, "lr": lr, "batch_size": batch_size}
    config = {name: value for name, value in given.items() if value is not None}
    with options.progress_bar(grace_s=options.TRAINING_GRACE_S) as progress:
        settings["overwrite"] = outputs.overwrites(click.get_current_context())
        settings["on_note"] = None if as_json else options.note
        result = featcache.benchmark(config=config, progress=progress, **settings)
    text = write_report(result, settings["out"])
    page = write_benchmark_page(Path(settings["out"]) / "report.html", result, settings["out"], settings["data"])
    text = f"{text}\nReport with figures: {page}\n\n{featcache.reach_verdict(result)}"
    options.print_json(comparison_values(result)) if as_json else click.echo(wrap(text))
