"""featcache export"""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from featcache._utils.formatting import join_words
from featcache_cli import options, outputs
from featcache_cli.lazy_choice import LazyChoice

_OF_MODELS = ("weights", "backbone")
_OF_CACHES = ("head", "layer", "split", "augmented")


def _formats() -> list[str]:
    from featcache.cache.tables.registry import TABLE_FORMATS
    from featcache.models.export.registry import EXPORT_FORMATS

    return [*EXPORT_FORMATS.names(), *TABLE_FORMATS.names()]


@options.command()
@click.argument("source", type=options.PATH)
@click.option(
    "--format",
    type=LazyChoice(_formats),
    required=True,
    help="What to write: of a model weights for the plain network of torchvision or timm, a graph for ONNX Runtime, or "
    "a graph for PyTorch (.pt2); of a cache a table of its features.",
)
@click.option("-o", "--out", type=options.PATH, required=True, callback=outputs.new_file, help="The file to write.")
@outputs.overwrite_option
@click.option("--weights", type=options.PATH, help="The file of the backbone's weights, if it was moved.")
@options.factory_option
@click.option("--head", type=options.PATH, help="A saved head, which predicts the samples of a cache.")
@options.layer_option
@options.split_option("all", "Which samples of a cache to write.")
@click.option("--augmented", is_flag=True, help="Write the augmented views of a cache as rows, too.")
@options.as_json
def command(source: str, format: str, as_json: bool, **settings: Any) -> None:
    """Write a model as a file that needs no featcache, or the features of a cache as a table.

    SOURCE is a saved head, a fine-tuned run, or a cache. Of a model the program OUT.py, which prints the classes of
    photos or texts, is written beside the file. The export is checked: the program runs in a new process, and must
    compute the same logits. The table of a cache has a row for each sample: path, label, split, sha256 and vector, with
    --head also predicted and probability.
    """
    from featcache.models.export.export import export
    from featcache.models.feature_export import export_features

    is_cache = _check_usage(source, format)
    for name in _OF_MODELS if is_cache else _OF_CACHES:
        del settings[name]
    settings |= {"format": format, "overwrite": outputs.overwrites(click.get_current_context())}
    if is_cache:
        with options.progress_bar() as progress:
            table = export_features(source, **settings, progress=progress)
        options.show(table, as_json, cache=source)
    else:
        options.show(export(source, **settings, on_step=options.step), as_json, model=source)


def _check_usage(source: str, format: str) -> bool:
    """Whether the source is a cache. Raises UsageError for a format or options of the other kind."""
    from featcache.cache.paths import names_cache
    from featcache.cache.tables.registry import TABLE_FORMATS
    from featcache.models.export.registry import EXPORT_FORMATS

    is_cache = names_cache(source)
    what, formats = ("a cache", TABLE_FORMATS) if is_cache else ("a model", EXPORT_FORMATS)
    if format not in formats:
        raise click.UsageError(
            f"{source} is {what}: --format {format} is not for {what}. Choose {join_words(formats.names(), 'or')}"
        )
    context = click.get_current_context()
    given = [
        f"--{name}"
        for name in (_OF_MODELS if is_cache else _OF_CACHES)
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(
            f"{source} is {what}: {join_words(given)} {'is' if len(given) == 1 else 'are'} not for {what}"
        )
    return is_cache
