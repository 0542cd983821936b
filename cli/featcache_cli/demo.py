"""featcache demo"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from featcache_cli import options, outputs
from featcache_cli.wrapping import safe

if TYPE_CHECKING:
    from featcache.core.samples import Samples

# Digits are 8 x 8 pixels in truth: 48 lose little and cost a twentieth of 224. A crop to 8 % of a digit shows no digit.
_DIGITS = "--image-size 48 --augment crop"
_WHAT_IT_SHOWS = """
What this shows: the cached head against the same network run live for the recipe's 10 epochs. The run of `finetune`
above had one epoch, which is no verdict about fine-tuning: for that, leave out --routes (about five times as long)."""
_MADE = ("cache.h5", "head", "head.html", "head-knn", "run", "report")


@options.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option(
    "--dataset", default="digits", show_default=True, help="Which images: digits, ants-bees, or the PATH of a data set."
)
@outputs.overwrite_option
@click.pass_context
def command(ctx: click.Context, folder: Path | None, dataset: str) -> None:
    """Run the main job from start to end, showing each command: copy them for your own images.

    All files go into FOLDER, by default demo/, or demo-NAME/ for another data set than the digits.
    The demo may run again in its own folder.
    """
    from featcache.data.manifest import read_manifest
    from featcache.vision import demo_datasets

    folder = folder or Path("demo" if dataset == "digits" else f"demo-{Path(dataset).stem}")
    if folder.is_dir() and any(folder.iterdir()) and not any((folder / name).exists() for name in (*_MADE, "digits")):
        outputs.refuse_existing(folder, outputs.overwrites(ctx), "holds other files")
    folder.mkdir(parents=True, exist_ok=True)
    with options.progress_bar() as progress:
        data = demo_datasets.prepare(dataset, folder, progress)
        manifest = read_manifest(data, progress=progress).single_label("demo")
    options.end_display()  # each command has its own
    size = _DIGITS if dataset == "digits" else ""
    some = " ".join(shlex.quote(str(manifest.path(row))) for row in _one_a_class(manifest.samples)[:3])
    for line in _lines(folder, shlex.quote(str(data)), some, size):
        click.secho(safe(f"\n$ featcache {line}"), bold=True)
        ctx.find_root().command.main(shlex.split(line), standalone_mode=False)
    click.echo(_WHAT_IT_SHOWS)
    click.echo(safe(f"\nEverything is in {folder.resolve()}: look at head.html and report/report.html."))


def _lines(folder: Path, source: str, pictures: str, size: str) -> tuple[str, ...]:
    """The commands, as they are typed behind `featcache`; those that would be refused the second time replace."""
    place = {name: shlex.quote(str(folder / name)) for name in _MADE}
    again = " --overwrite" if (folder / "head").exists() else ""
    return (
        f"extract {source} -o {place['cache.h5']} --views 2 {size}",
        f"info {place['cache.h5']}",
        f"fit-head {place['cache.h5']} -o {place['head']} --report {place['head.html']} --images {source}{again}",
        f"fit-head {place['cache.h5']} -o {place['head-knn']} --head knn{again}",
        f"compare-heads {place['head']} {place['head-knn']}",
        f"finetune {source} -o {place['run']} --epochs 1 --resume {size}",
        f"predict {place['head']} {pictures}",
        f"benchmark {source} -o {place['report']} --views 2 --routes cached,frozen --epochs 10 {size}",
    )


def _one_a_class(samples: Samples) -> list[int]:
    """The first val image of each class."""
    return list({samples.labels[row]: row for row in reversed(samples.rows("val"))}.values())[::-1]
