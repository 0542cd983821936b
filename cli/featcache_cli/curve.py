"""featcache curve"""

from __future__ import annotations

import click

from featcache_cli import options


@click.command()
@click.argument("cache", type=click.Path())
@click.option("--over", type=click.Choice(["labels", "views"]), default="labels", show_default=True,
              help="Shares of the training labels, or augmented views of each image.")  # fmt: skip
@click.option("--head", type=click.Choice(["linear", "ridge", "lda", "centroid", "knn"]), default="linear",
              show_default=True, help="The head that is fitted.")  # fmt: skip
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Draws of each share of labels.")
@click.option("-o", "--out", type=click.Path(dir_okay=False), help="Picture: curve.png, curve.svg. [default: none]")
@click.option("--layer", default="penultimate", show_default=True, help="Which features of the cache.")
@options.seed_option
@options.as_json
def command(cache: str, over: str, head: str, repeats: int, out: str | None, layer: str, seed: int,
            as_json: bool) -> None:  # fmt: skip
    """How accuracy and seconds grow with labels, or with views, all from one CACHE."""
    import featcache

    with options.progress_bar() as progress:
        if over == "labels":
            found = featcache.label_curve(cache, head=head, repeats=repeats, layer=layer, seed=seed, progress=progress)
        else:
            found = featcache.view_curve(cache, head=head, layer=layer, seed=seed, progress=progress)
    if out:
        from featcache.plots import plot_curve

        plot_curve(found, out)
    options.show(found, as_json)
