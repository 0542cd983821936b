"""`format_program`: the program beside an exported file, which prints the classes of photos without featcache."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featcache.core.model_card import ModelCard
    from featcache.models.export.registry import ExampleCode

MARK = "Written by `featcache export`"
"""Is in each program. A file with it may be replaced."""

IMPORT_PILLOW = "from PIL import Image, ImageOps"

_PROGRAM = '''"""Print the classes of photos. Give the paths of the photos as arguments.

{mark}. It needs the exported file in the same folder, and no featcache.
"""

import sys
from pathlib import Path

import numpy as np
{imports}

CLASSES = {classes!r}
{thresholds}MODEL = Path(__file__).with_name({file!r})


def load(photo):
    """The middle of a photo, upright, prepared as for training: RGB, uint8, shape ({size}, {size}, 3)."""
    formats = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no EPS: Pillow would run it as a program
    image = ImageOps.exif_transpose(Image.open(photo, formats=formats))
{deep}    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    short = min(image.size)
    width, height = ({resize} * side // short for side in image.size)
    image = image.resize((width, height), Image.Resampling.{interpolation})
    left, top = round((width - {size}) / 2), round((height - {size}) / 2)
    return np.asarray(image.crop((left, top, left + {size}, top + {size})))


photos = sys.argv[1:] or sys.exit(__doc__)
pixels = np.stack([load(photo) for photo in photos])
{run}for photo, row in zip(photos, {rows}):
    {show}
'''
_DEEP = """    if image.mode.startswith(("I", "F")):  # more than 8 bits: {low:.15g} becomes black, {high:.15g} white
        values = (np.asarray(image, np.float64) - {low!r}) * 255 / {width!r}
        image = Image.fromarray(np.rint(values.clip(0, 255)).astype(np.uint8))
"""
_SHOW = 'print(f"{photo}\\t{CLASSES[row.argmax()]}\\t{row.max():.4f}")'
_THRESHOLDS = "THRESHOLDS = {thresholds!r}  # a label is printed if its probability is greater\n"
_SHOW_LABELS = """named = zip(CLASSES, row, THRESHOLDS)
    print(photo, *(f"{name} {value:.4f}" for name, value, threshold in named if value > threshold), sep="\\t")"""


def format_program(card: ModelCard, file_name: str, code: ExampleCode) -> str:
    """The text of a program that reads photos as featcache does and prints what the exported file predicts.

    Parameters
    ----------
    card : ModelCard
        Of the exported model.
    file_name : str
        Name of the exported file, in the folder of the program.
    code : ExampleCode
        Lines of the format, which use the file.
    """
    view = card.spec.image_view
    low, high = view.value_range or (0.0, 0.0)
    return _PROGRAM.format(
        mark=MARK,
        imports=code.imports,
        classes=list(card.classes),
        thresholds=_THRESHOLDS.format(thresholds=label_thresholds(card)) if card.multilabel else "",
        file=file_name,
        deep=_DEEP.format(low=low, high=high, width=high - low) if view.value_range else "",
        resize=view.resize_size,
        size=view.image_size,
        interpolation=view.interpolation.upper(),
        run=code.predict,
        rows=code.probabilities,
        show=_SHOW_LABELS if card.multilabel else _SHOW,
    )


def label_thresholds(card: ModelCard) -> list[float]:
    """The threshold of each label."""
    from featcache.core.thresholds import HALF

    return list(card.thresholds or [HALF] * len(card.classes))
