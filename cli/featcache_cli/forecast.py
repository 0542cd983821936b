"""featcache forecast"""

from __future__ import annotations

from typing import Any

import click

from featcache_cli import options


@click.command()
@click.argument("cache", type=click.Path())
@click.option("--layer", default="penultimate", show_default=True, help="Which features of the cache.")
@click.option("--seed", default=0, show_default=True, help="Of the folds and of the draws of labels.")
@options.as_json
def command(cache: str, as_json: bool, **settings: Any) -> None:
    """Will fine-tuning pay? Foretold from CACHE alone, with how often that was right."""
    import featcache

    with options.progress_bar(resumes=False) as progress:
        found = featcache.forecast(cache, progress=progress, **settings)
    options.show(found, as_json, cache=cache)
