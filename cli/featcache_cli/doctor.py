"""featcache doctor"""

from __future__ import annotations

import sys
from typing import Any

import click

from featcache_cli import options


@click.command()
@click.argument("cache", type=click.Path())
@click.argument("data", required=False)
@click.option("--layer", default="penultimate", show_default=True, help="Which features of the cache.")
@options.picture_option
@click.option("--images", type=click.IntRange(1, 200), default=36, show_default=True, help="Pictures in that, at most.")
@click.option("--dark", is_flag=True, help="Light lines on dark paper.")
@click.option("--list", "listed", callback=options.new_file, help="Write all named images into this CSV file.")
@click.option("--weights", help="Where the network's weights lie now, if they have moved.")
@click.option("--device", default="auto", show_default=True, help="Of the network: auto, cpu, cuda:1.")
@click.option("--seed", default=0, show_default=True, help="Of the folds, and of what is looked at of many images.")
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
        found = featcache.examine(cache, data, progress=progress, **settings)
    options.show(found, as_json)
    if listed:
        found.write_list(listed)
    if out and data:
        from featcache import drawing, pictures

        picture = pictures.findings_picture(cache, found.findings, data, images)
        drawing.save(picture, out, dark) if picture else click.echo(f"nothing to draw for {out}", err=as_json)
    sys.exit(found.status)
