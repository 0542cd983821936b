"""featcache update"""

from __future__ import annotations

from typing import Any

import click

from featcache_cli import options, outputs


@options.command()
@click.argument("cache", type=options.PATH)
@click.argument("data", type=options.PATH)
@click.option(
    "--views",
    type=click.IntRange(0, 65534),
    help="How many augmented views (K) each training sample gets. [default: as before]",
)
@click.option(
    "--augment",
    type=options.RecipeName(),
    help="Recipe of the augmented views. With another one the clean features are kept. [default: as before; "
    "that of `extract` if the cache has no augmented views]",
)
@click.option("--weights", type=options.PATH, help="The file of the network's weights, if it was moved.")
@options.factory_option
@click.option("--retry", is_flag=True, help="Try again to read the samples that were skipped.")
@click.option("--allow-leak", is_flag=True, default=None, help="Accept samples that are in train and in val or test.")
@options.label_column_option
@options.text_column_option
@click.option("--skip-missing", is_flag=True, default=None, help="Skip images whose files are missing.")
@click.option(
    "--dry-run", is_flag=True, help="Change nothing; print what would be done, with its estimated time and size."
)
@click.option(
    "--yes", is_flag=True, help="Continue even if the features of more than a quarter of the samples are dropped."
)
@options.batch_size_option
@options.machine_options
@options.deterministic_option
@options.engine_option
@options.max_pixels_option
@options.strict_option
@outputs.list_option
@options.as_json
def command(cache: str, data: str, yes: bool, listed: str | None, as_json: bool, **settings: Any) -> None:
    """Bring CACHE up to date with DATA: extract new and changed samples, keep the others, drop removed ones.

    Samples are compared by content, so renamed, relabelled and newly labeled ones are not extracted again. The old
    cache stays until the new one is complete. Run the same command again to resume after an interruption.
    """
    import featcache

    settings["allow_loss"] = yes or (False if as_json else options.ask)
    settings["on_note"] = None if as_json else options.note
    with options.progress_bar(then=options.LOADING) as progress:
        result = featcache.update(cache, data, progress=progress, **settings)
    options.show(result, as_json)
    if listed:
        result.write_list(listed)
