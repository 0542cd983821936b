"""featcache info"""

from __future__ import annotations

import click

from featcache_cli import options


@options.command()
@click.argument("cache", type=options.PATH)
@options.as_json
def command(cache: str, as_json: bool) -> None:
    """Show what a cache holds, finished or not."""
    import featcache

    options.show(featcache.FeatureCache.open(cache, partial=True), as_json)
