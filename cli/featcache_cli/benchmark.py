"""featcache benchmark"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featcache_cli import options


@click.command()
@click.argument("data")
@click.option("-o", "--out", required=True, help="Folder for report.md, report.json, report.png and the runs. "
              "The same comparison goes on in it.")  # fmt: skip
@options.overwrite_option
@click.option("--routes", help="Of cached, stages (a head on all stages), frozen (run live every epoch), lpft "
              "(fine-tuning from the cached head), finetune, scratch; comma-separated. [default: all]")  # fmt: skip
@options.backbone_option
@options.weights_option
@click.option("--views", type=click.IntRange(0, 65534), default=4, show_default=True, help="Cached views an image, K.")
@click.option("--head", default="linear", show_default=True, help="Head of the cached route.")
@options.augment_option
@options.image_size_option
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True, help="Of the live routes.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=0.01, show_default=True,
              help="Learning rate of the live routes but LP-FT, which has its own.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Of the live routes.")
@click.option("--repeats", type=click.IntRange(1), default=1, show_default=True, help="Seeds to run.")
@click.option("--budget", "budget_s", callback=options.duration, help="Time for all of it, such as 10m: what would not "
              "fit is left out and named. [default: no limit]")  # fmt: skip
@options.machine_options
@options.precision_option("auto", help="What the extraction computes in.")
@options.precision_option("fp32", "--train-precision", help="What the live routes compute in.")
@options.seed_option
@options.val_fraction_option
@options.allow_leak_option
@options.label_column_option
@options.skip_missing_option
@options.as_json
def command(routes: str | None, epochs: int, lr: float, batch_size: int, as_json: bool, **settings: Any) -> None:
    """Compare cached heads, frozen-per-epoch, LP-FT, fine-tuning and from-scratch on DATA, down to a verdict."""
    import featcache
    from featcache.pages import write_benchmark_page
    from featcache.reporting import comparison_values, write_report

    recipe = {"epochs": epochs, "lr": lr, "batch_size": batch_size}
    with options.progress_bar() as progress:
        chosen = routes.split(",") if routes else None
        settings["overwrite"] = options.overwrites(click.get_current_context())
        result = featcache.compare(routes=chosen, recipe=recipe, progress=progress, **settings)
    text = write_report(result, settings["out"])
    page = write_benchmark_page(Path(settings["out"]) / "report.html", result, settings["out"], settings["data"])
    text = f"{text}\nAll of it, with pictures: {page}\n\n{featcache.reach_verdict(result)}"
    options.print_json(comparison_values(result)) if as_json else click.echo(text)
