"""`write_capacity_page`: the report of a capacity plan."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from featcache._utils.environment import machine_info, package_versions
from featcache._utils.formatting import human_bytes
from featcache._utils.remote import display_name
from featcache.analysis.planning.capacity import FORMULA, CapacityPlan, Rates
from featcache.extraction.pipelines.registry import PIPELINES
from featcache.reports.html import Figure, Section, Table, write_page
from featcache.reports.plots import plot_capacity


def write_capacity_page(
    path: str | os.PathLike[str], plan: CapacityPlan, data: str | os.PathLike[str], backbone: str | None
) -> Path:
    """Write a capacity plan as one HTML file: the table, a figure, the rates and the formula.

    Parameters
    ----------
    path : path
        The file to write.
    plan : CapacityPlan
        What `plan` returned.
    data : path
        The samples that the rates were measured with.
    backbone : str or None
        The network that the rates were measured with; None is the default one.

    Returns
    -------
    Path
        The written file.
    """
    modality = plan.rates.modality
    network = backbone or PIPELINES.get(modality).default_backbone
    sections = [
        Section(
            "Time, storage and cost",
            tables=[Table(plan.header(), plan.rows())],
            figures=[Figure(partial(plot_capacity, plan), "Hours against workers")],
            notes=plan.remarks(),
        ),
        Section(
            "Rates",
            [f"Measured with {modality}s of {display_name(data)} and the network {network}"],
            tables=[Table(["rate", "value", "source"], _rate_rows(plan.rates))],
        ),
        Section(
            "Formula",
            ["Seconds for N samples of V views on W workers"],
            code=FORMULA.rstrip(),
            notes=[
                f"The fit of a head takes {plan.passes} passes over the rows. The hashes of the {modality}s are "
                f"{'known' if plan.hashed else 'computed'}.",
                "The phases run one after the other: hash, extract, fit. Workers start after the files are hashed.",
            ],
        ),
        Section("Machine", tables=[Table(["field", "value"], _machine_rows())]),
    ]
    return write_page(path, "featcache: capacity plan", sections)


def _rate_rows(rates: Rates) -> list[list[str]]:
    sample = rates.modality
    values = {
        "sample_bytes": f"{human_bytes(rates.sample_bytes)} per {sample}",
        "views": f"{rates.views:.2f} per {sample}",
        "decode_s": f"{1000 * rates.decode_s:.2f} ms of a core per {sample}",
        "view_s": f"{1000 * rates.view_s:.2f} ms of a core per view",
        "cores": f"{rates.cores} per worker",
        "forward_s": f"{1 / rates.forward_s:,.0f} views/s on {'a GPU' if rates.on_gpu else 'all cores of a CPU'}",
        "hash_bytes_per_s": f"{human_bytes(rates.hash_bytes_per_s)}/s",
        "write_s_per_sample": f"{1 / rates.write_s_per_sample:,.0f} {sample}s/s",
        "solver_s_per_row": f"{1 / rates.solver_s_per_row:,.0f} rows/s per worker in a pass",
        "cache_bytes": f"{human_bytes(rates.cache_bytes)} per {sample}",
        "memory_bytes": f"{human_bytes(rates.memory_bytes)} per {sample}",
        "read_rate": f"{human_bytes(rates.read_rate)}/s per worker" if rates.read_rate else "not included",
    }
    sources = dict.fromkeys(values, "measured") | {"read_rate": ""} | dict.fromkeys(rates.provided, "provided")
    return [[name, text, sources[name]] for name, text in values.items()]


def _machine_rows() -> list[list[str]]:
    return [[name, str(value)] for name, value in {**machine_info(), **package_versions()}.items()]
