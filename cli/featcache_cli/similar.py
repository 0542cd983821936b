"""featcache similar"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click

from featcache_cli import options, outputs
from featcache_cli.wrapping import safe


@options.command()
@click.argument("cache", type=options.PATH)
@click.argument("samples", nargs=-1, type=options.PATH)
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="Search for this text. It can be repeated.")
@options.text_column_option
@click.option("-n", type=click.IntRange(1), default=5, show_default=True, help="How many neighbors each sample gets.")
@options.split_option("all", "Which samples of CACHE can be neighbors.")
@options.layer_option
@click.option(
    "--data", type=options.PATH, help="What CACHE was made from: for the pictures of -o, and the words of texts."
)
@options.picture_option
@click.option("--dark", is_flag=True, help="Draw light lines on a dark background.")
@click.option(
    "--list", "listed", type=options.PATH, callback=outputs.new_file, help="Write all neighbors to this CSV file."
)
@click.option("--weights", type=options.PATH, help="The file of the network's weights, if it was moved.")
@options.factory_option
@options.device_option
@options.as_json
def command(
    cache: str, samples: tuple[str, ...], texts: tuple[str, ...], data: str | None, out: str | None, dark: bool,
    listed: str | None, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Find the images or texts in CACHE that are the most similar to SAMPLES: by the cosine of their features.

    SAMPLES are those of `predict`: files, folders, globs, tables, tar files, data sets, URLs. They run through the
    network of CACHE and are compared with all of its samples. Samples of CACHE with the same bytes as one of SAMPLES
    are left out of its neighbors. -o draws each of SAMPLES with its neighbors.
    Exit status: 1 = no sample could be read.
    """
    import featcache

    if out and not data:
        raise click.UsageError("-o needs --data: it draws samples of the data of CACHE")
    listing = _list_samples(cache, samples, texts, settings.pop("text_column"))
    options.step("load the network")
    with options.progress_bar(resumes=False) as progress:
        result = featcache.similar(cache, listing, data, progress=progress, **settings)
    options.show(result, as_json)
    if listed:
        result.write_list(listed)
    if out and data:
        from featcache.reports.similar_figures import similar_figure
        from featcache.reports.style import save

        figure = similar_figure(result, data)
        save(figure, out, dark) if figure else click.echo(safe(f"nothing to draw for {out}"), err=as_json)
    sys.exit(int(result.unreadable == len(result.queries)))


def _list_samples(cache: str, names: tuple[str, ...], texts: tuple[str, ...], text_column: str | None) -> list[Any]:
    """The samples that the arguments name. A name without a sample is one that cannot be read."""
    from featcache.cache.feature_cache import FeatureCache
    from featcache.data.input_notes import input_notes
    from featcache.models.inputs.names import list_inputs
    from featcache.models.inputs.registry import inputs_of

    if not (names or texts):
        raise click.UsageError("Missing argument 'SAMPLES...'.")
    opened = FeatureCache.open(cache)
    opened.require_images(f"a search for similar {opened.spec.modality}s")
    inputs, ignored, missing = inputs_of(opened.spec), Counter[str](), dict[str, str]()
    listing: list[Any] = [*inputs.of_strings(texts)]
    if names:
        listing += list_inputs(names, inputs, missing, ignored, text_column)
    for line in input_notes(ignored, [], [], opened.spec.modality):
        options.note(line)
    return [*listing, *map(Path, missing)]
