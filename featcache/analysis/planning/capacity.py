"""`plan_capacity`: how long, how large and how dear data would be that is not there yet, and what would hold it up.

All of it follows from `Rates`, of which each is measured (`featcache.analysis.planning.rates`) or given, by `FORMULA`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from featcache._utils.formatting import human_bytes, human_duration
from featcache._utils.notebook import NotebookResult

FORMULA = """\
look      N * image_bytes / look_rate          one machine reads each file and hashes it; none where hashes are given
extract   N * max(worker / W, driver_s)        workers make features, one machine writes them
worker    max(image_bytes / read_rate, work)   of an image, on one worker
work      cores + network                      on a CPU, which does both
          max(cores, network)                  on a GPU, which works beside the cores
cores     (decode_s + V * view_s) / cores
network   V * forward_s
fit       passes * N * V * row_s / W           losses and gradients of a linear head
"""
"""Seconds of N images, of V views each, on W workers."""

PASSES = 150
"""Over the rows, for a linear head that chooses its strength: 122 to 180 of five sets, see benchmarks/plan.py."""


@dataclass(frozen=True)
class Rates:
    """What one worker, and the machine that drives them, do in how long.

    image_bytes : of a file, the mean. views : of an image, the clean one among them, the mean over all splits.
    decode_s, view_s : core-seconds of an image, of a view. cores : of a worker. forward_s : of a view. on_gpu :
    whether the network works beside the cores. look_rate : bytes a second that are read and hashed. driver_s : of
    an image, to take its features and to write them. row_s : of a training row in a pass of a head's fit.
    cache_bytes : of an image in the file. memory_bytes : of an image, that the driver needs while it reads the
    list. read_rate : bytes a second that a worker reads from where images lie; None does not count it. given :
    names of those that were not measured.
    """

    image_bytes: float
    views: float
    decode_s: float
    view_s: float
    cores: int
    forward_s: float
    on_gpu: bool
    look_rate: float
    driver_s: float
    row_s: float
    cache_bytes: float
    memory_bytes: float
    read_rate: float | None = None
    given: tuple[str, ...] = ()

    @property
    def stages(self) -> dict[str, float]:
        """Seconds that each stage of one image takes on a worker, all of it."""
        cores, forward = (self.decode_s + self.views * self.view_s) / self.cores, self.views * self.forward_s
        work = {"cores": cores, "network": forward} if self.on_gpu else {"cores and network": cores + forward}
        return work | ({"read": self.image_bytes / self.read_rate} if self.read_rate else {})

    @property
    def worker_s(self) -> float:
        """Seconds of an image on one worker."""
        return max(self.stages.values())

    @property
    def most_workers(self) -> float:
        """From here on the driver has enough to do: more workers wait for it."""
        return self.worker_s / self.driver_s

    @property
    def cores_wanted(self) -> float:
        """Of a worker, so that its GPU never waits for images."""
        return (self.decode_s + self.views * self.view_s) / (self.views * self.forward_s)


@dataclass(frozen=True)
class Prices:
    """Of a worker an hour, a GB of storage a month, a thousand reads; None where it is not counted."""

    worker_hour: float | None = None
    storage_gb_month: float | None = None
    thousand_reads: float | None = None


@dataclass(frozen=True)
class Scenario:
    """So many images on so many workers.

    seconds : of each phase: look, extract, fit. limit : the slowest phase, and what holds it up. cache_bytes : of the
    file. memory_bytes : that the driver needs while it reads the list of images. cost : by what it is for, where prices
    were given; storage is a month of the cache.
    """

    images: int
    workers: int
    seconds: dict[str, float]
    limit: str
    cache_bytes: float
    memory_bytes: float
    cost: dict[str, float]

    @property
    def total_s(self) -> float:
        """All phases."""
        return sum(self.seconds.values())


@dataclass(frozen=True, repr=False)
class CapacityPlan(NotebookResult):
    """What `plan_capacity` finds."""

    rates: Rates
    images: tuple[int, ...]
    workers: tuple[int, ...]
    passes: int
    hashed: bool
    prices: Prices

    @property
    def scenarios(self) -> list[Scenario]:
        """Each number of images on each number of workers."""
        return self.at(self.images, self.workers)

    def at(self, images: Sequence[int], workers: Sequence[int]) -> list[Scenario]:
        """Others, at the same rates."""
        return [_scenario(self, n, w) for n in images for w in workers]

    def header(self) -> list[str]:
        """Of `rows`."""
        phases = list(self.scenarios[0].seconds)
        cost = ["cost"] if any(one.cost for one in self.scenarios) else []
        return ["images", "workers", *phases, "together", "limit", "cache", "driver's memory", *cost]

    def rows(self) -> list[list[str]]:
        """A table for people."""
        return [
            [
                f"{one.images:,}", f"{one.workers:,}", *map(human_duration, one.seconds.values()),
                human_duration(one.total_s), one.limit, human_bytes(one.cache_bytes), human_bytes(one.memory_bytes),
                *([f"{sum(one.cost.values()):,.2f}"] if one.cost else []),
            ]
            for one in self.scenarios
        ]  # fmt: skip

    def remarks(self) -> list[str]:
        """What follows for whoever builds it."""
        rates, found = self.rates, []
        most = max(1, math.floor(rates.most_workers))
        found.append(f"more than {most:,} worker{'s' * (most > 1)} would wait for the one machine that writes")
        if rates.on_gpu:
            found.append(f"a worker's GPU is kept busy by {math.ceil(rates.cores_wanted)} cores; it has {rates.cores}")
            if "row_s" not in rates.given:
                found.append("a head's fit is counted as on this machine's cores: give a GPU's --row-rate")
        elif "cores" in rates.given:
            found.append(f"networks and fits are counted as on this machine's cores, not on {rates.cores}")
        if not self.hashed:
            found.append("looking at the files is one machine's work: a list with a column sha256 spares it (--hashed)")
        if rates.read_rate is None:
            found.append("the way from the storage to the workers is not counted: give its --read-rate")
        found.append("not counted: reading the list, starting machines, files read again, heads that are not linear")
        return found

    def __str__(self) -> str:
        lines = [self.header(), *self.rows()]
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                 for line in lines]  # fmt: skip
        return "\n".join([*table, *(f"- {one}" for one in self.remarks())])

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "rates": {**asdict(self.rates), "worker_s": self.rates.worker_s, "most_workers": self.rates.most_workers},
            "passes": self.passes,
            "hashed": self.hashed,
            "prices": asdict(self.prices),
            "scenarios": [{**asdict(one), "total_s": one.total_s} for one in self.scenarios],
            "remarks": self.remarks(),
        }


def plan_capacity(
    rates: Rates,
    images: Sequence[int] = (10_000_000, 1_000_000_000),
    workers: Sequence[int] = (1, 8, 64),
    *,
    hashed: bool = False,
    passes: int = PASSES,
    prices: Prices | None = None,
) -> CapacityPlan:
    """Each number of images on each number of workers, by `FORMULA`.

    hashed : whether the images' hashes are known, so that nobody has to look at all files first. passes : over the
    training rows, to fit a head.
    """
    return CapacityPlan(rates, tuple(images), tuple(workers), passes, hashed, prices or Prices())


def _scenario(plan: CapacityPlan, images: int, workers: int) -> Scenario:
    rates, prices = plan.rates, plan.prices
    look_rate = min(rates.look_rate, rates.read_rate or math.inf)
    seconds = {
        "look": 0.0 if plan.hashed else images * rates.image_bytes / look_rate,
        "extract": images * max(rates.worker_s / workers, rates.driver_s),
        "fit": plan.passes * images * rates.views * rates.row_s / workers,
    }
    slowest = max(seconds, key=lambda phase: seconds[phase])
    limit = slowest
    if slowest == "extract":
        stage = max(rates.stages, key=lambda stage: rates.stages[stage])
        limit = f"extract: {stage if rates.worker_s / workers > rates.driver_s else 'driver'}"
    cache_bytes = images * rates.cache_bytes
    cost = {}
    if prices.worker_hour is not None:  # they are hired when the files have been looked at
        cost["workers"] = prices.worker_hour * workers * (seconds["extract"] + seconds["fit"]) / 3600
    if prices.storage_gb_month is not None:
        cost["storage"] = prices.storage_gb_month * cache_bytes / 1e9
    if prices.thousand_reads is not None:
        cost["reads"] = prices.thousand_reads * images * (1 if plan.hashed else 2) / 1000
    return Scenario(images, workers, seconds, limit, cache_bytes, images * rates.memory_bytes, cost)
