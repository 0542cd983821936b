"""featcache evaluate"""

from __future__ import annotations

from typing import Any

import click

from featcache_cli import options, outputs
from featcache_cli.requirements import Requirement, check_requirements, require_option


@options.command()
@click.argument("model", type=options.PATH)
@click.argument("data", type=options.PATH)
@click.option(
    "-o",
    "--out",
    type=options.PATH,
    callback=outputs.new_report,
    help="The folder for val.csv (each prediction), run.json (the figures) and unknown.csv (samples of classes unknown "
    "to the model). [default: not saved]",
)
@outputs.overwrite_option
@click.option(
    "--split",
    type=click.Choice(["auto", "train", "val", "test", "all"]),
    default="auto",
    show_default=True,
    help="Which samples of DATA; auto takes all but train.",
)
@options.label_column_option
@options.text_column_option
@options.skip_missing_option
@click.option(
    "--tta",
    type=click.IntRange(0),
    help="How many augmented views are averaged with the clean one. [default: the number of `fit-head --tta`]",
)
@options.batch_size_option
@click.option("--weights", type=options.PATH, help="The file of the backbone's weights, if it was moved.")
@options.factory_option
@options.device_option
@require_option
@options.as_json
def command(require: list[Requirement], as_json: bool, **settings: Any) -> None:
    """Compare the predictions of MODEL, a saved head or a fine-tuned run, with the labels of DATA.

    DATA is anything that extract takes; it needs neither a train folder nor all classes. Samples of classes that MODEL
    does not know are counted by class and left out of the figures.
    """
    import featcache

    with options.progress_bar(resumes=False) as progress:
        result = featcache.evaluate(progress=progress, **settings)
    options.show(result, as_json)
    check_requirements(require, result)
