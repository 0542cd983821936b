"""Damage files: change bytes, values in JSON, and cells in CSV."""

from __future__ import annotations

import csv
import io
import json
from random import Random
from typing import Any

_ODD = ["\0", "\ufeff", "\x1b[31m", "\r", "\n", '"', ",", "|", "/", "..", "\u202e", "\x7f"]
_CELLS = ["", "-1", "1e400", "NaN", "null", "9" * 400, "a" * 200_000, "../../etc/passwd", "=1+1", "|", "a|b", "\0"]
_TEXT = [
    b"\0",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\x80",
    b"\xed\xa0\x80",
    b"\x1b[2J",
    b"\r",
    b"\n",
    b'"',
    b"{",
    b"[",
    b",",
]
_RAW = ["1e400", "-1e400", "NaN", "Infinity", "9" * 4000, "[" * 5000, '{"a":' * 5000, '"\\ud800"', '"\\u0000"', "tru"]


def damage(whole: bytes, others: list[bytes], chance: Random) -> bytes:
    """Apply one to five changes: flip bits, change ranges, truncate, insert a part of another valid file."""
    data = bytearray(whole)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        start = chance.randrange(len(data)) if data else 0
        length = chance.choice([1, 2, 4, 8, 64, 512])
        end = min(len(data), start + length)
        kind = chance.choice(
            ["flip", "flip", "flip", "noise", "zeros", "ones", "cut", "delete", "insert", "double", "swap", "splice"]
        )
        if kind == "flip" and data:
            for _ in range(chance.randint(1, 8)):
                data[chance.choice([start, chance.randrange(len(data))])] ^= 1 << chance.randrange(8)
        elif kind in ("noise", "zeros", "ones"):
            fill = {"noise": chance.randbytes(length), "zeros": bytes(length), "ones": b"\xff" * length}[kind]
            data[start:end] = fill[: end - start]
        elif kind == "cut":
            del data[start:]
        elif kind == "delete":
            del data[start:end]
        elif kind == "insert":
            data[start:start] = chance.randbytes(length)
        elif kind == "double":
            data[start:start] = data[start:end]
        elif kind == "swap" and data:
            other_start = chance.randrange(len(data))
            first, other = data[start:end], data[other_start : other_start + end - start]
            data[start:end], data[other_start : other_start + len(other)] = other, first
        elif kind == "splice" and others:
            other = chance.choice(others)
            position = min(start, len(other))
            data = bytearray(chance.choice([data[:start] + other[position:], other[:position] + data[start:]]))
    return bytes(data)


def damage_json(whole: bytes, others: list[bytes], chance: Random) -> bytes:
    """Change one to three values or keys; if that is not possible, change bytes."""
    if chance.random() < 0.2:
        return _damage_text(whole, others, chance)
    try:
        value = json.loads(whole)
    except ValueError:
        return damage(whole, others, chance)
    raw: dict[str, str] = {}
    for _ in range(chance.randint(1, 3)):
        value = _changed(value, chance, raw)
    text = json.dumps(value)
    for mark, replacement in raw.items():
        text = text.replace(f'"{mark}"', replacement)
    return text.encode("utf-8", "surrogatepass")


def damage_json_lines(whole: bytes, others: list[bytes], chance: Random) -> bytes:
    """Apply `damage_json` to one line, or delete, duplicate or swap lines."""
    lines = whole.splitlines(keepends=True)
    row = chance.randrange(len(lines))
    if chance.random() < 0.7:
        lines[row] = damage_json(lines[row], [], chance) + b"\n"
    else:
        _shuffle(lines, row, chance)
    return b"".join(lines)


def damage_csv(whole: bytes, others: list[bytes], chance: Random) -> bytes:
    """Change one to three cells or rows; if that is not possible, change bytes."""
    if chance.random() < 0.3:
        return _damage_text(whole, others, chance)
    rows = list(csv.reader(io.StringIO(whole.decode(), newline="")))
    for _ in range(chance.randint(1, 3)):
        row = chance.choice([0, chance.randrange(len(rows))]) if rows else 0
        kind = chance.choice(["cell", "cell", "odd", "shuffle cells", "shuffle rows"])
        if not rows or not rows[row]:
            break
        column = chance.randrange(len(rows[row]))
        if kind == "cell":
            rows[row][column] = chance.choice(_CELLS)
        elif kind == "odd":
            rows[row][column] = _with_odd(rows[row][column], chance)
        else:
            _shuffle(rows[row] if kind == "shuffle cells" else rows, column if kind == "shuffle cells" else row, chance)
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


def _damage_text(whole: bytes, others: list[bytes], chance: Random) -> bytes:
    if chance.random() < 0.5:
        return damage(whole, others, chance)
    position = chance.choice([0, len(whole), chance.randrange(len(whole) + 1)])
    return whole[:position] + chance.choice(_TEXT) + whole[position:]


def _shuffle(items: list[Any], position: int, chance: Random) -> None:
    kind = chance.choice(["lose", "double", "swap"])
    if kind == "lose":
        del items[position]
    elif kind == "double":
        items.insert(position, items[position])
    else:
        other = chance.randrange(len(items))
        items[position], items[other] = items[other], items[position]


def _with_odd(text: str, chance: Random) -> str:
    position = chance.randrange(len(text) + 1)
    return text[:position] + chance.choice(_ODD) + text[position:]


def _changed(value: Any, chance: Random, raw: dict[str, str]) -> Any:
    """Change one random nested value of a JSON value. raw : placeholders -> JSON text that replaces them."""
    if isinstance(value, (dict, list)) and value and chance.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key, other = chance.choice(keys), chance.choice(keys)
        kind = chance.random()
        changed = value.copy()
        if kind < 0.1:
            del changed[key]
        elif kind < 0.2 and isinstance(changed, list):
            changed.insert(key, changed[other])
        elif kind < 0.2:
            changed[_with_odd(key, chance)] = changed.pop(key)
        elif kind < 0.25:
            changed[key] = changed[other]
        else:
            changed[key] = _changed(value[key], chance, raw)
        return changed
    if chance.random() < 0.15:
        mark = f"raw {len(raw)}"
        raw[mark] = chance.choice(_RAW)
        return mark
    if isinstance(value, str) and chance.random() < 0.4:
        return _with_odd(value, chance)
    if isinstance(value, (int, float)) and chance.random() < 0.4:
        return chance.choice([value + 1, -value, value * 2, value + 0.5, 2**31, 2**63, 10**30, 1e308])
    return chance.choice([None, True, False, -1, 0, 1, 2**64, 0.5, "", "x", "0", [], {}, [[]], [None], "a" * 100_000])
