"""`stream_samples`: from images or texts to the answers of a network, in order, while they arrive.

There are three stages, which work at the same time on different batches: threads read and prepare samples, one thread
starts the network, and one thread takes its answers. Samples are taken from the caller's iterator in the caller's
thread, and only as far ahead as keeps the stages busy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from featcache._utils.environment import usable_cores
from featcache._utils.in_flight import InFlightQueue
from featcache._utils.regular_files import read_regular
from featcache.data.sample_loader import Inputs, join_inputs
from featcache.errors import UnreadableImageError
from featcache.models.inputs.base import Prepare, Prepared, SampleFile

Answer = TypeVar("Answer")
Item = TypeVar("Item")


class Network(Protocol):
    """How many inputs an encoder, or several, want at once; see `Encoder`."""

    @property
    def batch_size(self) -> int: ...
    @property
    def max_in_flight(self) -> int: ...


class ReadSample(NamedTuple):
    """A sample that was read and prepared, or the reason why it could not be. path : "" for a sample in memory."""

    path: str
    result: Prepared | OSError


class _Submitted(NamedTuple):
    """A sample that is being prepared."""

    path: str
    future: Future[Prepared | OSError]

    def result(self) -> ReadSample:
        return ReadSample(self.path, self.future.result())


def stream_samples(
    samples: Iterator[Any],
    prepare: Prepare,
    start: Callable[[Inputs], Callable[[], Answer]],
    finish: Callable[[list[ReadSample], Answer | None], list[Item]],
    encoder: Network,
    *,
    views: int = 1,
    batch_size: int | None = None,
    name: str = "image",
) -> Generator[Item, None, None]:
    """What `finish` makes of each sample, in the order of the samples.

    Parameters
    ----------
    samples : iterator
        Of `SampleInputs.each`. An error that it raises is raised after the samples before it.
    prepare : Prepare
        Makes the views of a sample.
    start : callable
        Starts on the inputs of a batch, and returns what waits for the answer.
    finish : callable
        Gets the samples of a batch, and the answer for the views of those that could be read, `views` rows each; None
        if there are none.
    encoder : Encoder or JoinedNetwork
        Its batch size and the number of its batches under way are followed.
    views : int
        Of each sample. Default: 1.
    batch_size : int, optional
        How many views, not samples, are in one batch. Default: that of the encoder.
    name : str
        What a sample in memory is called in errors. Default: "image".
    """
    numbers, workers = range(views), usable_cores()
    size = max(1, (batch_size or encoder.batch_size) // views)
    samples_ahead = 2 * size + 2 * workers + encoder.max_in_flight // views  # for threads, network and head
    readers, network, head = pools = [ThreadPoolExecutor(n, "predict") for n in (workers, 1, 1)]

    def started(batch: list[_Submitted]) -> Callable[[], Answer] | None:
        inputs = [one.views for _, one in map(_Submitted.result, batch) if isinstance(one, Prepared)]
        return start(join_inputs(*inputs)) if inputs else None

    def finished(batch: list[_Submitted], pending: Future[Callable[[], Answer] | None]) -> list[Item]:
        answer = pending.result()
        return finish([one.result() for one in batch], answer() if answer else None)

    def submit(batch: list[_Submitted]) -> Future[list[Item]]:
        return head.submit(finished, batch, network.submit(started, batch))

    batch: list[_Submitted] = []
    errors: list[Exception] = []
    queue: InFlightQueue[Future[list[Item]]] = InFlightQueue(samples_ahead - size + 1, is_ready=Future.done)
    try:
        for index, sample in enumerate(_until_error(samples, errors)):
            batch.append(_read(readers, prepare, sample, f"{name} {index}", numbers))
            if len(batch) == size:
                queue.add(submit(batch), size)
                batch = []
            for items in queue.due():
                yield from items.result()
        if batch:
            queue.add(submit(batch), size)
        for items in queue.drain():
            yield from items.result()
        if errors:
            raise errors[0]
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def _read(readers: ThreadPoolExecutor, prepare: Prepare, sample: Any, name: str, numbers: Sequence[int]) -> _Submitted:
    """Start to prepare a sample."""
    if isinstance(sample, (str, os.PathLike)):
        path = os.fspath(sample)
        return _Submitted(path, readers.submit(_prepare_file, prepare, partial(read_regular, path), numbers))
    if isinstance(sample, SampleFile):
        return _Submitted(sample.name, readers.submit(_prepare_file, prepare, sample.read, numbers))
    try:
        make_views = prepare(sample, name)  # now: the caller may change or close the image afterwards
    except UnreadableImageError as error:
        unreadable: Future[Prepared | OSError] = Future()
        unreadable.set_result(error)
        return _Submitted("", unreadable)
    return _Submitted("", readers.submit(make_views, numbers))


def _prepare_file(prepare: Prepare, read: Callable[[], bytes], numbers: Sequence[int]) -> Prepared | OSError:
    try:
        return prepare(read())(numbers)
    except OSError as error:
        return error
    except ValueError as error:  # a path with NUL in it
        return OSError(str(error))


def _until_error(samples: Iterator[Any], errors: list[Exception]) -> Iterator[Any]:
    """Each sample. An error of the iterator ends them; it is kept until the samples before it are done."""
    try:
        yield from samples
    except Exception as error:
        errors.append(error)
