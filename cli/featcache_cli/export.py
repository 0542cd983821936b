"""featcache export"""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from featcache_cli import options

FORMATS = ("state-dict", "onnx", "torch-export")


@click.command()
@click.argument("model", type=click.Path())
@click.option("--format", type=click.Choice(FORMATS), required=True, help="Weights for the plain network of "
              "torchvision or timm; a graph for ONNX Runtime; a graph for PyTorch (.pt2).")  # fmt: skip
@click.option("-o", "--out", required=True, callback=options.new_file, help="File to write.")
@options.overwrite_option
@click.option("--weights", help="Where the backbone's weights lie now, if they have moved.")
@options.as_json
def command(model: str, as_json: bool, **settings: Any) -> None:
    """Write MODEL, a saved head or a fine-tuned run, as a file that needs no featcache.

    Beside it goes a program, OUT.py, that names the classes of photos. It is run in a fresh process first, and must
    give the same logits.
    """
    from featcache.exporting import export

    exported = export(model, **settings, overwrite=True, on_step=partial(click.echo, err=True))
    options.show(exported, as_json, model=model)
