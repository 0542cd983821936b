"""`RayExtractor`: from images to features, on the machines of a Ray cluster.

Each machine has workers, actors that hold the network. They are given blocks of images and send features back as they
come, in the numbers that are stored; this machine writes them, as if it had made them, into the one cache in the
making. So whoever is killed, what has come stays, and the same command, with any other machines or none, goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.core import ray_cluster
from featcache.core.ray_cluster import MAX_WORKER_FAILURES, Cluster, RayCluster, failure_reason, unwrap_ray_error
from featcache.data.manifest import Manifest
from featcache.errors import ClusterError, RemoteIOError
from featcache.extraction.extractor import Extracted, Views, like_each_other
from featcache.extraction.ray_worker import ExtractionWorker, WorkerConfig, WorkerInfo

_LEAST, _FIRST, _MOST = 16, 64, 8192  # images a block
_SECONDS = 5.0  # that a block should take: for less, workers would wait too often; for more, the last one is waited for
_AHEAD = 2  # blocks that a worker has
_TICK = 1.0  # seconds between looks at the machines


@dataclass
class _Job:
    """A block that a worker has.

    rows : shape (b,), int64, ascending, of the manifest. left : shape (b,), bool: has not come yet. deaths : workers
    that died over these images. stream : what comes of it. since : when it became the worker's first.
    """

    rows: NDArray[np.int64]
    left: NDArray[np.bool_]
    deaths: int
    stream: Any
    since: float


@dataclass
class _Worker:
    """node : the machine's id in Ray. offer : a reference until it has come, then None. size : images a block."""

    actor: Any
    node: str
    offer: Any
    size: int = _FIRST
    jobs: deque[_Job] = field(default_factory=deque)

    @property
    def next(self) -> Any:
        """What comes next of it, if anything."""
        return self.offer if self.offer is not None else self.jobs[0].stream if self.jobs else None


class RayExtractor:
    """On many machines; see `Extractor`. on_note : called with what became of a worker that died.

    Raises
    ------
    MissingExtraError. ClusterError : no such cluster, no machine of it that will do, or they do not agree.
    """

    def __init__(
        self, manifest: Manifest, cluster: Cluster, order: WorkerConfig, on_note: Callable[[str], None] | None = None
    ) -> None:
        self._machines = RayCluster(cluster)
        self._ray, self._manifest, self._order = self._machines.ray, manifest, order
        self.skipped: dict[int, str] = {}
        self.remarks: dict[int, str] = {}
        self._on_note = on_note
        self._workers: list[_Worker] = []
        self._lost: dict[str, int] = {}  # machine -> workers that died there in a row
        self._why = ""  # the last worker that was lost died
        self._looked = 0.0
        self._known = _an_image(manifest)
        try:
            self._hire()
            self._offer = self._first_offer()
        except BaseException:
            self.close()
            raise
        self.spec, self.dims = self._offer.spec, self._offer.dims
        self.device_name, self.precision = self._offer.device_name, self._offer.precision
        self.note = self._offer.note

    def begin(self, wanted: Views) -> None:
        """See `Extractor`: the workers have prepared themselves."""

    def describe(self) -> dict[str, Any]:
        """See `Extractor`: of the first machine."""
        return self._offer.provenance

    def extract(self, wanted: Views, done: Views) -> Iterator[Extracted]:
        """See `Extractor`. Raises ClusterError where no machine is left, or where workers die over the same images."""
        for rows, numbers in like_each_other(wanted, done):
            yield from self._extract(rows, numbers)

    def close(self) -> None:
        """See `Extractor`."""
        for worker in self._workers:
            self._machines.dismiss(worker.actor)
        self._workers = []
        self._machines.close()

    def _extract(self, rows: NDArray[np.int64], numbers: range) -> Iterator[Extracted]:
        """Views `numbers` of these rows."""
        todo = deque([(rows, 0)])
        while todo or any(worker.jobs for worker in self._workers):
            self._hire()
            self._assign(todo, numbers)
            by_thing = {worker.next: worker for worker in self._workers if worker.next is not None}
            ready, _ = self._ray.wait(list(by_thing), timeout=_TICK)
            for thing in ready:
                worker = by_thing[thing]
                try:
                    piece = self._take(worker)
                except self._ray.exceptions.RayTaskError as error:
                    raise unwrap_ray_error(error) from None
                except self._ray.exceptions.RayError as error:
                    self._bury(worker, todo, error)
                    continue
                if piece:
                    job = worker.jobs[0]
                    job.left[piece.rows] = False
                    yield piece._replace(rows=job.rows[piece.rows])

    def _assign(self, todo: deque[tuple[NDArray[np.int64], int]], numbers: range) -> None:
        """Give blocks to the workers that have too few; small ones towards the end, so that none is waited for long."""
        workers = [worker for worker in self._workers if worker.offer is None]
        for worker in sorted(workers, key=lambda one: len(one.jobs)):
            while todo and len(worker.jobs) < _AHEAD:
                share = sum(len(rows) for rows, _ in todo) // (2 * len(workers) if len(workers) > 1 else 1)
                rows, deaths = todo.popleft()
                size = min(worker.size, max(_LEAST, share))
                if size < len(rows):
                    todo.appendleft((rows[size:], deaths))
                rows = rows[:size]
                samples = self._manifest.samples.take(rows)
                part = Manifest(self._manifest.source.subset(samples.ids), samples, {})
                wanted, done = (np.full(len(rows), number) for number in (numbers.stop, numbers.start))
                stream = worker.actor.extract.options(num_returns="streaming").remote(part, wanted, done)
                worker.jobs.append(_Job(rows, np.ones(len(rows), bool), deaths, stream, monotonic()))

    def _take(self, worker: _Worker) -> Extracted | None:
        """What has come of a worker, if it is features."""
        if worker.offer is not None:
            self._agree(self._ray.get(worker.offer))
            worker.offer, self._lost[worker.node] = None, 0
            return None
        job = worker.jobs[0]
        try:
            found = self._ray.get(next(job.stream))
        except StopIteration:
            worker.jobs.popleft()
            if worker.jobs:
                worker.jobs[0].since = monotonic()
            return None
        if isinstance(found, Extracted):
            return found
        for mine, theirs in ((self.skipped, found.skipped), (self.remarks, found.remarks)):  # the last that comes of it
            mine.update({int(job.rows[row]): text for row, text in theirs.items()})
        job.left[:] = False
        if monotonic() - job.since < _SECONDS:
            worker.size = min(_MOST, 2 * worker.size)
        return None

    def _bury(self, worker: _Worker, todo: deque[tuple[NDArray[np.int64], int]], error: Exception) -> None:
        """A worker has died: what it had goes back, in halves, so that an image that kills is found."""
        self._workers.remove(worker)
        reason = failure_reason(error)
        if not self._why or "died unexpectedly" not in reason:  # as Ray says where the reason came too late
            self._why = reason
        self._lost[worker.node] = self._lost.get(worker.node, 0) + 1
        for job in worker.jobs:  # both were under way: either may be at fault
            job.deaths += 1
        if suspects := [job.rows[job.left] for job in worker.jobs if job.deaths == MAX_WORKER_FAILURES]:
            rows, ids = np.concatenate(suspects), self._manifest.samples.ids
            raise ClusterError(
                f"{MAX_WORKER_FAILURES} workers died, the last over {len(rows)} images from {ids[rows[0]]} to "
                f"{ids[rows[-1]]}: "
                f"{self._why}. What was extracted is kept. See whether one of these images is at fault, or "
                "whether the workers need more memory: a smaller --batch-size, or fewer workers a machine."
            ) from error
        if self._on_note:
            lost = sum(int(job.left.sum()) for job in worker.jobs)
            self._on_note(f"a worker died ({self._why.rstrip('.')}); others go on with the {lost} images that it had")
        for job in worker.jobs:
            rows = job.rows[job.left]
            half = -(-len(rows) // 2)
            todo.extend((some, job.deaths) for some in (rows[:half], rows[half:]) if len(some))

    def _hire(self) -> None:
        """See which machines there are, and have as many workers on each as it has room for."""
        if monotonic() - self._looked < _TICK:
            return
        self._looked = monotonic()
        lost = [name for name, deaths in self._lost.items() if deaths >= MAX_WORKER_FAILURES]
        there = self._machines.there(lost, self._why)
        total = sum(workers for workers, _ in there.values())
        for name, (workers, cores) in there.items():
            for _ in range(workers - sum(worker.node == name for worker in self._workers)):
                hired = self._machines.hire(ExtractionWorker, name, cores, _AHEAD)
                order = replace(self._order, workers=self._order.workers or cores)
                views = len(self._manifest.samples) * (1 + self._order.spec["views"]) // total
                self._workers.append(_Worker(hired, name, hired.prepare.remote(order, views, self._known)))

    def _first_offer(self) -> WorkerInfo:
        """What the first worker that is ready would do."""
        asked, told = monotonic(), False
        while True:
            if self._on_note and not told and monotonic() - asked > ray_cluster.STARTUP_WARNING_S:
                told = True
                self._on_note(ray_cluster.WAITING_MESSAGE)
            by_thing = {worker.offer: worker for worker in self._workers}
            ready, _ = self._ray.wait(list(by_thing), timeout=_TICK)
            for thing in ready:
                try:
                    offer: WorkerInfo = self._ray.get(thing)
                    return offer
                except self._ray.exceptions.RayTaskError as error:
                    raise unwrap_ray_error(error) from None
                except self._ray.exceptions.RayError as error:
                    self._bury(by_thing[thing], deque(), error)
            self._hire()

    def _agree(self, offer: WorkerInfo) -> None:
        """Raise ClusterError where a machine would make other features than the first one."""
        if fields := self._offer.spec.differences(offer.spec):
            told = "; ".join(f"{name}={here} and {there}" for name, here, there in fields)
            raise ClusterError(
                f"{self._offer.host} and {offer.host} would make different features: {told}. Let all "
                "machines do the same, with --precision and --device, or use machines of one kind."
            )


def _an_image(manifest: Manifest) -> tuple[Manifest, bytes] | None:
    """One that this machine can read, alone in a manifest, and its bytes."""
    for row in range(min(_LEAST, len(manifest.samples))):
        samples = manifest.samples.take(np.array([row]))
        one = Manifest(manifest.source.subset(samples.ids), samples, {})
        try:
            return one, one.read(0)
        except RemoteIOError:
            raise
        except OSError:
            continue
    return None
