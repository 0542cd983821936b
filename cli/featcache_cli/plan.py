"""featcache plan"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from featcache_cli import options, outputs

_F = TypeVar("_F", bound=Callable[..., Any])

_UNITS = {"k": 10**3, "M": 10**6, "B": 10**9}


def _counts(_ctx: click.Context, _option: click.Parameter, text: str | None) -> list[int] | None:
    """A callback: "10M,1B" as ascending numbers."""
    if text is None:
        return None
    counts = set()
    for part in text.split(","):
        unit = _UNITS.get(part[-1:])
        try:
            value = float(part[:-1] if unit else part) * (unit or 1)
        except ValueError:
            value = 0.0
        if not 1 <= value < 1e15 or value != round(value):
            raise click.BadParameter(f"{part!r} is not a number such as 64, 250k, 10M or 1B")
        counts.add(int(value))
    return sorted(counts)


_RATE = options.Finite(1e-9, 1e15)


def _rate(name: str, unit: str, text: str, former: str = "") -> Callable[[_F], _F]:
    """An option that replaces a measured rate. `former` : its deprecated name."""
    option: Callable[[_F], _F] = click.option(name, type=_RATE, metavar=unit, help=text)
    if not former:
        return option
    deprecated: Callable[[_F], _F] = click.option(former, type=_RATE, hidden=True, deprecated=f"use {name}")
    return lambda function: option(deprecated(function))


@options.command(
    groups={
        "Rates to use instead of measured ones": [
            "forward_rate",
            "read_rate",
            "hash_rate",
            "write_rate",
            "solver_rate",
        ],
        "Prices, in any currency": ["worker_hour", "storage_gb_month", "thousand_reads"],
    },
)
@click.argument("data", type=options.PATH)
@click.option(
    "--samples", callback=_counts, help="Numbers of images or texts to plan for, such as 250k,10M. [default: 10M,1B]"
)
@click.option("--images", callback=_counts, hidden=True, deprecated="use --samples")
@click.option(
    "--workers", default="1,8,64", show_default=True, callback=_counts, help="Numbers of workers to plan for."
)
@click.option("--cores", type=click.IntRange(1), help="How many cores a worker has. [default: as many as this machine]")
@options.backbone_option
@options.weights_option
@options.views_option
@options.val_views_option
@options.view_options
@options.text_options
@options.label_column_option
@options.text_column_option
@options.skip_missing_option
@options.value_range_option
@options.layers_option
@options.device_option
@options.precision_option("auto")
@options.engine_option
@click.option("--hashed", is_flag=True, help="The list of images has a column sha256; texts are always read.")
@click.option(
    "--passes",
    type=click.IntRange(1),
    default=150,
    show_default=True,
    help="The number of passes over the rows in the fit of a head.",
)
@_rate("--forward-rate", "VIEWS/S", "How many views a second the network takes on a GPU.")
@_rate("--read-rate", "MB/S", "How fast a worker reads samples from their storage. [default: not counted]")
@_rate("--hash-rate", "MB/S", "How fast one machine reads and hashes all samples.", former="--look-rate")
@_rate(
    "--write-rate",
    "SAMPLES/S",
    "How many samples a second one machine receives from workers and writes.",
    former="--driver-rate",
)
@_rate(
    "--solver-rate",
    "ROWS/S",
    "How many rows a second a worker computes in a pass of a head's fit.",
    former="--row-rate",
)
@click.option("--worker-hour", type=options.Finite(0, 1e15), help="The price of a worker for an hour.")
@click.option("--storage-gb-month", type=options.Finite(0, 1e15), help="The price of a GB of the cache for a month.")
@click.option("--thousand-reads", type=options.Finite(0, 1e15), help="The price of a thousand reads of a file.")
@click.option(
    "--page", type=options.PATH, callback=outputs.new_file, help="Write the plan, with a figure, to this HTML file."
)
@outputs.overwrite_option
@options.as_json
def command(data: str, page: str | None, as_json: bool, **settings: Any) -> None:
    """Estimate time, storage and cost of extracting millions of samples on many machines, and find the bottleneck.

    DATA is a part of the images or texts. The command measures each step with a few of them on this machine, and
    computes the rest from these rates. --page shows the formula.
    """
    import featcache

    rates, prices = _provided_rates(settings), featcache.Prices(*(settings.pop(name) for name in _PRICES))
    backbone, images = settings["backbone"], settings.pop("images")
    if samples := settings.pop("samples") or images:  # the library has the default
        settings["samples"] = samples
    options.take_backbone(settings, settings["layers"])
    settings["on_note"] = None if as_json else options.note
    with options.progress_bar(resumes=False, then=options.LOADING) as progress:
        result = featcache.plan(data, provided=rates, prices=prices, progress=progress, **settings)
    options.show(result, as_json)
    if page:
        from featcache.reports.pages.capacity import write_capacity_page

        write_capacity_page(page, result, data, backbone)


_PRICES = ("worker_hour", "storage_gb_month", "thousand_reads")


def _provided_rates(settings: dict[str, Any]) -> dict[str, float]:
    """Remove the options of rates, and return them as fields of `Rates`: seconds, and bytes instead of MB."""
    rates = {}
    for option, former, field, scale in (
        ("forward_rate", None, "forward_s", None),
        ("write_rate", "driver_rate", "write_s_per_sample", None),
        ("solver_rate", "row_rate", "solver_s_per_row", None),
        ("read_rate", None, "read_rate", 1e6),
        ("hash_rate", "look_rate", "hash_bytes_per_s", 1e6),
    ):
        values = [settings.pop(name) for name in (option, former) if name]
        if value := next((value for value in values if value is not None), None):
            rates[field] = value * scale if scale else 1 / value
    return rates
