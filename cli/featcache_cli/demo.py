"""featcache demo"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featcache_cli import options, outputs
from featcache_cli.wrapping import safe

if TYPE_CHECKING:
    from featcache.core.samples import Samples
    from featcache.data.manifest import Manifest

# The original digits have 8 x 8 pixels: an input of 48 is nearly as good as 224 at a twentieth of the cost. A crop to
# 8 % of the area (--augment tutorial) does not show a digit.
_DIGITS = "--image-size 48 --augment crop"
_EXPLANATION = {
    "image": """
The benchmark compares the cached head with the same frozen network run live for 10 epochs. The run of `finetune` above
had one epoch, which is too short to judge fine-tuning: for that, omit --routes (about five times as long).""",
    "text": """
The benchmark compares the cached head with TF-IDF, which counts words. The run of `finetune` above had one epoch, which
is too short to judge fine-tuning: for that, omit --routes.""",
}
_DATASETS = {"image": "digits", "text": "docstrings"}
_OUTPUTS = ("cache.h5", "head", "head.html", "head-knn", "run", "report")


@options.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option(
    "--modality",
    type=click.Choice(["image", "text"]),
    default="image",
    show_default=True,
    help="Whether the data set of the demo has images or texts.",
)
@click.option(
    "--dataset",
    help="Which data: digits, ants-bees, docstrings (texts), or the PATH of a data set. [default: digits, for texts "
    "docstrings]",
)
@outputs.overwrite_option
@click.pass_context
def command(ctx: click.Context, folder: Path | None, modality: str, dataset: str | None) -> None:
    """Run the main commands in order, and show each one, so that you can copy it for your own data.

    All files go to FOLDER, by default demo/, or demo-NAME/ for a data set other than the digits.
    The demo can run again in its own folder. The texts are first sentences of the documentation of four packages that
    featcache needs; the label is the package.
    """
    from featcache.data.manifest import read_manifest

    dataset = dataset or _DATASETS[modality]
    folder = folder or Path("demo" if dataset == "digits" else f"demo-{Path(dataset).stem}")
    _refuse_other_files(folder, outputs.overwrites(ctx))
    folder.mkdir(parents=True, exist_ok=True)
    with options.progress_bar() as progress:
        data = _prepare(dataset, folder, progress)
        manifest = read_manifest(data, progress=progress).single_label("demo")
    options.end_display()  # each command has its own display
    modality = manifest.modality.name
    for line in _LINES[modality](folder, data, manifest):
        click.secho(safe(f"\n$ featcache {line}"), bold=True)
        ctx.find_root().command.main(shlex.split(line), standalone_mode=False)
    click.echo(safe(_EXPLANATION[modality]))
    click.echo(safe(f"\nAll files are in {folder.resolve()}: open head.html and report/report.html."))


def _refuse_other_files(folder: Path, overwrites: bool) -> None:
    """Refuse a folder with files that are not those of a demo."""
    own = (*_OUTPUTS, _DATASETS["image"], f"{_DATASETS['text']}.csv")
    if folder.is_dir() and any(folder.iterdir()) and not any((folder / name).exists() for name in own):
        outputs.refuse_existing(folder, overwrites, "holds other files")


def _prepare(dataset: str, folder: Path, progress: Any) -> Path:
    """The data set; those of featcache are written into the folder."""
    from featcache.text.demo_texts import write_docstrings
    from featcache.vision import demo_datasets

    if dataset == _DATASETS["text"]:
        return write_docstrings(folder / f"{dataset}.csv")
    return demo_datasets.prepare(dataset, folder, progress)


def _image_lines(folder: Path, data: Path, manifest: Manifest) -> tuple[str, ...]:
    """The commands for images, without `featcache`; in a second run they overwrite their outputs."""
    source, size = shlex.quote(str(data)), _DIGITS if data == folder / "digits" else ""
    photos = " ".join(shlex.quote(str(manifest.path(row))) for row in _one_per_class(manifest.samples)[:3])
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


def _text_lines(folder: Path, data: Path, manifest: Manifest) -> tuple[str, ...]:
    """The commands for texts, see `_image_lines`."""
    source, path = shlex.quote(str(data)), {name: shlex.quote(str(folder / name)) for name in _OUTPUTS}
    texts = [manifest.read(row).decode() for row in _one_per_class(manifest.samples)[:3]]
    overwrite = " --overwrite" if (folder / "head").exists() else ""
    return (
        f"extract {source} -o {path['cache.h5']}",
        f"info {path['cache.h5']}",
        f"fit-head {path['cache.h5']} -o {path['head']} --report {path['head.html']} --images {source}{overwrite}",
        f"fit-head {path['cache.h5']} -o {path['head-knn']} --head knn{overwrite}",
        f"compare-heads {path['head']} {path['head-knn']}",
        f"finetune {source} -o {path['run']} --epochs 1 --resume",
        f"predict {path['head']} {' '.join(f'--text {shlex.quote(text)}' for text in texts)}",
        f"benchmark {source} -o {path['report']} --routes cached,tfidf",
    )


def _one_per_class(samples: Samples) -> list[int]:
    """The first val sample of each class."""
    return list({samples.labels[row]: row for row in reversed(samples.rows("val"))}.values())[::-1]


_LINES = {"image": _image_lines, "text": _text_lines}
