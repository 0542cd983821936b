"""Exported files of texts: tokens, and a program that reads texts, with the tokenizer in a file beside it."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, cast

import numpy as np

from featcache._utils.formatting import UNIT_SEPARATOR
from featcache.backbones.text_encoder import TextEncoder
from featcache.backbones.text_tokenizer import TextTokenizer
from featcache.core.model_card import ModelCard
from featcache.errors import ExportError
from featcache.models.export.inputs.base import Check
from featcache.models.export.inputs.registry import EXPORT_INPUTS
from featcache.models.export.program import label_code

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featcache.models.export.registry import ExampleCode
    from featcache.models.load import SavedModel

_TEXTS = [
    "Yes.",
    "The second of these texts is a little longer, with 1,234 signs: (a) and #b!",
    "Zoë drank café au lait 咖啡 in Übersee ☕ " + 40 * "and again, and again ",
    "no",
]
"""What the program is run on: of different lengths, so that padding is checked, too."""

_TOKENIZER = ".tokenizer.json"

_PROGRAM = '''"""Print the classes of texts. Give the texts as arguments, or - to read them from stdin, one a line.
{columns}
{mark}. It needs the exported file and the tokenizer in the same folder, and no featcache.
"""

import sys
from itertools import islice
from pathlib import Path

import numpy as np
{imports}

CLASSES = {classes}
{thresholds}BATCH = {batch}  # texts at once
MODEL = Path(__file__).with_name({file!r})
TOKENIZER = Tokenizer.from_file(str(Path(__file__).with_name({tokenizer!r})))
PREFIX, PADDING = {prefix!r}, {padding}


def tokenize(texts):
    """Ids of tokens, int64, shape (b, t), with padding behind them, and the number of tokens of each text."""
    encoded = TOKENIZER.encode_batch({texts})
    rows = [one.ids or [PADDING] for one in encoded]
    lengths = np.array([len(row) for row in rows], np.int64)
    ids = np.full((len(rows), lengths.max()), PADDING, np.int64)
    for line, row in zip(ids, rows):
        line[: len(row)] = row
    return ids, lengths


def read(arguments):
    """The texts, from stdin one a line in UTF-8, up to the first empty one."""
    for number, text in enumerate(sys.stdin.buffer if arguments == ["-"] else arguments, 1):
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\\n").removesuffix("\\r")
        if not text.strip():
            empty.append(number)
            return
        yield text


empty = []
remaining = read(sys.argv[1:] or sys.exit(__doc__))
{start}while texts := list(islice(remaining, BATCH)):
    ids, lengths = tokenize(texts)
{run}    for text, row in zip(texts, {rows}):
{show}
    sys.stdout.flush()
if empty:
    sys.exit(f"text {{empty[0]}} is empty: it and those behind it have no class")
'''
_COLUMNS = """
A text of several columns has U+001F between them, which bash writes as $'title\\x1fbody'.
"""


class TextInput:
    """Exported files of texts; see `ExportInput`. The pooling is part of the graph; padding changes nothing."""

    names: tuple[str, ...] = ("ids", "lengths")
    dynamic_axes: tuple[dict[int, str], ...] = ({0: "batch", 1: "tokens"}, {0: "batch"})
    imports = "from tokenizers import Tokenizer"
    sample = '"a text"'

    def features(self, saved: SavedModel, /) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """See `ExportInput`. The example is two texts of three and two tokens."""
        import torch

        ids = torch.full((2, 3), _tokenizer(saved).pad_id, dtype=torch.int64)
        return _encoder(saved).text_features, (ids, torch.tensor([3, 2]))

    def layers(self, saved: SavedModel, /) -> tuple[str, ...]:
        """See `ExportInput`."""
        return _encoder(saved).text_features.layers

    def metadata(self, card: ModelCard, /) -> dict[str, str]:
        """See `ExportInput`."""
        view = card.spec.text_view
        return {
            "ids": (
                f"token ids, int64, (b, t), t at most {view.max_length}, with padding behind them; the tokenizer is in "
                f"the file that ends in {_TOKENIZER}"
            ),
            "lengths": "number of tokens of each text, int64, (b,)",
            "prefix": view.prefix,
            "max_length": str(view.max_length),
            **({"separator": view.separator} if view.separator else {}),
        }

    def companions(self, path: Path, /) -> list[Path]:
        """See `ExportInput`: the tokenizer, which cuts texts at the length of the model."""
        return [path.with_name(f"{path.name}{_TOKENIZER}")]

    def write_companions(self, saved: SavedModel, path: Path, /) -> None:
        """See `ExportInput`."""
        self.companions(path)[0].write_text(_tokenizer(saved).settings.content, encoding="utf-8")

    def check(self, saved: SavedModel, folder: Path, /) -> Check:
        """See `ExportInput`: four texts of different lengths."""
        separator = saved.card.spec.text_view.separator
        texts = [*_TEXTS, f"Yes.{UNIT_SEPARATOR}no"] if separator else _TEXTS
        features = np.concatenate(_encoder(saved).submit(_tokenizer(saved)(texts, separator).tokens)(), axis=1)
        return Check(texts, features.astype(np.float64))

    def program(self, saved: SavedModel, file_name: str, code: ExampleCode, /) -> str:
        """See `ExportInput`."""
        tokenizer = _tokenizer(saved)
        separator = saved.card.spec.text_view.separator
        text = "PREFIX + text" if tokenizer.prefix else "text"
        text = f"({text}).lower()" if tokenizer.lower_case else text
        text = f"({text}).replace({UNIT_SEPARATOR!r}, {separator!r})" if separator else text
        return _PROGRAM.format(
            imports=code.imports,
            file=file_name,
            tokenizer=f"{file_name}{_TOKENIZER}",
            prefix=tokenizer.prefix,
            padding=tokenizer.pad_id,
            texts=f"[{text} for text in texts]" if text != "text" else "texts",
            columns=_COLUMNS if separator else "",
            start=code.load,
            run=indent(code.predict, 4 * " "),
            rows=code.probabilities,
            **label_code(saved.card, "text"),
        )

    def notes(self, card: ModelCard, /) -> list[str]:
        """See `ExportInput`."""
        return [f"texts are cut at {card.spec.text_view.max_length} tokens, as in featcache"]


def _encoder(saved: SavedModel) -> TextEncoder:
    return cast(TextEncoder, saved.backbone)


def _tokenizer(saved: SavedModel) -> TextTokenizer:
    """The tokenizer. Raises ExportError for one that has no file."""
    tokenizer = _encoder(saved).tokenizer
    if not isinstance(tokenizer, TextTokenizer):
        raise ExportError(
            f"{saved.card.spec.backbone} has a tokenizer of its own ({type(tokenizer).__name__}), which cannot be "
            "written as tokenizer.json. Use an encoder with such a file."
        )
    return tokenizer


EXPORT_INPUTS.register("text", TextInput())
