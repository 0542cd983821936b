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

# The original digits have 8 x 8 pixels: an input of 48 is nearly as good as 224 at a twentieth of the cost. A crop to
# 8 % of the area (--augment tutorial) does not show a digit.
_DIGITS = "--image-size 48 --augment crop"
_EXPLANATION = """
The benchmark compares the cached head with the same frozen network run live for 10 epochs. The run of `finetune` above
had one epoch, which is too short to judge fine-tuning: for that, omit --routes (about five times as long)."""
_OUTPUTS = ("cache.h5", "head", "head.html", "head-knn", "run", "report")


@options.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option(
    "--dataset", default="digits", show_default=True, help="Which images: digits, ants-bees, or the PATH of a data set."
)
@outputs.overwrite_option
@click.pass_context
def command(ctx: click.Context, folder: Path | None, dataset: str) -> None:
    """Run the main commands in order, and show each one, so that you can copy it for your own images.

    All files go to FOLDER, by default demo/, or demo-NAME/ for a data set other than the digits.
    The demo can run again in its own folder.
    """
    from featcache.data.manifest import read_manifest
    from featcache.vision import demo_datasets

    folder = folder or Path("demo" if dataset == "digits" else f"demo-{Path(dataset).stem}")
    if (
        folder.is_dir()
        and any(folder.iterdir())
        and not any((folder / name).exists() for name in (*_OUTPUTS, "digits"))
    ):
        outputs.refuse_existing(folder, outputs.overwrites(ctx), "holds other files")
    folder.mkdir(parents=True, exist_ok=True)
    with options.progress_bar() as progress:
        data = demo_datasets.prepare(dataset, folder, progress)
        manifest = read_manifest(data, progress=progress).single_label("demo")
    options.end_display()  # each command has its own display
    size = _DIGITS if dataset == "digits" else ""
    photos = " ".join(shlex.quote(str(manifest.path(row))) for row in _one_per_class(manifest.samples)[:3])
    for line in _lines(folder, shlex.quote(str(data)), photos, size):
        click.secho(safe(f"\n$ featcache {line}"), bold=True)
        ctx.find_root().command.main(shlex.split(line), standalone_mode=False)
    click.echo(_EXPLANATION)
    click.echo(safe(f"\nAll files are in {folder.resolve()}: open head.html and report/report.html."))


def _lines(folder: Path, source: str, photos: str, size: str) -> tuple[str, ...]:
    """The commands without `featcache`; in a second run they overwrite their outputs."""
    path = {name: shlex.quote(str(folder / name)) for name in _OUTPUTS}
    overwrite = " --overwrite" if (folder / "head").exists() else ""
    return (
        f"extract {source} -o {path['cache.h5']} --views 2 {size}",
        f"info {path['cache.h5']}",
        f"fit-head {path['cache.h5']} -o {path['head']} --report {path['head.html']} --images {source}{overwrite}",
        f"fit-head {path['cache.h5']} -o {path['head-knn']} --head knn{overwrite}",
        f"compare-heads {path['head']} {path['head-knn']}",
        f"finetune {source} -o {path['run']} --epochs 1 --resume {size}",
        f"predict {path['head']} {photos}",
        f"benchmark {source} -o {path['report']} --views 2 --routes cached,frozen --epochs 10 {size}",
    )


def _one_per_class(samples: Samples) -> list[int]:
    """The first val image of each class."""
    return list({samples.labels[row]: row for row in reversed(samples.rows("val"))}.values())[::-1]
