"""What the page of `serve` shows: title, description, styles, and the answer for an image."""

from __future__ import annotations

from html import escape
from typing import Any

from featcache.core.bit_depth import model_range_note
from featcache.core.model_card import ModelCard
from featcache.core.thresholds import format_thresholds
from featcache.data.input_notes import remark_notes
from featcache.models.prediction import Prediction

_MAX_CLASSES = 20  # that the description names

FONT = ["system-ui", "sans-serif"]
"""Fonts of the browser. The fonts of gradio's themes are loaded from the web."""

CSS = """
.gradio-container { max-width: 1080px !important; margin: 0 auto !important; }
#about .html-container { padding: 0; }
#about h1 { font-size: 1.6rem; font-weight: 650; margin: 0 0 0.2rem; }
#about p { opacity: 0.75; margin: 0; overflow-wrap: anywhere; }
#image img { width: 100%; height: 100%; object-fit: contain; }
#answer { overflow-wrap: anywhere; }
"""
"""Class names may be long, and images small."""


def format_title(card: ModelCard) -> str:
    """The title of the page."""
    return f"{card.head} on {card.backbones}" if card.kind == "head" else f"{card.spec.backbone}, fine-tuned"


def format_description(card: ModelCard) -> str:
    """The head of the page, as HTML."""
    metrics, more = card.metrics, len(card.classes) - _MAX_CLASSES
    names = [*card.classes[:_MAX_CLASSES], *([f"{more} more"] if more > 0 else [])]
    lines = [f"{len(card.classes)} {'labels' if card.multilabel else 'classes'}: {', '.join(names)}."]
    if metrics.get("n"):
        lines.append(
            f"{'All labels correct' if card.multilabel else 'Correct'} on {100 * metrics['accuracy']:.1f} % of "
            f"{metrics['n']} val {card.spec.modality}s (95 % interval {100 * metrics['accuracy_low']:.1f} to "
            f"{100 * metrics['accuracy_high']:.1f} %)."
        )
    if card.thresholds:
        lines.append(
            f"A label is shown if its probability is above its threshold: {format_thresholds(card.thresholds)}."
        )
    return f"<h1>{escape(format_title(card))}</h1>" + "".join(f"<p>{escape(line)}</p>" for line in lines)


def format_answer(prediction: Prediction) -> dict[str, Any]:
    """What gr.Label shows: the class or labels, and a bar for each known probability; and the remark, if any."""
    label = prediction.label or "none"
    bars = [{"label": name, "confidence": value} for name, value in prediction.top if value is not None]
    answer = {"label": label.replace("|", ", ") if prediction.several else label, "confidences": bars or None}
    return answer | ({"remark": prediction.remark} if prediction.remark else {})


def format_remark(remark: str, card: ModelCard) -> str:
    """The text about an odd image."""
    notes = remark_notes([("", remark)], model_range_note(card.spec.image_view.value_range))
    return "; ".join(note.replace("1 image", "This image", 1) for note in notes) + "."
