"""The panel of images: a field for a file, by upload, drop or paste, and example images."""

from __future__ import annotations

import threading
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from featcache._utils.regular_files import read_regular
from featcache.data.file_listing import find_samples
from featcache.errors import UnreadableImageError
from featcache.models.classifier import Classifier
from featcache.models.serving.page import format_answer, format_remark
from featcache.models.serving.panels.base import PanelOptions, refused
from featcache.models.serving.panels.registry import PANELS
from featcache.models.serving.spread import spread
from featcache.models.serving.uploads import is_in
from featcache.vision.decode import decode_for
from featcache.vision.image_files import lift_pillows_limit

_MAX_EXAMPLES = 10
_SEND_FIRST = "send it to /gradio_api/upload first, and then send the path in the response"
_REMARK_S = 10  # how long the page shows a remark

PASTE = """<script>
document.addEventListener("paste", (event) => {
  const input = document.querySelector("#image input[type=file]");
  if (!input || !event.clipboardData.files.length) return;
  input.files = event.clipboardData.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
});
</script>"""
"""Pastes images with the keyboard. gradio's button needs the clipboard, which browsers give only to loopback pages."""


class ImagePanel:
    """The panel of images; see `Panel`. It shows up to ten examples, evenly spread over the folders."""

    head = PASTE

    def __init__(self, classifier: Classifier, options: PanelOptions, /) -> None:
        self._classifier, self._top, self._max_pixels = classifier, options.top, options.max_pixels
        self._examples = spread(find_samples(options.examples), _MAX_EXAMPLES)
        self._lock = threading.Lock()

    def warm_up(self) -> None:
        """See `Panel`."""
        lift_pillows_limit(self._max_pixels)
        self._classifier.predict([np.zeros((8, 8, 3), np.uint8)])

    def build(self, gr: Any, label: Any, uploads: Path, /) -> None:
        """See `Panel`."""
        card = self._classifier.card

        def predict(image: Any) -> dict[str, Any]:
            if image is None:
                return {}
            if not isinstance(image, dict) or not isinstance(image.get("path"), str):
                raise refused(gr, "image", _SEND_FIRST)
            try:
                result = self._answer(Path(image["path"]), uploads)
                if "remark" in result:
                    gr.Warning(escape(format_remark(result["remark"], card)), duration=_REMARK_S, title="Remark")
                return result
            except UnreadableImageError as error:
                raise refused(gr, "image", str(error)) from None
            except FileNotFoundError:
                raise refused(gr, "image", "it was deleted in the meantime; send it again") from None

        with gr.Row(equal_height=True):
            image = gr.Image(
                label="Image",
                sources=["upload", "clipboard"],
                type="filepath",
                height=380,
                buttons=["fullscreen"],
                elem_id="image",
            )
            label.render()
        # Without preprocessing, images arrive as they were sent. gradio would decode and encode them again.
        image.change(predict, image, label, api_name="predict", preprocess=False, postprocess=False)
        if self._examples:  # gradio copies them, so their folders need not be served
            gr.Examples([str(path) for path in self._examples], image, examples_per_page=_MAX_EXAMPLES)

    def api(self, url: str, /) -> dict[str, Any]:
        """See `Panel`."""
        return {
            "upload": f"{url}gradio_api/upload",
            "python": f'gradio_client.Client("{url}").predict(gradio_client.handle_file("photo.jpg"), '
            'api_name="/predict")',
        }

    def _answer(self, path: Path, uploads: Path) -> dict[str, Any]:
        """What gr.Label shows for an uploaded file."""
        if not is_in(path, uploads) or path.is_dir():  # gradio does not check all paths that it receives
            raise UnreadableImageError("it was not uploaded")
        with self._lock:
            decoded = decode_for(read_regular(path), self._classifier.card.spec.image_view, self._max_pixels)
            (prediction,) = self._classifier.predict([decoded.pixels], top=self._top)
        return format_answer(replace(prediction, remark=decoded.remark or None))


PANELS.register("image", ImagePanel)
