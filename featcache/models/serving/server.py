"""How an ASGI application is put on an address of this machine, and what is kept out there."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

PORTS = range(7860, 7880)
"""Where a free one is looked for."""

_AROUND = 10_000  # bytes that come with an upload: the form around it
_STOP_S = 1  # a browser keeps a connection open as long as it shows the page


class RequestGuard:
    """What gradio lets through, and we do not: an ASGI middleware.

    Nobody sends more than a file of `max_upload` bytes at once, or makes the server fetch something from the web. A
    page on the web makes no visitor's browser talk to a loopback address, be it by a name of its own that leads there.
    `public` is the host that a reverse proxy of this machine answers for.
    """

    def __init__(self, app: Any, max_upload: int, loopback: bool, public: str | None = None) -> None:
        self.app, self._max_upload, self._loopback, self._public = app, max_upload, loopback, public

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from starlette.datastructures import Headers
        from starlette.exceptions import HTTPException
        from starlette.responses import PlainTextResponse

        taken = 0

        async def counted() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._max_upload + _AROUND:
                raise HTTPException(413, self._too_large())
            return message

        refusal = self._refusal(scope["path"], Headers(scope=scope))
        if refusal:
            status, text = refusal
            while (await receive()).get("more_body"):  # who still sends does not read
                pass
            await PlainTextResponse(text, status)(scope, receive, send)
        else:
            await self.app(scope, counted, send)

    def _refusal(self, path: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Status and reason, judged by the head of a request."""
        host = "//" + headers.get("host", "")
        if self._loopback and not (self._is_ours(host) and self._is_ours(headers.get("origin", host))):
            return 403, "this server answers to pages of this machine alone; start it with --host for others"
        if "://" in path:
            return 403, "this server fetches nothing from the web"
        if int(headers.get("content-length", 0)) > self._max_upload + _AROUND:
            return 413, self._too_large()
        return None

    def _is_ours(self, url: str) -> bool:
        """Whether a URL is of this machine, or of the host that the proxy answers for."""
        if is_loopback(url):
            return True
        try:
            return self._public is not None and urlsplit(url).hostname == self._public
        except ValueError:
            return False

    def _too_large(self) -> str:
        return f"more than the {self._max_upload:,} bytes of --max-upload"


def is_loopback(url: str) -> bool:
    """Whether a URL, or //HOST, is of this machine alone."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name, or no URL
        return False


def bracketed(host: str) -> str:
    """A host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


@contextmanager
def listen(host: str, port: int | None) -> Iterator[socket.socket]:
    """A socket at the port, or at the first that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in PORTS if port is None else [port]:
        try:
            listener = socket.create_server((host, candidate), family=family)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and port is None and candidate != PORTS[-1]:
                continue
            cure = "Give another with --port." if port is not None else "Give a port with --port, or another --host."
            reason = (error.strerror or str(error)).partition(" (")[0]  # Python repeats the address
            raise OSError(error.errno, f"port {candidate} of {host} cannot be had: {reason}. {cure}") from error
        with listener:
            yield listener
        return


def run(app: Any, listener: socket.socket, on_start: Callable[[], None]) -> None:
    """Answer until Ctrl-C."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            on_start()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it would tell of each page that is cut off
            await super().shutdown(sockets)

    config = uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=_STOP_S)
    server = Server(config)
    server.run(sockets=[listener])
    if server.started:  # a signal alone ends it; one that comes while the last task ends can get lost in asyncio
        raise KeyboardInterrupt
