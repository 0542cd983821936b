"""`serve`: a web page that classifies images, and gradio's HTTP API behind it. Nothing is loaded from the web."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from featcache._utils.regular_files import read_regular
from featcache._utils.results import Result
from featcache.core.model_card import ModelCard
from featcache.data.file_listing import find_samples
from featcache.errors import DataLayoutError, MissingExtraError, UnreadableImageError
from featcache.models.classifier import Classifier
from featcache.models.defaults import TOP_CLASSES
from featcache.models.serving.limits import MAX_UPLOAD_BYTES, MAX_UPLOAD_PIXELS
from featcache.models.serving.page import (
    CSS,
    FONT,
    PASTE,
    format_answer,
    format_description,
    format_remark,
    format_title,
)
from featcache.models.serving.server import RequestGuard, bracketed, is_loopback, listen, run
from featcache.vision.decode import decode_for
from featcache.vision.image_files import lift_pillows_limit

_MAX_EXAMPLES = 10
_CLEANUP_S, _MAX_AGE_S = 60, 600  # how often old uploads are deleted, and from which age
_REMARK_S = 10  # how long the page shows a remark


@dataclass(frozen=True)
class ServerInfo(Result):
    """Where the page is.

    Attributes
    ----------
    url : str
        Ends with a slash.
    note : str, optional
        A warning if other machines can reach the page.
    """

    url: str
    note: str | None

    def __str__(self) -> str:
        return f"{self.url}  (Ctrl-C ends it)"

    def _json_fields(self) -> dict[str, Any]:
        """The addresses of gradio's API, and a call from Python."""
        return {
            "url": self.url,
            "upload": f"{self.url}gradio_api/upload",
            "predict": f"{self.url}gradio_api/call/predict",
            "python": f'gradio_client.Client("{self.url}").predict(gradio_client.handle_file("photo.jpg"), '
            'api_name="/predict")',
        }


def serve(
    classifier: Classifier,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    examples: Iterable[str] = (),
    top: int = TOP_CLASSES,
    root_path: str = "",
    max_upload: int = MAX_UPLOAD_BYTES,
    max_pixels: int = MAX_UPLOAD_PIXELS,
    on_start: Callable[[ServerInfo], None] | None = None,
) -> None:
    """Serve a web page that classifies images, until KeyboardInterrupt.

    Uploads are deleted after ten minutes, and when the server stops.

    Parameters
    ----------
    classifier : Classifier
        The model to serve.
    host : str
        The address to listen on. Every host that can reach it can use the page. Default:
        "127.0.0.1".
    port : int, optional
        0 takes any free port. Default: the first free one of `PORTS`, from 7860.
    examples : iterable of str
        Files, folders and globs. The page shows up to ten of these images, evenly spread over the folders. Default:
        none.
    top : int
        How many classes to name. Default: 5.
    root_path : str
        Where a reverse proxy shows the page: "/ants", or the whole URL "https://example.org/ants". The proxy must
        remove this prefix from requests. With the URL, requests for its host are accepted. Default: no proxy.
    max_upload : int
        The largest accepted file, in bytes. Default: 20 MiB.
    max_pixels : int
        The largest accepted image. Default: 50 million.
    on_start : Callable[[ServerInfo], None], optional
        Called when the page can be opened.

    Raises
    ------
    MissingExtraError
        gradio is not installed.
    EmptyFolderError
        `examples` names no image.
    DataLayoutError
        `root_path` is neither a URL nor a path.
    OSError
        The address or port cannot be used.

    Examples
    --------
    >>> from featcache import Classifier, serve
    >>> serve(Classifier.load("head"))  # doctest: +SKIP
    """
    public = _public_host(root_path)
    example_images = _spread(find_samples(examples), _MAX_EXAMPLES)
    gr = _import_gradio()
    lift_pillows_limit(max_pixels)
    classifier.predict([np.zeros((8, 8, 3), np.uint8)])  # load everything before the first request
    lock = threading.Lock()

    def answer(path: Path) -> dict[str, Any]:
        if not _is_in(path, uploads) or path.is_dir():  # gradio does not check all paths that it receives
            raise UnreadableImageError("it was not uploaded")
        with lock:
            decoded = decode_for(read_regular(path), classifier.card.spec.image_view, max_pixels)
            (prediction,) = classifier.predict([decoded.pixels], top=top)
        return format_answer(replace(prediction, remark=decoded.remark or None))

    with (
        tempfile.TemporaryDirectory(prefix="featcache-serve-") as folder,
        _environment(folder),
        _refuse_other_files(Path(folder).resolve(), gr),
        listen(host, port) as listener,
    ):
        uploads = Path(folder).resolve()
        info = _server_info(host, listener.getsockname()[1])
        app = _app(gr, answer, classifier.card, example_images, max_upload, info.note is None, root_path, public)
        run(app, listener, lambda: on_start(info) if on_start else None)


def _app(
    gr: Any,
    answer: Callable[[Path], dict[str, Any]],
    card: ModelCard,
    examples: Sequence[Path],
    max_upload: int,
    loopback: bool,
    root_path: str = "",
    public: str | None = None,
) -> Any:
    """The page as an ASGI application. answer : gives what gr.Label shows for an image file."""
    import fastapi

    def predict(image: Any) -> dict[str, Any]:
        if image is None:
            return {}
        if not isinstance(image, dict) or not isinstance(image.get("path"), str):
            raise _refused(gr, "send it to /gradio_api/upload first, and then send the path in the response")
        try:
            result = answer(Path(image["path"]))
            if "remark" in result:
                gr.Warning(escape(format_remark(result["remark"], card)), duration=_REMARK_S, title="Remark")
            return result
        except UnreadableImageError as error:
            raise _refused(gr, str(error)) from None
        except FileNotFoundError:
            raise _refused(gr, "it was deleted in the meantime; send it again") from None

    with gr.Blocks(title=format_title(card), delete_cache=(_CLEANUP_S, _MAX_AGE_S)) as blocks:
        gr.HTML(format_description(card), elem_id="about")
        with gr.Row(equal_height=True):
            image = gr.Image(
                label="Image",
                sources=["upload", "clipboard"],
                type="filepath",
                height=380,
                buttons=["fullscreen"],
                elem_id="image",
            )
            label = gr.Label(label="Labels" if card.multilabel else "Class", elem_id="answer")
        # Without preprocessing, images arrive as they were sent. gradio would decode and encode them again.
        image.change(predict, image, label, api_name="predict", preprocess=False, postprocess=False)
        if examples:  # gradio copies them, so their folders need not be served
            gr.Examples([str(path) for path in examples], image, examples_per_page=_MAX_EXAMPLES)
    app = fastapi.FastAPI(openapi_url=None)
    app.add_middleware(RequestGuard, max_upload=max_upload, loopback=loopback, public=public)
    theme = gr.themes.Soft(primary_hue="emerald", neutral_hue="slate", font=FONT, font_mono=FONT)
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        root_path=root_path or None,
        max_file_size=max_upload,
        show_error=False,
        enable_monitoring=False,
        theme=theme,
        css=CSS,
        head=PASTE,
    )


def _public_host(root_path: str) -> str | None:
    """The host if the root path is a URL. Raises DataLayoutError if it is neither a URL nor a path."""
    parts = urlsplit(root_path)
    if parts.scheme in ("http", "https") and parts.hostname:
        return parts.hostname
    if root_path and not root_path.startswith("/"):
        raise DataLayoutError(
            f"root_path is {root_path!r}; give a path such as /ants, or its URL, https://example.org/ants."
        )
    return None


def _import_gradio() -> Any:
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise MissingExtraError.for_package("gradio", "serve") from error
    return gradio


def _refused(gr: Any, reason: str) -> Any:
    """An error that gradio shows on the page and sends to API clients, without printing a traceback."""
    return gr.Error(escape(f"This image cannot be read: {reason}.", quote=False), print_exception=False)


def _is_in(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder)
    except (OSError, ValueError):  # a loop of links, or NUL in the name
        return False


@contextmanager
def _refuse_other_files(folder: Path, gr: Any) -> Iterator[None]:
    """Refuse paths outside the folder of uploads. A mounted page of gradio copies any file or URL that it receives."""
    move = gr.blocks.Block.async_move_resource_to_block_cache

    async def move_file(self: Any, path: str | Path | None) -> str | None:
        if path is not None and not _is_in(Path(path), folder):
            raise _refused(gr, "it was not uploaded")
        return await move(self, path)

    gr.blocks.Block.async_move_resource_to_block_cache = move_file  # on the class: gradio creates some components again
    try:
        yield
    finally:
        gr.blocks.Block.async_move_resource_to_block_cache = move


def _spread(paths: Sequence[Path], limit: int) -> list[Path]:
    """At most `limit` paths, evenly spread. Paths are sorted by folder, so that each class is represented."""
    step = max(1.0, len(paths) / limit)
    return [paths[int(index * step)] for index in range(min(limit, len(paths)))]


def _server_info(host: str, port: int) -> ServerInfo:
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # these mean every address of this machine
    note = (
        f"{host} is not a loopback address: everyone who reaches port {port} of this machine can use the page. "
        "There is no password."
    )
    return ServerInfo(f"http://{bracketed(address)}:{port}/", None if is_loopback(f"//{bracketed(host)}") else note)


@contextmanager
def _environment(folder: str) -> Iterator[None]:
    """Set the environment variables of gradio: the folder for uploads. Those of the user are ignored."""
    settings = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
    previous = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("GRADIO_")}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings:
            del os.environ[name]
        os.environ.update(previous)
