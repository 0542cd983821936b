"""`run` serves an ASGI application at an address of this machine; `RequestGuard` refuses unwanted requests."""

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
"""The first free one of these is used."""

_FORM_BYTES = 10_000  # of the form around an uploaded file
_STOP_S = 1  # a browser keeps its connection open as long as it shows the page


class RequestGuard:
    """An ASGI middleware that refuses requests which gradio accepts.

    It refuses files above `max_upload` bytes, and requests that make the server fetch a URL. On a loopback address it
    refuses requests from pages of other hosts, also if their host name resolves to the loopback address.

    Parameters
    ----------
    app : ASGI application
    max_upload : int
        In bytes.
    loopback : bool
        Whether the server listens at a loopback address.
    public : str, optional
        The host of a reverse proxy on this machine.
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

        received = 0

        async def receive_counted() -> Any:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_upload + _FORM_BYTES:
                raise HTTPException(413, self._too_large())
            return message

        refusal = self._refusal(scope["path"], Headers(scope=scope))
        if refusal:
            status, text = refusal
            while (await receive()).get(
                "more_body"
            ):  # a client reads the response only after it has sent the whole body
                pass
            await PlainTextResponse(text, status)(scope, receive, send)
        else:
            await self.app(scope, receive_counted, send)

    def _refusal(self, path: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Status and reason, from path and headers; None if the request is allowed."""
        host = "//" + headers.get("host", "")
        if self._loopback and not (self._is_allowed(host) and self._is_allowed(headers.get("origin", host))):
            return 403, "this server answers only pages of this machine; start it with --host for others"
        if "://" in path:
            return 403, "this server does not fetch URLs"
        if int(headers.get("content-length", 0)) > self._max_upload + _FORM_BYTES:
            return 413, self._too_large()
        return None

    def _is_allowed(self, url: str) -> bool:
        """Whether the host of a URL is this machine or the reverse proxy."""
        if is_loopback(url):
            return True
        try:
            return self._public is not None and urlsplit(url).hostname == self._public
        except ValueError:
            return False

    def _too_large(self) -> str:
        return f"more than the {self._max_upload:,} bytes of --max-upload"


def is_loopback(url: str) -> bool:
    """Whether the host of a URL, or of //HOST, is a loopback address."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name, or not a URL
        return False


def bracketed(host: str) -> str:
    """A host as written in a URL."""
    return f"[{host}]" if ":" in host else host


def page_address(host: str, port: int) -> tuple[str, str | None]:
    """The URL of a page, and a warning if it is not only this machine that can reach it."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # these mean every address of this machine
    note = (
        f"{host} is not a loopback address: everyone who reaches port {port} of this machine can use the page. "
        "There is no password."
    )
    return f"http://{bracketed(address)}:{port}/", None if is_loopback(f"//{bracketed(host)}") else note


@contextmanager
def listen(host: str, port: int | None) -> Iterator[socket.socket]:
    """A socket that listens at the port; None takes the first free one of `PORTS`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in PORTS if port is None else [port]:
        try:
            listener = socket.create_server((host, candidate), family=family)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and port is None and candidate != PORTS[-1]:
                continue
            remedy = "Give another with --port." if port is not None else "Give a port with --port, or another --host."
            reason = (error.strerror or str(error)).partition(" (")[0]  # the rest repeats the address
            raise OSError(error.errno, f"port {candidate} of {host} cannot be used: {reason}. {remedy}") from error
        with listener:
            yield listener
        return


def run(app: Any, listener: socket.socket, on_start: Callable[[], None]) -> None:
    """Serve until Ctrl-C."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            on_start()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it would log each open page
            await super().shutdown(sockets)

    config = uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=_STOP_S)
    server = Server(config)
    server.run(sockets=[listener])
    if server.started:  # only a signal ends the server; asyncio can lose one that arrives while the last task ends
        raise KeyboardInterrupt
