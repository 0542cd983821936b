"""featcache forecast"""

from __future__ import annotations

from typing import Any

import click

from featcache_cli import options


@options.command()
@click.argument("cache", type=options.PATH)
@click.option("--layer", default="penultimate", show_default=True, help="Which features of the cache are used.")
@click.option("--seed", default=0, show_default=True, help="The seed of folds and draws.")
@options.as_json
def command(cache: str, as_json: bool, **settings: Any) -> None:
    """Say from CACHE alone whether fine-tuning will pay, and how often that rule was right."""
    import featcache

    with options.progress_bar(resumes=False) as progress:
        found = featcache.forecast(cache, progress=progress, **settings)
    options.show(found, as_json, cache=cache)
