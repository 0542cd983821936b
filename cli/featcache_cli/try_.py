"""featcache try"""

from __future__ import annotations

from typing import Any

import click

from featcache.core.options import ExtractOptions, fields_of
from featcache_cli import options


@options.command()
@click.argument("data", type=options.PATH)
@click.option(
    "-o", "--out", type=options.PATH, default="featcache-try", show_default=True, help="Folder for all files."
)
@options.backbone_option
@options.weights_option
@options.views_option
@options.image_size_option
@options.text_options
@options.label_column_option
@options.text_column_option
@options.skip_missing_option
@options.value_range_option
@options.device_option
@click.option("--budget", "budget_s", callback=options.duration, default="10s", show_default=True,
              help="Time for the search of the head, such as 30s or 2m.")  # fmt: skip
@options.seed_option
@options.as_json
def command(as_json: bool, **settings: Any) -> None:
    """Try featcache on DATA, labelled images or texts: extract features, check them, fit the best head, report.

    DATA is a folder with a folder for each class, a table, or anything else that `featcache extract` takes.
    All files go to one folder. After an interruption run the same command again: it resumes.
    """
    import featcache

    options.take_backbone(settings, fields_of(ExtractOptions)["layers"].option.default)
    with options.progress_bar() as progress:
        result = featcache.try_out(progress=progress, on_note=None if as_json else options.note, **settings)
    options.show(result, as_json)
