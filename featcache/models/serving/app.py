"""`serve`: a page that names the class of a picture, and gradio's HTTP API behind it, with nothing from the web."""

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
from featcache.core.bit_depth import model_range_note
from featcache.core.model_card import ModelCard
from featcache.core.thresholds import format_thresholds
from featcache.data.file_listing import find_images
from featcache.data.input_notes import remark_notes
from featcache.errors import DataLayoutError, MissingExtraError, UnreadableImageError
from featcache.models.classifier import Classifier
from featcache.models.prediction import Prediction
from featcache.models.serving.server import RequestGuard, bracketed, is_loopback, listen, run
from featcache.vision.decode import decode_and_check
from featcache.vision.image_files import lift_pillows_limit

MAX_UPLOAD = 20 << 20
"""Bytes of a picture."""

_EXAMPLES, _NAMED = 10, 20  # pictures and classes that have room on the page
_SWEEP_S, _KEPT_S = 60, 600  # how often uploads are looked through, and how old they may be
_REMARK_S = 10  # how long a remark on a picture stands on the page

_FONT = ["system-ui", "sans-serif"]  # what is there: the themes' own come from elsewhere

# Names of classes may be long, and pictures small.
_CSS = """
.gradio-container { max-width: 1080px !important; margin: 0 auto !important; }
#about .html-container { padding: 0; }
#about h1 { font-size: 1.6rem; font-weight: 650; margin: 0 0 0.2rem; }
#about p { opacity: 0.75; margin: 0; overflow-wrap: anywhere; }
#picture img { width: 100%; height: 100%; object-fit: contain; }
#answer { overflow-wrap: anywhere; }
"""

# gradio pastes by a button alone. Browsers give the clipboard to other than loopback addresses in no other way.
_PASTE = """<script>
document.addEventListener("paste", (event) => {
  const input = document.querySelector("#picture input[type=file]");
  if (!input || !event.clipboardData.files.length) return;
  input.files = event.clipboardData.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
});
</script>"""


@dataclass(frozen=True)
class ServerInfo:
    """Where the page is.

    url : ends with a slash. note : who else reaches it; None for nobody.
    """

    url: str
    note: str | None

    def __str__(self) -> str:
        return f"{self.url}  (Ctrl-C ends it)"

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the addresses of gradio's API, and how Python calls it."""
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
    top: int = 5,
    root_path: str = "",
    max_upload: int = MAX_UPLOAD,
    max_pixels: int = 50_000_000,
    on_start: Callable[[ServerInfo], None] | None = None,
) -> None:
    """Serve a page that classifies pictures, until KeyboardInterrupt.

    Parameters
    ----------
    host : loopback by default; everyone who reaches any other can use the page. port : default the first of PORTS
        that is free; 0 for any.
    examples : files, folders and globs; a few pictures, spread over what is there, stand below the page.
    root_path : where a reverse proxy shows the page: "/ants", or its whole URL "https://example.org/ants". The proxy
        passes requests on without that prefix; with the URL, requests for its host are let through.
    top : how many classes to name. max_upload, max_pixels : larger files (bytes) and pictures are refused.
    on_start : called with the Page when it is up.

    Raises
    ------
    MissingExtraError : gradio is not installed. EmptyFolderError : no examples where some were expected.
    OSError : the address cannot be had.
    """
    public = _public_host(root_path)
    shown = _spread(find_images(examples), _EXAMPLES)
    gr = _import_gradio()
    lift_pillows_limit(max_pixels)
    classifier.predict([np.zeros((8, 8, 3), np.uint8)])  # what is loaded at the first picture is loaded now
    one_at_a_time = threading.Lock()

    def answer(path: Path) -> dict[str, Any]:
        if not _is_in(path, uploads) or path.is_dir():  # gradio does not look at all that it is sent
            raise UnreadableImageError("it was not uploaded")
        with one_at_a_time:
            decoded = decode_and_check(read_regular(path), max_pixels, classifier.card.spec.view.value_range)
            (prediction,) = classifier.predict([decoded.pixels], top=top)
        return _label(replace(prediction, remark=decoded.remark or None))

    with (
        tempfile.TemporaryDirectory(prefix="featcache-serve-") as folder,
        _environment(folder),
        _only_files_of(Path(folder).resolve(), gr),
        listen(host, port) as listener,
    ):
        uploads = Path(folder).resolve()
        page = _page(host, listener.getsockname()[1])
        app = _app(gr, answer, classifier.card, shown, max_upload, page.note is None, root_path, public)
        run(app, listener, lambda: on_start(page) if on_start else None)


def _label(prediction: Prediction) -> dict[str, Any]:
    """A class, or several, and a bar for each probability that is known; what is odd about the picture, if anything."""
    named = prediction.label or "none"
    bars = [{"label": label, "confidence": share} for label, share in prediction.top if share is not None]
    shown = {"label": named.replace("|", ", ") if prediction.several else named, "confidences": bars or None}
    return shown | ({"remark": prediction.remark} if prediction.remark else {})


def _told(remark: str, card: ModelCard) -> str:
    """What the page says of an odd picture."""
    notes = remark_notes([("", remark)], model_range_note(card.spec.view.value_range))
    return "; ".join(note.replace("1 image", "This picture", 1) for note in notes) + "."


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
    """The page as an ASGI application. answer : what gr.Label shows of a picture file."""
    import fastapi

    def predict(picture: Any) -> dict[str, Any]:
        if picture is None:
            return {}
        if not isinstance(picture, dict) or not isinstance(picture.get("path"), str):
            raise _refused(gr, "send it to /gradio_api/upload first, and then the path that this answers")
        try:
            shown = answer(Path(picture["path"]))
            if "remark" in shown:
                gr.Warning(escape(_told(shown["remark"], card)), duration=_REMARK_S, title="Remark")
            return shown
        except UnreadableImageError as error:
            raise _refused(gr, str(error)) from None
        except FileNotFoundError:
            raise _refused(gr, "it has been deleted meanwhile; send it again") from None

    with gr.Blocks(title=_title(card), delete_cache=(_SWEEP_S, _KEPT_S)) as blocks:
        gr.HTML(_about(card), elem_id="about")
        with gr.Row(equal_height=True):
            picture = gr.Image(
                label="Picture",
                sources=["upload", "clipboard"],
                type="filepath",
                height=380,
                buttons=["fullscreen"],
                elem_id="picture",
            )
            label = gr.Label(label="Labels" if card.multilabel else "Class", elem_id="answer")
        # Pictures come as they were sent: gradio would decode and encode them once more.
        picture.change(predict, picture, label, api_name="predict", preprocess=False, postprocess=False)
        if examples:  # gradio copies them: their folders stay closed
            gr.Examples([str(path) for path in examples], picture, examples_per_page=_EXAMPLES)
    app = fastapi.FastAPI(openapi_url=None)
    app.add_middleware(RequestGuard, max_upload=max_upload, loopback=loopback, public=public)
    theme = gr.themes.Soft(primary_hue="emerald", neutral_hue="slate", font=_FONT, font_mono=_FONT)
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        root_path=root_path or None,
        max_file_size=max_upload,
        show_error=False,
        enable_monitoring=False,
        theme=theme,
        css=_CSS,
        head=_PASTE,
    )


def _public_host(root_path: str) -> str | None:
    """The host of a root path that is a URL. Raises DataLayoutError for one that is neither a URL nor a path."""
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
        raise MissingExtraError.of("gradio", "serve") from error
    return gradio


def _refused(gr: Any, reason: str) -> Any:
    """What gradio shows on the page and answers through the API, and does not print with a traceback."""
    return gr.Error(escape(f"This picture cannot be read: {reason}.", quote=False), print_exception=False)


def _is_in(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder)
    except (OSError, ValueError):  # a loop of links, a NUL in its name
        return False


@contextmanager
def _only_files_of(folder: Path, gr: Any) -> Iterator[None]:
    """Refuse what was not uploaded: where a page is mounted, gradio copies any file or address that it is sent."""
    move = gr.blocks.Block.async_move_resource_to_block_cache

    async def move_file(self: Any, path: str | Path | None) -> str | None:
        if path is not None and not _is_in(Path(path), folder):
            raise _refused(gr, "it was not uploaded")
        return await move(self, path)

    gr.blocks.Block.async_move_resource_to_block_cache = move_file  # of all components: some are made anew on the way
    try:
        yield
    finally:
        gr.blocks.Block.async_move_resource_to_block_cache = move


def _title(card: ModelCard) -> str:
    return f"{card.head} on {card.spec.backbone}" if card.kind == "head" else f"{card.spec.backbone}, fine-tuned"


def _about(card: ModelCard) -> str:
    """The head of the page, as HTML."""
    figures = card.metrics
    more = len(card.classes) - _NAMED
    named = [*card.classes[:_NAMED], *([f"{more} more"] if more > 0 else [])]
    lines = [f"{len(card.classes)} {'labels' if card.multilabel else 'classes'}: {', '.join(named)}."]
    if figures.get("n"):
        lines.append(
            f"{'All labels right' if card.multilabel else 'Right'} on {100 * figures['accuracy']:.1f} % of "
            f"{figures['n']} val images (95 % interval {100 * figures['accuracy_low']:.1f} to "
            f"{100 * figures['accuracy_high']:.1f} %)."
        )
    if card.thresholds:
        lines.append(
            f"A label is named where its probability is above its threshold: {format_thresholds(card.thresholds)}."
        )
    return f"<h1>{escape(_title(card))}</h1>" + "".join(f"<p>{escape(line)}</p>" for line in lines)


def _spread(paths: Sequence[Path], most: int) -> list[Path]:
    """Some of many, evenly: they stand folder by folder, so that each class has its share."""
    step = max(1.0, len(paths) / most)
    return [paths[int(place * step)] for place in range(min(most, len(paths)))]


def _page(host: str, port: int) -> ServerInfo:
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # every address of this machine, this one too
    note = (
        f"{host} is not a loopback address: everyone who reaches port {port} of this machine can use the page. "
        "There is no password."
    )
    return ServerInfo(f"http://{bracketed(here)}:{port}/", None if is_loopback(f"//{bracketed(host)}") else note)


@contextmanager
def _environment(folder: str) -> Iterator[None]:
    """What gradio reads from the environment: our folder for uploads, and nothing that the shell happens to have."""
    ours = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
    theirs = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("GRADIO_")}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
        os.environ.update(theirs)
