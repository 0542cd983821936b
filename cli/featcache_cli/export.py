"""featcache export"""

from __future__ import annotations

from typing import Any

import click

from featcache_cli import options, outputs
from featcache_cli.lazy_choice import LazyChoice


def _formats() -> list[str]:
    from featcache.models.export.registry import EXPORT_FORMATS

    return EXPORT_FORMATS.names()


@options.command()
@click.argument("model", type=options.PATH)
@click.option(
    "--format",
    type=LazyChoice(_formats),
    required=True,
    help="What to write: weights for the plain network of "
    "torchvision or timm, a graph for ONNX Runtime, or a graph for PyTorch (.pt2).",
)
@click.option("-o", "--out", type=options.PATH, required=True, callback=outputs.new_file, help="The file to write.")
@outputs.overwrite_option
@click.option("--weights", type=options.PATH, help="The file of the backbone's weights, if it was moved.")
@options.factory_option
@options.as_json
def command(model: str, as_json: bool, **settings: Any) -> None:
    """Write MODEL, a saved head or a fine-tuned run, as a file that needs no featcache.

    The program OUT.py, which prints the classes of photos, is written beside it. The export is checked: the program
    runs in a new process, and must compute the same logits.
    """
    from featcache.models.export.export import export

    overwrite = outputs.overwrites(click.get_current_context())
    exported = export(model, **settings, overwrite=overwrite, on_step=options.step)
    options.show(exported, as_json, model=model)
