"""Tables of texts: val texts with their predictions."""

from __future__ import annotations

import os
from pathlib import Path

from featcache._utils.formatting import excerpt
from featcache.data.sources.registry import open_source
from featcache.metrics.predictions import read_predictions
from featcache.reports.chosen_predictions import choose_predictions
from featcache.reports.html import Table
from featcache.reports.sample_images import load_text

_CHARACTERS = 240  # of a text in a table


def predictions_table(
    model: str | os.PathLike[str], data: str | os.PathLike[str], texts: int = 24, text_column: str | None = None
) -> tuple[str, Table]:
    """Val texts with their predictions, mistakes first, and a line on what is chosen.

    Parameters
    ----------
    model : path
        The folder of a head or a run.
    data : path
        The texts that its cache was made from.
    texts : int, default 24
        Highest number of texts.
    text_column : str or None
        See `read_manifest`.

    Raises
    ------
    PictureError
        A text is not in the data any more.
    """
    chosen, line = choose_predictions(read_predictions(Path(model)), texts, "text")
    source = open_source(data, text_column=text_column)
    rows = []
    for row in chosen:
        text = load_text(source, row.image)
        probability = f"{min(row.probabilities):.4f}" if row.probabilities else ""
        rows.append([excerpt(text, _CHARACTERS), row.label, row.predicted, probability])
    return line, Table(["text", "label", "predicted", "probability"], rows)
