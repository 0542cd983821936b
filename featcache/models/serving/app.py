"""`serve`: a web page that classifies samples, and gradio's HTTP API behind it. Nothing is loaded from the web."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from featcache._utils.results import Result
from featcache.core.model_card import ModelCard
from featcache.errors import DataLayoutError, MissingExtraError
from featcache.models.classifier import Classifier
from featcache.models.defaults import TOP_CLASSES
from featcache.models.serving.limits import MAX_UPLOAD_BYTES, MAX_UPLOAD_PIXELS
from featcache.models.serving.page import CSS, FONT, format_description, format_title
from featcache.models.serving.panels.base import Panel, PanelOptions
from featcache.models.serving.panels.registry import PANELS
from featcache.models.serving.server import RequestGuard, listen, page_address, run
from featcache.models.serving.uploads import refuse_other_files

_CLEANUP_S, _MAX_AGE_S = 60, 600  # how often old uploads are deleted, and from which age


@dataclass(frozen=True)
class ServerInfo(Result):
    """Where the page is.

    Attributes
    ----------
    url : str
        Ends with a slash.
    note : str, optional
        A warning if other machines can reach the page.
    api : dict
        How a program sends a sample, see `Panel.api`.
    """

    url: str
    note: str | None
    api: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.url}  (Ctrl-C ends it)"

    def _json_fields(self) -> dict[str, Any]:
        """The addresses of gradio's API, and a call from Python."""
        return {"url": self.url, "predict": f"{self.url}gradio_api/call/predict", **self.api}


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
    """Serve a web page that classifies images or texts, until KeyboardInterrupt.

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
        Files, folders and globs. The page shows up to ten of these images or texts, evenly spread over the folders.
        Default: none.
    top : int
        How many classes to name. Default: 5.
    root_path : str
        Where a reverse proxy shows the page: "/ants", or the whole URL "https://example.org/ants". The proxy must
        remove this prefix from requests. With the URL, requests for its host are accepted. Default: no proxy.
    max_upload : int
        The largest accepted file or text, in bytes. Default: 20 MiB.
    max_pixels : int
        The largest accepted image. Default: 50 million.
    on_start : Callable[[ServerInfo], None], optional
        Called when the page can be opened.

    Raises
    ------
    MissingExtraError
        gradio is not installed.
    EmptyFolderError
        `examples` names no image or text.
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
    gr = _import_gradio()
    card, options = classifier.card, PanelOptions(examples, top, max_pixels)
    panel = PANELS.get(card.spec.modality)(classifier, options)
    panel.warm_up()
    with (
        tempfile.TemporaryDirectory(prefix="featcache-serve-") as folder,
        _environment(folder),
        refuse_other_files(Path(folder).resolve(), gr, card.spec.modality),
        listen(host, port) as listener,
    ):
        url, note = page_address(host, listener.getsockname()[1])
        info = ServerInfo(url, note, panel.api(url))
        app = _app(gr, panel, Path(folder).resolve(), card, max_upload, info.note is None, root_path, public)
        run(app, listener, lambda: on_start(info) if on_start else None)


def _app(
    gr: Any,
    panel: Panel,
    uploads: Path,
    card: ModelCard,
    max_upload: int,
    loopback: bool,
    root_path: str = "",
    public: str | None = None,
) -> Any:
    """The page as an ASGI application. uploads : the folder of uploaded files."""
    import fastapi

    with gr.Blocks(title=format_title(card), delete_cache=(_CLEANUP_S, _MAX_AGE_S)) as blocks:
        gr.HTML(format_description(card), elem_id="about")
        label = gr.Label(label="Labels" if card.multilabel else "Class", elem_id="answer", render=False)
        panel.build(gr, label, uploads)
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
        head=panel.head,
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
