"""`serve_labels`: a web page on which a person labels the samples of a cache with the keyboard."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from featcache._utils.formatting import plural, printable
from featcache._utils.results import Result
from featcache.analysis.labeling.assessment import Doubt
from featcache.analysis.labeling.session import ChangedMeanwhileError, LabelSession, refuse_remote
from featcache.cache.feature_cache import FeatureCache
from featcache.errors import FeatcacheError, MissingExtraError, OutputError, PictureError, RunError, SpecError
from featcache.models.serving.server import RequestGuard, listen, page_address, run
from featcache.reports.commands import format_command
from featcache.reports.samples.registry import sample_report

_MAX_BODY = 10_000  # bytes of a request
_LISTED = 200  # rows of the history, and doubtful labels, that the page gets
_PAGE = {
    "": ("label.html", "text/html"),
    "label.css": ("label.css", "text/css"),
    "label.js": ("label.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class LabelServer(Result):
    """Where the page is, and where its labels go.

    Attributes
    ----------
    url : str
        Ends with a slash.
    note : str, optional
        A warning if other machines can reach the page.
    table : str
        The table in which each label is saved.
    command : str
        Takes the labels of the table into the cache.
    labeled, total : int
        How many samples have a label, and how many there are.
    changes : int
        How many labels of the table are not in the cache.
    """

    url: str
    note: str | None
    table: str
    command: str
    labeled: int
    total: int
    changes: int

    def __str__(self) -> str:
        labels = f"{self.labeled} of {self.total} labeled"
        if self.changes:
            labels += f"; {plural(self.changes, 'label')} of {self.table} are not in the cache yet"
        return (
            f"{labels}\n{self.url}  (Ctrl-C ends it)\nEach label is saved at once in {self.table}. To take the labels "
            f"into the cache:\n  {self.command}"
        )


def serve_labels(
    cache: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    classes: Iterable[str] = (),
    host: str = "127.0.0.1",
    port: int | None = None,
    seed: int = 0,
    on_start: Callable[[LabelServer], None] | None = None,
) -> None:
    """Serve a web page on which a person labels the samples of a cache, until KeyboardInterrupt.

    The page shows the samples that `suggest` names, one after the other, then those whose labels the doctor doubts, and
    the cross-validated accuracy of the default head on the labels so far. Each label is saved at once in
    NAME.labels.csv beside the cache NAME.h5. The cache does not change: `update` takes the labels of the table into it.
    A page that is served again continues from the table.

    Parameters
    ----------
    cache : path
        A cache of samples with one label each, or none.
    data : path
        What the cache was made from: local files, or a table of texts.
    classes : iterable of str
        Classes that have no sample yet.
    host : str
        The address to listen on. Default: 127.0.0.1, this machine alone.
    port : int, optional
        The port. None, the default, takes 7860, or the next free one.
    seed : int
        Of `suggest` and of the folds of cross-validation. Default: 0.
    on_start : callable, optional
        Called with a `LabelServer` when the page can be opened.

    Raises
    ------
    MissingExtraError
        The extra `serve` is not installed.
    CacheMismatchError
        Samples have several labels, the cache was made from arrays, or the data is not that of the cache.
    DataLayoutError
        The data is not on this machine or cannot be read, or the table lists other samples.
    SpecError
        A class name cannot be used, or the cache is remote.
    OSError
        The address or port cannot be used.

    Examples
    --------
    >>> from featcache import serve_labels
    >>> serve_labels("unsorted.h5", "unsorted")  # doctest: +SKIP
    """
    refuse_remote(os.fspath(cache))
    session = LabelSession(FeatureCache.open(cache), os.fspath(data), classes, seed)
    with listen(host, port) as listener:
        url, note = page_address(host, listener.getsockname()[1])
        page = LabelPage(session, os.fspath(cache))
        app = label_app(page, loopback=note is None)
        info = LabelServer(
            url, note, str(session.path), page.command, session.labeled, len(session.labels), session.changes
        )
        worker = threading.Thread(target=session.work, daemon=True)
        worker.start()
        try:
            run(app, listener, lambda: on_start(info) if on_start else None)
        finally:
            session.close()


class LabelPage:
    """What the page gets from a session, as JSON values.

    Parameters
    ----------
    session : LabelSession
    cache : str
        The cache, as the user wrote it.
    """

    def __init__(self, session: LabelSession, cache: str) -> None:
        self.session, self._cache = session, cache
        self._report = sample_report(session.cache.spec.modality)
        self.command = format_command("update", [cache, os.path.relpath(session.path)], {})
        self.cache_id = session.cache.samples.digest()[:16]

    def state(self) -> dict[str, Any]:
        """All that the page shows, but the samples."""
        session, noun = self.session, self.session.cache.spec.modality
        counts, history = Counter(session.labels), session.history[-_LISTED:]
        last = session.assessments[-1] if session.assessments else None
        points = [_point(one.labels, one.accuracy, one.head) for one in session.assessments if one.accuracy]
        newest = points[-1] if last and last.accuracy else None
        return {
            "cache_id": self.cache_id,
            "cache": printable(session.cache.path.name),
            "noun": noun,
            "nouns": f"{noun}s",
            "table": printable(str(session.path)),
            "command": printable(self.command),
            "total": len(session.labels),
            "labeled": session.labeled,
            "skipped": session.skipped,
            "classes": [{"name": name, "count": counts[name]} for name in session.classes],
            "queue": [self._item(one.row, one.reason) for one in session.queue],
            "history": [self._item(row, "") for row in history],
            "doubts": [self._item(one.row, _describe(one)) for one in session.doubts[:_LISTED]],
            "accuracy": newest,
            "accuracy_note": last.note if last else "",
            "doubts_note": last.doubts_note if last else "",
            "curve": sorted(points, key=lambda point: point["labels"]),
            "choosing": session.is_choosing,
            "assessing": session.is_assessing,
            "error": session.error,
        }

    def _item(self, row: int, reason: str) -> dict[str, Any]:
        samples = self.session.cache.samples
        return {"row": row, "path": printable(samples.ids[row]), "label": self.session.labels[row], "reason": reason}

    def show(self, row: int) -> tuple[str, bytes]:
        """The media type and the bytes of a sample. Raises PictureError with the reason if it cannot be shown."""
        session = self.session
        if not 0 <= row < len(session.labels):
            raise PictureError(f"there is no row {row}")
        noun = session.cache.spec.modality
        try:
            return self._report.show(session.data.read(session.cache.samples.ids[row]), session.cache.spec)
        except (OSError, PictureError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise PictureError(f"This {noun} cannot be shown: {reason}. Skip it.") from error


def _describe(doubt: Doubt) -> str:
    likelihood = "probably" if doubt.is_wrong else "perhaps"
    return (
        f"Labeled {doubt.label}, {likelihood} {doubt.suggested}: for a head that has not seen the label, "
        f"{doubt.suggested} is ahead by {100 * doubt.margin:.0f} points."
    )


def _point(labels: int, accuracy: Any, head: str) -> dict[str, Any]:
    return {
        "labels": labels,
        "held_out": accuracy.n,
        "accuracy": accuracy.accuracy,
        "low": accuracy.accuracy_low,
        "high": accuracy.accuracy_high,
        "head": head,
    }


def label_app(page: LabelPage, loopback: bool) -> Any:
    """The page as an ASGI application, see `RequestGuard`."""
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.requests import Request
        from starlette.responses import PlainTextResponse, Response
        from starlette.routing import Route
    except ModuleNotFoundError as error:
        raise MissingExtraError.for_package("starlette", "serve") from error
    from starlette.concurrency import run_in_threadpool

    def as_json(content: dict[str, Any], status: int = 200) -> Response:
        text = json.dumps(content)  # in ASCII: names of files may hold bytes that are not UTF-8
        return Response(text, status, _HEADERS, "application/json")

    def static(request: Request) -> Response:
        name, kind = _PAGE[request.url.path.removeprefix("/")]
        return Response((files("featcache") / "templates" / name).read_bytes(), 200, _HEADERS, kind)

    def state(request: Request) -> Response:
        return as_json(page.state())

    def sample(request: Request) -> Response:
        try:
            kind, content = page.show(request.path_params["row"])
        except PictureError as error:
            return PlainTextResponse(str(error).encode("utf-8", "backslashreplace"), 422, _HEADERS)
        return Response(content, 200, _HEADERS, kind)

    async def change(request: Request) -> Response:
        refusal = _refusal(request.headers)
        if refusal:
            return as_json({"error": refusal}, 403)
        try:
            body = json.loads(await request.body())
            if body["cache"] != page.cache_id:
                reason = "the server serves another cache, or the cache was updated: load the page again"
                return as_json({"error": reason, "reload": True}, 410)
            action = _action(page.session, request.url.path, body)
        except (ValueError, KeyError, TypeError) as error:
            return as_json({"error": f"not a valid request: {error!r}"}, 400)
        try:
            await run_in_threadpool(action)
        except ChangedMeanwhileError as error:
            return as_json({"error": str(error), "state": page.state()}, 409)
        except SpecError as error:
            return as_json({"error": str(error), "state": page.state()}, 400)
        except (OutputError, RunError, OSError, FeatcacheError) as error:
            return as_json({"error": f"Not saved: {error}", "state": page.state()}, 500)
        return as_json({"state": page.state()})

    routes = [
        *(Route(f"/{name}", static) for name in _PAGE),
        Route("/state", state),
        Route("/sample/{row:int}", sample),
        *(Route(f"/{name}", change, methods=["POST"]) for name in ("label", "skip", "skipped")),
    ]
    guard = Middleware(RequestGuard, max_upload=_MAX_BODY, loopback=loopback)
    return Starlette(routes=routes, middleware=[guard])


def _refusal(headers: Any) -> str:
    """Why a change is refused; "" if it is allowed.

    A page of another origin cannot send JSON without asking first, which this server never allows; a browser also names
    the origin.
    """
    origin, host = headers.get("origin"), headers.get("host", "")
    if (origin is not None and urlsplit(origin).netloc != host) or not _is_own_name(host):
        return "this server takes labels only from its own page, at its IP address or the name of its machine"
    if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return "labels are sent as application/json"
    return ""


def _is_own_name(host: str) -> bool:
    """Whether a host is an IP address or a name of this machine: no name that a stranger's DNS can point here."""
    name, own = urlsplit(f"//{host}").hostname or "", socket.gethostname().lower()
    try:
        ip_address(name)
    except ValueError:
        return name in ("localhost", own, f"{own}.local", socket.getfqdn().lower())
    return True


def _action(session: LabelSession, path: str, body: Any) -> Callable[[], None]:
    """The change that a request asks for. Raises KeyError or TypeError if the request lacks something."""
    if path == "/skipped":
        return session.bring_back
    row, before = body["row"], body["before"]
    if type(row) is not int or not isinstance(before, str):
        raise TypeError("row must be a number, and before a text")
    if path == "/skip":
        return lambda: session.skip(row, before)
    name = body["label"]
    if not isinstance(name, str):
        raise TypeError("label must be a text")
    return lambda: session.label(row, name, before)
