"""featcache doctor"""

from __future__ import annotations

import sys
from typing import Any

import click

from featcache_cli import options, outputs
from featcache_cli.progress import VERBOSE, verbosity
from featcache_cli.wrapping import safe


@options.command()
@click.argument("cache", type=options.PATH)
@click.argument("data", required=False, type=options.PATH)
@options.layer_option
@options.picture_option
@click.option(
    "--images",
    type=click.IntRange(1, 200),
    default=36,
    show_default=True,
    help="Highest number of images that -o draws.",
)
@click.option("--dark", is_flag=True, help="Draw light lines on a dark background.")
@click.option(
    "--list",
    "listed",
    type=options.PATH,
    callback=outputs.new_file,
    help="Write all affected images or texts to this CSV file.",
)
@click.option("--weights", type=options.PATH, help="The file of the network's weights, if it was moved.")
@options.factory_option
@click.option("--device", default="auto", show_default=True, help="Where the network runs: auto, cpu, cuda:1.")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    help="The seed of the folds, and of the choice of samples if there are many.",
)
@options.as_json
def command(
    cache: str, data: str | None, out: str | None, images: int, dark: bool, listed: str | None, as_json: bool,
    **settings: Any,
) -> None:  # fmt: skip
    """Check CACHE for problems: uninformative features, unsuitable views, duplicates across splits, label errors.

    With DATA, the images that CACHE was made from, some images run through the network again, and -o draws the
    affected images. With the texts that CACHE was made from, the report shows how the affected texts begin.
    With --verbose or --json, the figures of all checks are printed. Exit status: 0 = no warnings
    (there may be notes), 3 = warnings, 4 = errors; 1 and 2 = the check could not run, because of the cache or of an
    option.
    """
    import featcache

    if out and not data:
        raise click.UsageError("-o needs DATA: it draws images of DATA")
    with options.progress_bar(resumes=False) as progress:
        report = featcache.doctor(cache, data, progress=progress, **settings)
    options.show(report if as_json or verbosity() < VERBOSE else report.to_text(verbose=True), as_json)
    if listed:
        report.write_list(listed)
    if out and data:
        from featcache.reports.cache_figures import issues_figure
        from featcache.reports.style import save

        figure = issues_figure(cache, report.findings, data, images, report.rankings)
        save(figure, out, dark) if figure else click.echo(safe(f"no images to draw for {out}"), err=as_json)
    sys.exit(report.status)
