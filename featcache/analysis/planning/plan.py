"""`plan`: measure the rates of an extraction on this machine, and calculate it for a data set of any size."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from featcache._utils.deprecation import warn_renamed
from featcache.analysis.planning.capacity import PASSES, CapacityPlan, Prices, Rates, plan_capacity


def plan(
    data: str | os.PathLike[str] | Rates,
    *,
    samples: Sequence[int] = (10_000_000, 1_000_000_000),
    workers: Sequence[int] = (1, 8, 64),
    hashed: bool = False,
    passes: int = PASSES,
    prices: Prices | None = None,
    provided: Mapping[str, float] | None = None,
    images: Sequence[int] | None = None,
    **settings: Any,
) -> CapacityPlan:
    """Estimate time, storage and cost of extracting many samples on many workers, and find the bottleneck.

    Parameters
    ----------
    data : path or Rates
        A part of the samples, images or texts: their folder or table. A few of them are read, decoded and computed on
        this machine to measure the rates. With `Rates` nothing is measured.
    samples : sequence of int, default (10_000_000, 1_000_000_000)
        Numbers of samples to plan for.
    workers : sequence of int, default (1, 8, 64)
        Numbers of workers to plan for.
    hashed : bool, default False
        Whether the list of images has a column sha256. Otherwise one machine hashes all files first. Texts are always
        read.
    passes : int, default 150
        Passes over the training rows that the fit of a head takes.
    prices : Prices, optional
        Prices of workers, storage and reads. Without them the plan has no cost.
    provided : mapping of str to float, optional
        Values of fields of `Rates`, which are then not measured. With `forward_s` the workers have GPUs.
    images : sequence of int, optional
        Deprecated name of `samples`.
    **settings
        Further keyword arguments of `featcache.analysis.planning.rates.measure_rates`: those of `extract` that change
        the cost of a sample (`backbone`, `views`, `image_size`, `max_length`, ...), `cores` of a worker, `progress` and
        `on_note`.

    Returns
    -------
    CapacityPlan
        A `Scenario` for each number of samples on each number of workers.

    Raises
    ------
    ImageError
        `data` has no readable samples, an option is for other samples, or texts are said to be `hashed`.
    BackboneError
        The network cannot be loaded.
    TypeError
        `Rates` were passed together with settings to measure rates with.

    Examples
    --------
    >>> import featcache
    >>> rates = featcache.Rates(sample_bytes=1e5, views=5, decode_s=0.004, view_s=0.001, cores=4, forward_s=0.002,
    ...                         on_gpu=False, hash_bytes_per_s=1e9, write_s_per_sample=1e-4,
    ...                         solver_s_per_row=1e-6, cache_bytes=13_000, memory_bytes=150)
    >>> scenario, = featcache.plan(rates, samples=[1_000_000], workers=[10]).scenarios
    >>> scenario.limit, round(scenario.total_s)
    ('extract: cores and network', 1400)
    """
    if images is not None:
        warn_renamed("plan(images=...)", "plan(samples=...)")
        samples = images
    if isinstance(data, Rates):
        if provided or settings:
            names = ", ".join([*(["provided"] if provided else []), *settings])
            raise TypeError(f"plan was called with Rates and with {names}, which only apply when rates are measured")
        rates = data
    else:
        from featcache.analysis.planning.rates import measure_rates  # needs the packages of an extraction

        rates = measure_rates(data, provided=provided, **settings)
    return plan_capacity(rates, samples, workers, hashed=hashed, passes=passes, prices=prices)
