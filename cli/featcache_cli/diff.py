"""featcache diff"""

from __future__ import annotations

import sys

import click

from featcache_cli import options, outputs


@options.command()
@click.argument("a", type=options.PATH)
@click.argument("b", type=options.PATH)
@outputs.list_option
@options.as_json
def command(a: str, b: str, listed: str | None, as_json: bool) -> None:
    """Compare cache A with cache B, or with a folder or table of images or texts: settings and samples, by content.

    Exit status: 1 = they differ.
    """
    import featcache

    with options.progress_bar() as progress:
        diff = featcache.diff(a, b, progress=progress)
    options.show(diff, as_json)
    if listed:
        diff.write_list(listed)
    if not diff.same:
        sys.exit(1)
