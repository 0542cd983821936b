"""featcache curve"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import click

from featcache.core.head_options import HeadOptions
from featcache_cli import options


@options.command()
@click.argument("cache", type=options.PATH)
@click.option("--over", type=click.Choice(["labels", "views"]), default="labels", show_default=True,
              help="What is varied: the number of training labels, or of augmented views per sample.")  # fmt: skip
@click.option("--head", type=click.Choice(["auto", "linear", "ridge", "lda", "centroid", "knn", "head2toe"]),
              default="auto", show_default=True, help="The head to fit. auto chooses one on all of train.")  # fmt: skip
@click.option("--repeats", type=click.IntRange(1), help="How often each fraction of the labels is drawn. [default: 5]")
@options.picture_option
@options.shared("layer", HeadOptions)
@click.option("--seed", default=0, show_default=True, help="The seed of the draws and folds.")
@options.as_json
def command(
    cache: str, over: Literal["labels", "views"], repeats: int | None, out: str | None, as_json: bool, **settings: Any
) -> None:
    """Measure accuracy and fitting time against the number of labels, or of views, in CACHE.

    The head and the layers that are not named are chosen as fit-head does, once, on all training samples.
    """
    import featcache

    if over == "views" and repeats:
        raise click.UsageError("--repeats needs --over labels: views are not drawn at random")
    if over == "labels":
        settings["repeats"] = repeats or 5
    with options.progress_bar(resumes=False) as progress:
        result = featcache.curve(cache, over=over, progress=progress, **settings)
    options.show(result, as_json, cache=cache)
    if out:
        from featcache.reports.plots import plot_curve
        from featcache.reports.style import save

        save(partial(plot_curve, result), out)
