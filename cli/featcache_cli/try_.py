"""featcache try"""

from __future__ import annotations

from typing import Any

import click

from featcache_cli import options


@options.command()
@click.argument("data", type=options.PATH)
@click.option(
    "-o", "--out", type=options.PATH, default="featcache-try", show_default=True, help="Folder for all files."
)
@options.backbone_option
@options.weights_option
@click.option("--views", type=click.IntRange(0, 65534), default=4, show_default=True, help="Augmented views an image.")
@options.image_size_option
@options.label_column_option
@options.skip_missing_option
@options.value_range_option
@options.device_option
@click.option("--budget", "budget_s", callback=options.duration, default="10s", show_default=True,
              help="Time for the choice of the head: 30s, 2m.")  # fmt: skip
@options.seed_option
@options.as_json
def command(as_json: bool, **settings: Any) -> None:
    """Try it on DATA, a folder of labelled images: features, faults, the best head and a report, in plain words.

    All files go to one folder. Run the same command again after an interruption: it goes on where it was.
    """
    import featcache

    options.take_backbone(settings)
    with options.progress_bar() as progress:
        result = featcache.try_out(progress=progress, on_note=None if as_json else options.note, **settings)
    options.show(result, as_json)
