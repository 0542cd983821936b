"""`RayExtractor`: from images to features, on the nodes of a Ray cluster.

Each node runs workers, actors that hold the network. The driver sends them blocks of images and receives features in
the storage type, which it writes into the one cache. If a worker, a node or the driver is killed, only the blocks in
progress are lost; the same command resumes, with any number of nodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.monitor import Monitor
from featcache.core.ray_cluster import MAX_WORKER_FAILURES, Cluster, unwrap_ray_error
from featcache.core.worker_pool import Worker, WorkerPool
from featcache.data.manifest import Manifest
from featcache.errors import ClusterError, RemoteIOError
from featcache.extraction.extractor import Extracted, ViewCounts, group_by_views
from featcache.extraction.plan import ExtractorInfo
from featcache.extraction.ray_worker import BlockReport, ExtractionWorker, ProbeImage
from featcache.extraction.request import ExtractionRequest

_MIN_BLOCK, _FIRST_BLOCK, _MAX_BLOCK = 16, 64, 8192  # images
_BLOCK_S = 5.0  # duration of a block: shorter ones leave workers idle, longer ones delay the end
_BLOCKS_AHEAD = 2  # blocks that a worker has
_WAIT_S = 1.0  # between two queries of the nodes


@dataclass
class _Queued:
    """Images that no worker has.

    rows : ndarray, shape (b,), int64, ascending, of the manifest. failures : workers that failed over them.
    """

    rows: NDArray[np.int64]
    failures: int = 0


@dataclass
class _Block:
    """Images that a worker has.

    rows : ndarray, shape (b,), int64, ascending, of the manifest. missing : ndarray, shape (b,), bool. failures :
    workers that failed over these images. stream : references to messages. started : when it became the worker's first.
    """

    rows: NDArray[np.int64]
    missing: NDArray[np.bool_]
    failures: int
    stream: Any
    started: float


@dataclass(eq=False)
class _Assignment:
    """What a worker has to do.

    info : reference to its ExtractorInfo, until that has come. block_size : images a block.
    """

    worker: Worker
    info: Any
    block_size: int = _FIRST_BLOCK
    blocks: deque[_Block] = field(default_factory=deque)

    @property
    def next_reference(self) -> Any:
        """Reference to its next message, or its stream of messages; None where it has no work."""
        return self.info if self.info is not None else self.blocks[0].stream if self.blocks else None


class RayExtractor:
    """Extracts on the nodes of a cluster; see `Extractor`.

    Raises
    ------
    MissingExtraError
        Ray is not installed.
    ClusterError
        There is no such cluster, no node of it is suitable, or the nodes would compute different features.
    """

    def __init__(self, manifest: Manifest, request: ExtractionRequest, cluster: Cluster, monitor: Monitor) -> None:
        self.manifest, self._request, self._monitor = manifest, request, monitor
        self.skipped: dict[int, str] = {}
        self.remarks: dict[int, str] = {}
        self._assignments: list[_Assignment] = []
        self._queue: deque[_Queued] = deque()
        self._probe = _readable_image(manifest)
        self._pool = WorkerPool(cluster, ExtractionWorker, concurrency=_BLOCKS_AHEAD)
        self._ray = self._pool.ray
        try:
            self._start_workers()
            self._info = self._first_info()
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> ExtractorInfo:
        """See `Extractor`: that of the first worker."""
        return self._info

    def prepare(self, expected_views: ViewCounts) -> None:
        """See `Extractor`. The workers have prepared themselves."""

    def extract(self, expected_views: ViewCounts, views_done: ViewCounts) -> Iterator[Extracted]:
        """See `Extractor`. Raises ClusterError where no node is left, or where workers fail over the same images."""
        for rows, views in group_by_views(expected_views, views_done):
            self._queue.append(_Queued(rows))
            while self._queue or any(assignment.blocks for assignment in self._assignments):
                self._start_workers()
                self._schedule(views)
                yield from self._next_features()

    def close(self) -> None:
        """See `Extractor`."""
        self._assignments = []
        self._pool.close()

    def _next_features(self) -> Iterator[Extracted]:
        """Wait a moment for messages of the workers, and yield the features among them."""
        references = {each.next_reference: each for each in self._assignments if each.next_reference is not None}
        ready, _ = self._ray.wait(list(references), timeout=_WAIT_S)
        for reference in ready:
            assignment = references[reference]
            try:
                chunk = self._receive(assignment)
            except self._ray.exceptions.RayTaskError as error:
                raise unwrap_ray_error(error) from None
            except self._ray.exceptions.RayError as error:
                self._handle_failure(assignment, error)
                continue
            if chunk:
                block = assignment.blocks[0]
                block.missing[chunk.rows] = False
                yield chunk._replace(rows=block.rows[chunk.rows])

    def _schedule(self, views: range) -> None:
        """Give blocks to workers that have too few; small ones towards the end, so that all workers end together."""
        assignments = [assignment for assignment in self._assignments if assignment.info is None]
        for assignment in sorted(assignments, key=lambda each: len(each.blocks)):
            while self._queue and len(assignment.blocks) < _BLOCKS_AHEAD:
                queued = sum(len(each.rows) for each in self._queue)
                fair = queued // (2 * len(assignments) if len(assignments) > 1 else 1)
                first = self._queue.popleft()
                size = min(assignment.block_size, max(_MIN_BLOCK, fair))
                if size < len(first.rows):
                    self._queue.appendleft(_Queued(first.rows[size:], first.failures))
                assignment.blocks.append(self._send(assignment.worker, first.rows[:size], first.failures, views))

    def _send(self, worker: Worker, rows: NDArray[np.int64], failures: int, views: range) -> _Block:
        """Let a worker extract these views of the rows."""
        samples = self.manifest.samples.take(rows)
        images = Manifest(self.manifest.source.subset(samples.ids), samples, {})
        expected_views, views_done = (np.full(len(rows), count) for count in (views.stop, views.start))
        stream = worker.actor.extract.options(num_returns="streaming").remote(images, expected_views, views_done)
        return _Block(rows, np.ones(len(rows), bool), failures, stream, monotonic())

    def _receive(self, assignment: _Assignment) -> Extracted | None:
        """Take the next message of a worker; returns it where it holds features."""
        if assignment.info is not None:
            self._check_spec(self._ray.get(assignment.info))
            assignment.info = None
            self._pool.confirm(assignment.worker)
            return None
        block = assignment.blocks[0]
        try:
            message: Extracted | BlockReport = self._ray.get(next(block.stream))
        except StopIteration:
            assignment.blocks.popleft()
            if assignment.blocks:
                assignment.blocks[0].started = monotonic()
            return None
        if isinstance(message, Extracted):
            return message
        self.skipped.update({int(block.rows[row]): reason for row, reason in message.skipped.items()})
        self.remarks.update({int(block.rows[row]): remark for row, remark in message.remarks.items()})
        block.missing[:] = False
        if monotonic() - block.started < _BLOCK_S:
            assignment.block_size = min(_MAX_BLOCK, 2 * assignment.block_size)
        return None

    def _handle_failure(self, assignment: _Assignment, error: Exception) -> None:
        """Queue the images of a failed worker again, in halves, so that an image that kills workers is isolated."""
        self._assignments.remove(assignment)
        reason = self._pool.handle_failure(assignment.worker, error)
        for block in assignment.blocks:  # both were in progress: either may be the cause
            block.failures += 1
        suspects = [block.rows[block.missing] for block in assignment.blocks if block.failures == MAX_WORKER_FAILURES]
        if suspects:
            rows, ids = np.concatenate(suspects), self.manifest.samples.ids
            raise ClusterError(
                f"{MAX_WORKER_FAILURES} workers died, the last over {len(rows)} samples from {ids[rows[0]]} to "
                f"{ids[rows[-1]]}: {reason}. What was extracted is kept. See whether one of these samples is at fault, "
                "or whether the workers need more memory: a smaller --batch-size, or fewer workers a machine."
            ) from error
        lost = sum(int(block.missing.sum()) for block in assignment.blocks)
        self._monitor.note(f"a worker died ({reason.rstrip('.')}); other workers take over its {lost} samples")
        for block in assignment.blocks:
            rows = block.rows[block.missing]
            middle = -(-len(rows) // 2)
            self._queue.extend(_Queued(half, block.failures) for half in (rows[:middle], rows[middle:]) if len(half))

    def _start_workers(self) -> None:
        """Start workers on nodes that have room, and let them load the network."""
        options = self._request.options
        for worker in self._pool.start_workers(_WAIT_S):
            request = replace(self._request, options={**options, "workers": options["workers"] or worker.cores})
            views = len(self.manifest.samples) * (1 + options["views"]) // self._pool.total
            self._assignments.append(_Assignment(worker, worker.actor.warm_up.remote(request, views, self._probe)))

    def _first_info(self) -> ExtractorInfo:
        """Wait for the first worker that is ready."""
        self._pool.note_if_waiting([assignment.info for assignment in self._assignments], self._monitor.note)
        while True:
            references = {assignment.info: assignment for assignment in self._assignments}
            ready, _ = self._ray.wait(list(references), timeout=_WAIT_S)
            for reference in ready:
                try:
                    info: ExtractorInfo = self._ray.get(reference)
                    return info
                except self._ray.exceptions.RayTaskError as error:
                    raise unwrap_ray_error(error) from None
                except self._ray.exceptions.RayError as error:
                    self._handle_failure(references[reference], error)
            self._start_workers()

    def _check_spec(self, info: ExtractorInfo) -> None:
        """Raise ClusterError where a worker would compute other features than the first one."""
        if fields := self._info.spec.differences(info.spec):
            differing = "; ".join(f"{name}={first} and {other}" for name, first, other in fields)
            raise ClusterError(
                f"{self._info.provenance['host']} and {info.provenance['host']} would make different features: "
                f"{differing}. Let all machines do the same, with --precision and --device, or use machines of one "
                "kind."
            )


def _readable_image(manifest: Manifest) -> ProbeImage | None:
    """One of the first images that this machine can read; None where it can read none."""
    for row in range(min(_MIN_BLOCK, len(manifest.samples))):
        samples = manifest.samples.take(np.array([row]))
        image = Manifest(manifest.source.subset(samples.ids), samples, {})
        try:
            return ProbeImage(image, image.read(0))
        except RemoteIOError:
            raise
        except OSError:
            continue
    return None
