"""featcache info"""

from __future__ import annotations

import click

from featcache_cli import options, outputs


@options.command()
@click.argument("cache", type=options.PATH)
@outputs.list_option
@options.as_json
def command(cache: str, listed: str | None, as_json: bool) -> None:
    """Show what a cache holds, finished or not."""
    import featcache

    features = featcache.FeatureCache.open(cache, partial=True)
    options.show(features, as_json)
    if listed:
        features.write_list(listed)
