"""featcache compare-heads"""

from __future__ import annotations

import click

from featcache_cli import options


@options.command()
@click.argument("first", type=options.PATH)
@click.argument("second", type=options.PATH)
@options.as_json
def command(first: str, second: str, as_json: bool) -> None:
    """Test whether the accuracies of FIRST and SECOND on val differ significantly.

    Both are folders that fit-head or finetune wrote.
    """
    import featcache

    options.show(featcache.compare_heads(first, second), as_json)
