"""The messages in docs/faq.md are those of the code, and each word of the glossary is explained once."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from commands import ROOT

LEAST = 8
"""Letters of a piece of a message that identify it."""


def texts() -> Iterator[str]:
    """Every text in the code, with \\0 where a value is put in."""
    for path in (*(ROOT / "featcache").rglob("*.py"), *(ROOT / "cli").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                yield "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_messages_of_the_faq_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    messages = [line for block in re.findall(r"^```text\n(.*?)^```", page, re.M | re.S) for line in block.splitlines()]
    assert len(messages) > 20
    code = list(texts())
    unknown = []
    for message in messages:
        pieces = [piece.strip(" ().") for piece in message.split("...")]
        pieces = [piece for piece in pieces if len(piece) >= LEAST]
        if not all(any(piece in text for text in code) for piece in pieces):
            unknown.append(message)
    assert unknown == []


def test_each_word_of_the_glossary_has_one_meaning() -> None:
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^\*\*(.+?)\*\*: \S", page, re.M)
    assert len(words) > 40
    assert words == sorted(set(words), key=str.lower)
