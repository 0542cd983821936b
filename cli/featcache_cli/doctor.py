"""featcache doctor"""

from __future__ import annotations

import sys
from typing import Any

import click

from featcache_cli import options, outputs
from featcache_cli.wrapping import safe


@options.command()
@click.argument("cache", type=options.PATH)
@click.argument("data", required=False, type=options.PATH)
@click.option("--layer", default="penultimate", show_default=True, help="Which features of the cache are looked at.")
@options.picture_option
@click.option(
    "--images", type=click.IntRange(1, 200), default=36, show_default=True, help="How many pictures -o draws at most."
)
@click.option("--dark", is_flag=True, help="Draw light lines on dark paper.")
@click.option(
    "--list", "listed", type=options.PATH, callback=outputs.new_file, help="Write all named images into this CSV file."
)
@click.option("--weights", type=options.PATH, help="Where the network's weights lie now, if they have moved.")
@options.own_network_option
@click.option("--device", default="auto", show_default=True, help="Where the network runs: auto, cpu, cuda:1.")
@click.option(
    "--seed", default=0, show_default=True, help="The seed of folds, and of which of many images are looked at."
)
@options.as_json
def command(
    cache: str, data: str | None, out: str | None, images: int, dark: bool, listed: str | None, as_json: bool,
    **settings: Any,
) -> None:  # fmt: skip
    """Look for what is wrong with CACHE: features that say nothing, views, copies across splits, wrong labels.

    With DATA, which it was made from, some images go through the network again, and -o draws the suspicious ones.
    Exit status: 0 sound, with notes perhaps; 3 warnings; 4 errors in what was looked at. 1 and 2 say that the doctor
    could not look: no cache, or a wrong option.
    """
    import featcache

    if out and not data:
        raise click.UsageError("-o draws images of DATA: give it, too")
    with options.progress_bar(resumes=False) as progress:
        found = featcache.doctor(cache, data, progress=progress, **settings)
    options.show(found, as_json)
    if listed:
        found.write_list(listed)
    if out and data:
        from featcache.reports import show as pictures
        from featcache.reports import style as drawing

        picture = pictures.findings_picture(cache, found.findings, data, images, found.rankings)
        drawing.save(picture, out, dark) if picture else click.echo(safe(f"nothing to draw for {out}"), err=as_json)
    sys.exit(found.status)
