"""The panel of texts: a text box, and example texts."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from featcache._utils.formatting import UNIT_SEPARATOR
from featcache._utils.regular_files import read_regular
from featcache.data.file_listing import find_samples
from featcache.data.modality import TEXTS
from featcache.data.text_content import check_text
from featcache.errors import DataLayoutError
from featcache.models.classifier import Classifier
from featcache.models.prediction import Prediction
from featcache.models.serving.page import format_answer
from featcache.models.serving.panels.base import PanelOptions, refused
from featcache.models.serving.panels.registry import PANELS
from featcache.models.serving.spread import spread

_MAX_EXAMPLES = 10


class TextPanel:
    """The panel of texts; see `Panel`. It shows up to ten examples, which are read when the server starts."""

    head = ""

    def __init__(self, classifier: Classifier, options: PanelOptions, /) -> None:
        self._classifier, self._top = classifier, options.top
        files = spread(find_samples(options.examples, modality=TEXTS), _MAX_EXAMPLES)
        self._examples = [_read(file) for file in files]
        self._separator = classifier.card.spec.text_view.separator
        self._lock = threading.Lock()

    def warm_up(self) -> None:
        """See `Panel`."""
        self._classifier.predict(["a"])

    def build(self, gr: Any, label: Any, uploads: Path, /) -> None:
        """See `Panel`."""
        hint = f" Type {self._separator} between its columns." if self._separator.strip() else ""

        def predict(text: Any) -> dict[str, Any]:
            if text is None or (isinstance(text, str) and not text.strip()):
                return {}
            if not isinstance(text, str):
                raise refused(gr, "text", "send a string")
            prediction = self.classify(text)
            if prediction.label is None:
                raise refused(gr, "text", prediction.error or "")
            if prediction.remark:
                gr.Info(f"This text is {prediction.remark}.", title="Remark")
            return format_answer(prediction)

        with gr.Row(equal_height=True):
            with gr.Column():
                text = gr.Textbox(
                    label="Text",
                    lines=8,
                    max_lines=16,
                    placeholder=f"Type or paste a text.{hint}",
                    autofocus=True,
                    elem_id="text",
                )
                button = gr.Button("Classify", variant="primary", elem_id="classify")
            label.render()
        button.click(predict, text, label, api_name="predict", postprocess=False)
        text.submit(predict, text, label, api_visibility="private", postprocess=False)
        if self._examples:
            gr.Examples([[example] for example in self._examples], text, examples_per_page=_MAX_EXAMPLES)

    def classify(self, text: str) -> Prediction:
        """The prediction for a typed text, in which the separator of the encoder stands between columns."""
        if self._separator:
            text = text.replace(self._separator, UNIT_SEPARATOR)
        with self._lock:
            (prediction,) = self._classifier.predict([text], top=self._top)
        return prediction

    def api(self, url: str, /) -> dict[str, Any]:
        """See `Panel`."""
        return {"python": f'gradio_client.Client("{url}").predict("a text", api_name="/predict")'}


def _read(file: Path) -> str:
    """An example. Raises DataLayoutError, with the name of the file, if it is empty or not UTF-8."""
    try:
        return check_text(read_regular(file)).decode()
    except OSError as error:
        raise DataLayoutError(f"the example {file} cannot be shown: {error.strerror or error}.") from error


PANELS.register("text", TextPanel)
