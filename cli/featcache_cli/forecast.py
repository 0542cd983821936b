"""featcache forecast"""

from __future__ import annotations

from typing import Any

import click

from featcache_cli import options


@options.command()
@click.argument("cache", type=options.PATH)
@options.layer_option
@click.option("--seed", default=0, show_default=True, help="The seed of the folds and draws.")
@options.as_json
def command(cache: str, as_json: bool, **settings: Any) -> None:
    """Predict from CACHE alone whether fine-tuning pays. The rule, and how often it was right, are shown."""
    import featcache

    with options.progress_bar(resumes=False) as progress:
        result = featcache.forecast(cache, progress=progress, **settings)
    options.show(result, as_json, cache=cache)
