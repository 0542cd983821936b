"""`write_capacity_page`: what data that is not there yet would take, as one HTML file."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from featcache._utils.environment import machine_info, package_versions
from featcache._utils.formatting import human_bytes
from featcache._utils.remote import display_name
from featcache.analysis.planning.capacity import FORMULA, CapacityPlan, Rates
from featcache.reports.html import Figure, Section, Table, write_page
from featcache.reports.plots import plot_capacity


def write_capacity_page(
    path: str | os.PathLike[str], plan: CapacityPlan, data: str | os.PathLike[str], backbone: str
) -> Path:
    """The page: a table, a picture, the rates and the formula. data, backbone : that the rates were measured with."""
    sections = [
        Section(
            "Time, bytes and cost",
            tables=[Table(plan.header(), plan.rows())],
            figures=[Figure(partial(plot_capacity, plan), "hours against workers")],
            notes=plan.remarks(),
        ),
        Section(
            "Rates",
            [f"with images of {display_name(data)}, {backbone}"],
            tables=[Table(["rate", "value", "from"], _rates(plan.rates))],
        ),
        Section(
            "The formula",
            ["N images of V views on W workers, in seconds"],
            code=FORMULA.rstrip(),
            notes=[
                f"{plan.passes} passes of a head's fit over the rows; hashes of the images are "
                f"{'given' if plan.hashed else 'worked out'}.",
                "Phases follow each other: look, extract, fit. Workers are hired when the files have been looked at.",
            ],
        ),
        Section("Measured on", tables=[Table(["what", "which"], _origin())]),
    ]
    return write_page(path, "featcache: a plan for data that is not there yet", sections)


def _rates(rates: Rates) -> list[list[str]]:
    shown = {
        "image_bytes": human_bytes(rates.image_bytes),
        "views": f"{rates.views:.2f} an image",
        "decode_s": f"{1000 * rates.decode_s:.2f} ms of a core, an image",
        "view_s": f"{1000 * rates.view_s:.2f} ms of a core, a view",
        "cores": f"{rates.cores} of a worker",
        "forward_s": f"{1 / rates.forward_s:,.0f} views/s, on a {'GPU' if rates.on_gpu else 'CPU, all cores'}",
        "look_rate": f"{human_bytes(rates.look_rate)}/s",
        "driver_s": f"{1 / rates.driver_s:,.0f} images/s",
        "row_s": f"{1 / rates.row_s:,.0f} rows/s and worker in a pass",
        "cache_bytes": f"{human_bytes(rates.cache_bytes)} an image",
        "memory_bytes": f"{human_bytes(rates.memory_bytes)} an image",
        "read_rate": f"{human_bytes(rates.read_rate)}/s and worker" if rates.read_rate else "not counted",
    }
    origin = dict.fromkeys(shown, "measured") | {"read_rate": ""} | dict.fromkeys(rates.given, "given")
    return [[name, text, origin[name]] for name, text in shown.items()]


def _origin() -> list[list[str]]:
    return [[name, str(value)] for name, value in {**machine_info(), **package_versions()}.items()]
