"""featcache predict"""

from __future__ import annotations

import sys

import click

from featcache_cli import options


@click.command()
@click.argument("model", type=click.Path())
@click.argument("images", nargs=-1, required=True)
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="How many classes to name.")
@click.option("--tta", type=click.IntRange(0), default=0, show_default=True, help="Augmented views that are averaged "
              "with the clean one.")  # fmt: skip
@click.option("--weights", help="Where the backbone's weights lie now, if they have moved.")
@click.option("--device", default="auto", show_default=True, help="auto (CUDA, then MPS, then CPU), cpu, cuda:1.")
@options.as_json
def command(
    model: str, images: tuple[str, ...], top: int, tta: int, weights: str | None, device: str, as_json: bool
) -> None:
    """Name the class of each of IMAGES (files, folders, globs) with MODEL, a saved head or a fine-tuned run."""
    import featcache
    from featcache.files import find_images

    paths = find_images(images)
    classifier = featcache.Classifier.load(model, weights=weights, device=device)
    if classifier.backbone.note:
        click.echo(classifier.backbone.note, err=True)
    predictions = []
    with options.progress_bar() as progress:
        for prediction in classifier.stream(paths, top=top, tta=tta):
            predictions.append(prediction)
            progress("predict", len(predictions), len(paths))
            if not as_json:
                options.echo(prediction)
    if as_json:
        options.print_json({"predictions": [prediction.to_dict() for prediction in predictions]})
    if all(prediction.error for prediction in predictions):
        sys.exit(1)
