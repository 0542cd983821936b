"""`plan_capacity`: time, storage and cost of extracting a data set of a given size, and the bottleneck.

`FORMULA` derives all of it from `Rates`, which are measured (`featcache.analysis.planning.rates`) or given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from featcache._utils.deprecation import renamed_fields
from featcache._utils.formatting import human_bytes, human_duration, text_table
from featcache._utils.results import NotebookResult, Result
from featcache.errors import DataLayoutError

FORMULA = """\
hash      N * sample_bytes / hash_bytes_per_s      one machine reads and hashes each sample; 0 if the hashes are known
extract   N * max(worker / W, write_s_per_sample)  workers compute features, one machine writes them
worker    max(sample_bytes / read_rate, work)      seconds of a worker per sample
work      cores + network                          on a CPU, which does one after the other
          max(cores, network)                      on a GPU, which works beside the cores
cores     (decode_s + V * view_s) / cores
network   V * forward_s
fit       passes * N * V * solver_s_per_row / W    losses and gradients of a linear head
"""
"""Seconds for N samples with V views each on W workers."""

PASSES = 150
"""Passes over the rows that the fit of a tuned linear head takes: 122 to 180 on five data sets (benchmarks/plan.py)."""

RENAMED_RATES = {
    "look_rate": "hash_bytes_per_s",
    "driver_s": "write_s_per_sample",
    "write_s_per_image": "write_s_per_sample",
    "image_bytes": "sample_bytes",
    "row_s": "solver_s_per_row",
}
"""Old names of fields of `Rates`."""


@renamed_fields(**RENAMED_RATES, most_workers="saturation_workers", cores_wanted="cores_needed", given="provided")
@dataclass(frozen=True)
class Rates(Result):
    """How fast one worker, and the machine that drives the workers, do each step.

    Attributes
    ----------
    sample_bytes : float
        Mean size of a sample: of the file of an image, or of a text in UTF-8.
    views : float
        Views per sample, the clean view included; mean over all splits.
    decode_s : float
        Core-seconds to decode an image, or to read a text.
    view_s : float
        Core-seconds to make a view, or to plan it where a GPU makes it; of a text with its tokens.
    cores : int
        Cores of a worker.
    forward_s : float
        Seconds of the network per view.
    on_gpu : bool
        Whether the network runs beside the cores.
    hash_bytes_per_s : float
        Bytes per second that the driver reads and hashes.
    write_s_per_sample : float
        Seconds in which the driver receives and writes the features of a sample.
    solver_s_per_row : float
        Seconds per training row in one pass of a head's solver.
    cache_bytes : float
        Bytes per sample in the cache file.
    memory_bytes : float
        Bytes of memory per sample that the driver needs to read the list of samples, or the table of texts.
    read_rate : float or None
        Bytes per second that a worker reads from the storage. None: the transfer is not included.
    provided : tuple of str
        Names of the fields that the caller provided; the others were measured.
    modality : str
        What the samples are, "image" or "text".
    takes_hashes : bool
        Whether samples are not read for their hashes if a list has these. Texts are, to find near copies.

    Examples
    --------
    >>> from featcache.analysis.planning.capacity import Rates
    >>> rates = Rates(sample_bytes=1e5, views=5, decode_s=0.004, view_s=0.001, cores=4, forward_s=0.002, on_gpu=False,
    ...               hash_bytes_per_s=1e9, write_s_per_sample=1e-4, solver_s_per_row=1e-6, cache_bytes=13_000,
    ...               memory_bytes=150)
    >>> round(rates.saturation_workers)
    122
    """

    sample_bytes: float
    views: float
    decode_s: float
    view_s: float
    cores: int
    forward_s: float
    on_gpu: bool
    hash_bytes_per_s: float
    write_s_per_sample: float
    solver_s_per_row: float
    cache_bytes: float
    memory_bytes: float
    read_rate: float | None = None
    provided: tuple[str, ...] = ()
    modality: str = "image"
    takes_hashes: bool = True

    @property
    def stages(self) -> dict[str, float]:
        """Seconds that each stage of a worker takes for one sample, with all its views."""
        cores, forward = (self.decode_s + self.views * self.view_s) / self.cores, self.views * self.forward_s
        work = {"cores": cores, "network": forward} if self.on_gpu else {"cores and network": cores + forward}
        return work | ({"read": self.sample_bytes / self.read_rate} if self.read_rate else {})

    @property
    def worker_s(self) -> float:
        """Seconds per sample on one worker: those of its slowest stage."""
        return max(self.stages.values())

    @property
    def saturation_workers(self) -> float:
        """The number of workers that keeps the driver busy; more workers add no speed."""
        return self.worker_s / self.write_s_per_sample

    @property
    def cores_needed(self) -> float:
        """The number of cores of a worker that keeps its GPU busy."""
        return (self.decode_s + self.views * self.view_s) / (self.views * self.forward_s)

    def _json_fields(self) -> dict[str, Any]:
        derived = {"worker_s": self.worker_s, "saturation_workers": self.saturation_workers}
        return {**super()._json_fields(), **derived}


@dataclass(frozen=True)
class Prices:
    """Prices in any currency. A price of None leaves its cost out.

    Attributes
    ----------
    worker_hour : float or None
        A worker for an hour.
    storage_gb_month : float or None
        A GB of storage for a month.
    thousand_reads : float or None
        A thousand reads of a file.

    Examples
    --------
    >>> from featcache import Prices
    >>> Prices(worker_hour=1.5).storage_gb_month is None
    True
    """

    worker_hour: float | None = None
    storage_gb_month: float | None = None
    thousand_reads: float | None = None


@renamed_fields(images="samples")
@dataclass(frozen=True)
class Scenario(Result):
    """A number of samples on a number of workers.

    Attributes
    ----------
    samples, workers : int
    seconds : dict of str to float
        By phase: hash, extract, fit.
    limit : str
        The slowest phase, and its bottleneck.
    cache_bytes : float
        Size of the cache file.
    memory_bytes : float
        Memory that the driver needs to read the list of samples.
    cost : dict of str to float
        By item: workers, storage for one month, reads; those with a price.
    """

    samples: int
    workers: int
    seconds: dict[str, float]
    limit: str
    cache_bytes: float
    memory_bytes: float
    cost: dict[str, float]

    @property
    def total_s(self) -> float:
        """Seconds of all phases together."""
        return sum(self.seconds.values())

    def _json_fields(self) -> dict[str, Any]:
        return {**super()._json_fields(), "total_s": self.total_s}


@renamed_fields(images="samples")
@dataclass(frozen=True, repr=False)
class CapacityPlan(Result, NotebookResult):
    """What `plan` returns. `str()` is a table with remarks.

    Attributes
    ----------
    rates : Rates
    samples, workers : tuple of int
        The planned numbers of samples and workers.
    passes : int
        Passes over the training rows that the fit of a head takes.
    hashed : bool
        Whether the hashes of the samples are known.
    prices : Prices
    """

    rates: Rates
    samples: tuple[int, ...]
    workers: tuple[int, ...]
    passes: int
    hashed: bool
    prices: Prices

    @property
    def scenarios(self) -> list[Scenario]:
        """Each number of samples on each number of workers."""
        return self.at(self.samples, self.workers)

    def at(self, samples: Sequence[int], workers: Sequence[int]) -> list[Scenario]:
        """Scenarios with other numbers of samples and workers, at the same rates."""
        return [_scenario(self, n, w) for n in samples for w in workers]

    def header(self) -> list[str]:
        """The column names of `rows`."""
        phases = list(self.scenarios[0].seconds)
        cost = ["cost"] if any(scenario.cost for scenario in self.scenarios) else []
        return [f"{self.rates.modality}s", "workers", *phases, "together", "limit", "cache", "driver's memory", *cost]

    def rows(self) -> list[list[str]]:
        """A table row for each scenario."""
        return [
            [
                f"{scenario.samples:,}", f"{scenario.workers:,}", *map(human_duration, scenario.seconds.values()),
                human_duration(scenario.total_s), scenario.limit, human_bytes(scenario.cache_bytes),
                human_bytes(scenario.memory_bytes),
                *([f"{sum(scenario.cost.values()):,.2f}"] if scenario.cost else []),
            ]
            for scenario in self.scenarios
        ]  # fmt: skip

    def remarks(self) -> list[str]:
        """Remarks on the plan: the bottleneck, and the parts that it does not include."""
        rates = self.rates
        remarks = [
            f"Workers beyond {max(1, math.floor(rates.saturation_workers)):,} add no speed: one machine writes the file"
        ]
        if rates.on_gpu:
            remarks.append(
                f"A worker needs {math.ceil(rates.cores_needed)} cores to keep its GPU busy; it has {rates.cores}"
            )
            if "solver_s_per_row" not in rates.provided:
                remarks.append("The fit is calculated for this machine's CPU: give the GPU's rate with --solver-rate")
        elif "cores" in rates.provided:
            remarks.append(f"The network and the fit are calculated for this machine's cores, not for {rates.cores}")
        if not rates.takes_hashes:
            remarks.append(f"One machine reads and hashes all {rates.modality}s, to find near copies")
        elif not self.hashed:
            remarks.append("One machine hashes all files: a list with a column sha256 avoids this (--hashed)")
        if rates.read_rate is None:
            remarks.append("The transfer from the storage to the workers is not included: give --read-rate")
        remarks.append("Not included: reading the list, starting machines, repeated reads, heads that are not linear")
        return remarks

    def __str__(self) -> str:
        return "\n".join([*text_table([self.header(), *self.rows()]), *(f"- {line}" for line in self.remarks())])

    def _json_fields(self) -> dict[str, Any]:
        return {
            "rates": self.rates,
            "passes": self.passes,
            "hashed": self.hashed,
            "prices": self.prices,
            "scenarios": self.scenarios,
            "remarks": self.remarks(),
        }


def plan_capacity(
    rates: Rates,
    samples: Sequence[int] = (10_000_000, 1_000_000_000),
    workers: Sequence[int] = (1, 8, 64),
    *,
    hashed: bool = False,
    passes: int = PASSES,
    prices: Prices | None = None,
) -> CapacityPlan:
    """Apply `FORMULA` to each number of samples on each number of workers; for the parameters see `plan`."""
    if hashed and not rates.takes_hashes:
        raise DataLayoutError(
            f"all {rates.modality}s are read, to find near copies, so a list of their hashes saves nothing. Leave out "
            "--hashed."
        )
    return CapacityPlan(rates, tuple(samples), tuple(workers), passes, hashed, prices or Prices())


def _scenario(plan: CapacityPlan, samples: int, workers: int) -> Scenario:
    rates, prices = plan.rates, plan.prices
    hash_bytes_per_s = min(rates.hash_bytes_per_s, rates.read_rate or math.inf)
    seconds = {
        "hash": 0.0 if plan.hashed else samples * rates.sample_bytes / hash_bytes_per_s,
        "extract": samples * max(rates.worker_s / workers, rates.write_s_per_sample),
        "fit": plan.passes * samples * rates.views * rates.solver_s_per_row / workers,
    }
    slowest = max(seconds, key=lambda phase: seconds[phase])
    limit = slowest
    if slowest == "extract":
        stage = max(rates.stages, key=lambda stage: rates.stages[stage])
        limit = f"extract: {stage if rates.worker_s / workers > rates.write_s_per_sample else 'driver'}"
    cache_bytes = samples * rates.cache_bytes
    cost = {}
    if prices.worker_hour is not None:  # workers start after the files are hashed
        cost["workers"] = prices.worker_hour * workers * (seconds["extract"] + seconds["fit"]) / 3600
    if prices.storage_gb_month is not None:
        cost["storage"] = prices.storage_gb_month * cache_bytes / 1e9
    if prices.thousand_reads is not None:
        cost["reads"] = prices.thousand_reads * samples * (1 if plan.hashed else 2) / 1000
    return Scenario(samples, workers, seconds, limit, cache_bytes, samples * rates.memory_bytes, cost)
