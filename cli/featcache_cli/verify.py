"""featcache verify"""

from __future__ import annotations

import sys
from typing import Any

import click

from featcache_cli import options, outputs


@options.command()
@click.argument("cache", type=options.PATH)
@click.option(
    "--images",
    type=options.PATH,
    help="Also list the images or texts of this folder or table that were changed, removed or added.",
)
@click.option(
    "--repair",
    type=options.PATH,
    metavar="DATA",
    help="Extract the damaged rows again, and only them, from this folder or CSV.",
)
@click.option("--weights", type=options.PATH, help="The file of the network's weights, if it was moved, for --repair.")
@options.factory_option
@outputs.list_option
@options.as_json
def command(
    cache: str,
    images: str | None,
    repair: str | None,
    weights: str | None,
    backbone: Any,
    listed: str | None,
    as_json: bool,
) -> None:
    """Read all of CACHE and compare it with its checksums; exit status 1 if a row is damaged or a sample differs."""
    import featcache

    if images and repair:
        raise click.UsageError("--images and --repair exclude each other: give one of them")
    with options.progress_bar() as progress:
        if repair:
            result: Any = featcache.repair(cache, repair, weights=weights, backbone=backbone, progress=progress)
        else:
            result = featcache.verify(cache, images, progress=progress)
    options.show(result, as_json)
    if listed:
        result.write_list(listed)
    if not repair and not result.ok:
        sys.exit(1)
