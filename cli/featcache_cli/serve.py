"""featcache serve"""

from __future__ import annotations

import signal

import click

from featcache_cli import options, results


@click.command()
@click.argument("model", type=click.Path())
@click.option("--examples", multiple=True, help="File, folder or glob of pictures of which a few stand on the page; "
              "can be repeated.")  # fmt: skip
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="How many classes to name.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at: everyone who reaches it "
              "can use the page.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), help="[default: 7860, or the next that is free]; 0 for any.")
@click.option("--max-upload", type=click.IntRange(1), default=20, show_default=True, help="Largest file, in MiB.")
@click.option("--max-pixels", type=click.IntRange(1), default=50_000_000, show_default=True, help="Largest picture.")
@click.option("--weights", help="Where the backbone's weights lie now, if they have moved.")
@click.option("--device", default="auto", show_default=True, help="auto (CUDA, then MPS, then CPU), cpu, cuda:1.")
@options.as_json
def command(
    model: str, examples: tuple[str, ...], top: int, host: str, port: int | None, max_upload: int, max_pixels: int,
    weights: str | None, device: str, as_json: bool,
) -> None:  # fmt: skip
    """Serve a page, and an HTTP API, that name the class of a picture with MODEL, a saved head or a fine-tuned run.

    It runs on this machine alone, until Ctrl-C.
    """
    import featcache
    from featcache.serving import Page, serve

    def announce(page: Page) -> None:
        if page.note:
            click.echo(page.note, err=True)
        options.show(page, as_json, model=model)
        if as_json:
            results.print_json_now()

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that uploads are deleted then, too
    classifier = featcache.Classifier.load(model, weights=weights, device=device)
    if classifier.backbone.note:
        click.echo(classifier.backbone.note, err=True)
    serve(classifier, host=host, port=port, examples=examples, top=top, max_upload=max_upload << 20,
          max_pixels=max_pixels, on_start=announce)  # fmt: skip
