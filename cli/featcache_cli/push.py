"""featcache push"""

from __future__ import annotations

import click

from featcache_cli import options, outputs


@options.command()
@click.argument("cache", type=options.PATH)
@click.argument("url", type=options.PATH)
@outputs.overwrite_option
@options.as_json
def command(cache: str, url: str, as_json: bool) -> None:
    """Upload CACHE to URL (s3://, gs://, ...), after verifying every row."""
    import featcache

    with options.progress_bar() as progress:
        overwrite = outputs.overwrites(click.get_current_context())
        result = featcache.push(cache, url, overwrite=overwrite, progress=progress)
    options.show(result, as_json, cache=cache)
