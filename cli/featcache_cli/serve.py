"""featcache serve"""

from __future__ import annotations

import os
import signal
from typing import Any

import click

from featcache.models.defaults import TOP_CLASSES
from featcache.models.serving.limits import MAX_UPLOAD_BYTES, MAX_UPLOAD_PIXELS
from featcache_cli import options, results
from featcache_cli.stopping import exit_on_signal

_LABEL = ("label", "data", "classes")


def _check_usage(ctx: click.Context, model: str, label: bool, data: str | None) -> None:
    """Refuse options of the other page, and a cache without --label."""
    given = {name for name in ctx.params if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE}
    if not label:
        wrong, reason = given & {*_LABEL}, "is for --label"
    else:
        wrong, reason = given - {*_LABEL, "model", "host", "port", "as_json"}, "is for a page that classifies"
    for option in ctx.command.params:
        if option.name in wrong:
            raise click.UsageError(f"{option.opts[-1]} {reason}: leave it out")
    if not label and os.path.isfile(model):
        raise click.UsageError(
            f"{model} is a file: give the folder of a model, or label the samples of a cache with --label --data DATA"
        )
    if label and data is None:
        raise click.UsageError("--label needs --data: the images or texts that the cache was made from")


def _serve_labels(cache: str, data: str, classes: tuple[str, ...], host: str, port: int | None, as_json: bool) -> None:
    """Serve the page that labels samples."""
    from featcache.reports.labeling.app import LabelServer, serve_labels

    def announce(page: LabelServer) -> None:
        options.note(page.note)
        options.show(page, as_json, cache=cache)
        if as_json:
            results.print_json_now()
        options.end_display()

    for number in (signal.SIGINT, signal.SIGTERM):
        exit_on_signal(number, "Each label is in the table.")
    options.step("read the data")
    serve_labels(cache, data, classes=classes, host=host, port=port, on_start=announce)


@options.command()
@click.argument("model", type=options.PATH, metavar="MODEL|CACHE")
@click.option("--label", is_flag=True, help="Serve a page on which you label the samples of CACHE. It needs --data.")
@click.option("--data", type=options.PATH, help="With --label: the images or texts that CACHE was made from.")
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="NAME",
    help="With --label: a class that has no sample yet; repeat the option for more.",
)
@click.option("--examples", type=options.PATH, multiple=True, help="Show some samples of this file, folder or glob on "
              "the page; repeat the option for more.")  # fmt: skip
@click.option(
    "--top", type=click.IntRange(1), default=TOP_CLASSES, show_default=True, help="The number of classes to list."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on: everyone who reaches "
              "it can use the page.")  # fmt: skip
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="The port to listen on, 0 for any. [default: 7860, or the next free one]",
)
@click.option("--root-path", default="", metavar="PATH|URL", help="Where a reverse proxy shows the page: /ants, or "
              "https://example.org/ants.")  # fmt: skip
@click.option(
    "--max-upload",
    type=click.IntRange(1),
    default=MAX_UPLOAD_BYTES >> 20,
    show_default=True,
    help="The largest accepted file, in MiB.",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    default=MAX_UPLOAD_PIXELS,
    show_default=True,
    help="The largest accepted image, in pixels.",
)
@click.option("--weights", type=options.PATH, help="The file of the backbone's weights, if it was moved.")
@options.factory_option
@options.device_option
@options.as_json
@click.pass_context
def command(
    ctx: click.Context, model: str, label: bool, data: str | None, classes: tuple[str, ...],
    examples: tuple[str, ...], top: int, host: str, port: int | None, root_path: str, max_upload: int,
    max_pixels: int, weights: str | None, backbone: Any, device: str, as_json: bool,
) -> None:  # fmt: skip
    """Serve a web page and an HTTP API that classify images or texts with MODEL, a saved head or a fine-tuned run.

    With --label, the page labels the samples of CACHE that `featcache suggest` names, by keyboard, shows the accuracy
    so far and the labels that are doubtful. Each label is saved at once in a table, which `featcache update` reads.

    By default only this machine can connect. The server runs until Ctrl-C.
    """
    _check_usage(ctx, model, label, data)
    if label and data:
        _serve_labels(model, data, classes, host, port, as_json)
        return
    import featcache
    from featcache.models.serving.app import ServerInfo, serve

    def announce(page: ServerInfo) -> None:
        options.note(page.note)
        options.show(page, as_json, model=model)
        if as_json:
            results.print_json_now()
        options.end_display()

    for number in (signal.SIGINT, signal.SIGTERM):
        exit_on_signal(number, "No upload is kept.")
    options.step("load the model")
    classifier = featcache.Classifier.load(model, weights=weights, backbone=backbone, device=device)
    options.note(classifier.backbone.note)
    serve(classifier, host=host, port=port, examples=examples, top=top, root_path=root_path,
          max_upload=max_upload << 20, max_pixels=max_pixels, on_start=announce)  # fmt: skip
