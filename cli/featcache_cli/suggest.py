"""featcache suggest"""

from __future__ import annotations

import click

from featcache_cli import options, outputs


def _table(ctx: click.Context, option: click.Parameter, name: str | None) -> str | None:
    if name and not name.lower().endswith(".csv"):
        raise click.BadParameter(f"{name} is not a table: its name must end in .csv")
    return outputs.new_file(ctx, option, name)


@options.command()
@click.argument("cache", type=options.PATH)
@click.argument("data", required=False, type=options.PATH)
@click.option("-n", "n", type=click.IntRange(1), default=40, show_default=True, help="How many samples to suggest.")
@click.option(
    "--head",
    type=options.PATH,
    help="A head that says how certain the class of a sample is. [default: one is fitted once there are enough labels]",
)
@click.option(
    "-o",
    "--out",
    type=options.PATH,
    callback=_table,
    help="Write a CSV table of all samples, the suggested ones first, in which you fill in labels. It needs DATA.",
)
@click.option(
    "--figure",
    type=options.PATH,
    callback=options.picture,
    help="Draw the suggested samples to this file, which ends in .png, .svg or .pdf. It needs DATA.",
)
@outputs.overwrite_option
@click.option("--seed", default=0, show_default=True, help="The seed of draws from many samples, and of the head.")
@options.as_json
def command(
    cache: str, data: str | None, n: int, head: str | None, out: str | None, figure: str | None, seed: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Suggest which samples of CACHE without a label to label next.

    At first they are typical and different from each other; with enough labels, or with --head, they lie between
    classes. With DATA, which CACHE was made from, -o writes a table to fill in: `featcache update CACHE TABLE` reads
    the labels, and the network does not run again.
    """
    import featcache

    if (out or figure) and data is None:
        raise click.UsageError("-o and --figure need DATA: they show samples of DATA")
    with options.progress_bar(resumes=False) as progress:
        result = featcache.suggest(cache, n, head=head, data=data, seed=seed, progress=progress)
    options.show(result, as_json)
    if out:
        result.write_table(out)
    if figure:
        from featcache.reports.style import save
        from featcache.reports.suggestion_figures import suggestions_figure

        save(suggestions_figure(result), figure)
