"""featcache pull"""

from __future__ import annotations

import click

from featcache_cli import options, outputs


@options.command()
@click.argument("url", type=options.PATH)
@click.argument("out", type=options.PATH)
@outputs.overwrite_option
@options.as_json
def command(url: str, out: str, as_json: bool) -> None:
    """Download the cache at URL to the file OUT, and verify every row. An interrupted download resumes."""
    import featcache

    with options.progress_bar() as progress:
        overwrite = outputs.overwrites(click.get_current_context())
        result = featcache.pull(url, out, overwrite=overwrite, progress=progress)
    options.show(result, as_json, cache=out)
