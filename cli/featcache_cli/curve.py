"""featcache curve"""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from featcache_cli import options


@options.command()
@click.argument("cache", type=options.PATH)
@click.option("--over", type=click.Choice(["labels", "views"]), default="labels", show_default=True,
              help="What grows: the training labels, or the augmented views of each image.")  # fmt: skip
@click.option("--head", type=click.Choice(["linear", "ridge", "lda", "centroid", "knn", "head2toe"]), default="linear",
              show_default=True, help="Which head is fitted.")  # fmt: skip
@click.option("--repeats", type=click.IntRange(1), help="How often each share of the labels is drawn. [default: 5]")
@options.picture_option
@click.option("--layer", default="penultimate", show_default=True, help="Which features of the cache are used.")
@click.option("--seed", default=0, show_default=True, help="The seed of draws and folds.")
@options.as_json
def command(cache: str, over: str, repeats: int | None, out: str | None, as_json: bool, **settings: Any) -> None:
    """Show how accuracy and seconds grow with labels, or with views, all from one CACHE."""
    import featcache

    if over == "views" and repeats:
        raise click.UsageError("--repeats is for labels: there is one way to take the first views")
    with options.progress_bar(resumes=False) as progress:
        if over == "labels":
            found = featcache.label_curve(cache, repeats=repeats or 5, progress=progress, **settings)
        else:
            found = featcache.view_curve(cache, progress=progress, **settings)
    options.show(found, as_json, cache=cache)
    if out:
        from featcache.reports.plots import plot_curve
        from featcache.reports.style import save

        save(partial(plot_curve, found), out)
