"""featcache compare-heads"""

from __future__ import annotations

import click

from featcache_cli import options


@click.command()
@click.argument("first", type=click.Path())
@click.argument("second", type=click.Path())
@options.as_json
def command(first: str, second: str, as_json: bool) -> None:
    """Is FIRST better than SECOND on val, or is that noise? Both are folders of fit-head or finetune."""
    import featcache

    options.show(featcache.compare_heads(first, second), as_json)
