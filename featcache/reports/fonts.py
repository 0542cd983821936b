"""Installed fonts for letters that matplotlib's default font lacks, such as Chinese, Japanese, Korean and Thai."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

DEFAULT = "DejaVu Sans"
"""The font that comes with matplotlib."""

_NO_CHARACTER = 0xFDD0  # never assigned; a font that has it draws boxes for all letters (matplotlib's Last Resort)
_CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH")


def use_installed_fonts(figure: Figure) -> str | None:
    """Set fonts that have all letters of a figure's texts, if the default font lacks some.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Drawn with the default font; the fonts of its texts are changed.

    Returns
    -------
    str or None
        Which letters no installed font has, and which font to install; None if there are fonts for all letters.
    """
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and not text.get_text().isascii()]
    letters = {letter for text in texts for letter in text.get_text() if letter.isprintable() and not letter.isspace()}
    missing = _without(font_manager.findfont(DEFAULT), letters)
    if not missing:
        return None
    families, missing = find_fonts(missing)
    if families:
        for text in texts:
            text.set_fontfamily([*text.get_fontfamily(), *families])
    return _advice(missing) if missing else None


def find_fonts(letters: Iterable[str]) -> tuple[list[str], set[str]]:
    """Families of installed fonts that together have the letters, by a greedy choice.

    Parameters
    ----------
    letters : iterable of str
        Single characters.

    Returns
    -------
    tuple of list of str and set of str
        The families, and the letters that no installed font has.
    """
    missing, families = set(letters), []
    _find_new_fonts()
    upright = [font for font in font_manager.fontManager.ttflist if font.style == "normal" and font.name != DEFAULT]
    upright.sort(key=lambda font: (abs(_weight(font.weight) - 400), "Serif" in font.name, font.name))
    lacks = {}
    for font in upright:
        if font.name not in lacks:
            lacks[font.name] = _without(font.fname, missing)
    while missing and lacks:
        best = min(lacks, key=lambda name: len(lacks[name] & missing))
        if missing <= lacks[best]:
            break
        families.append(best)
        missing &= lacks.pop(best)
    return families, missing


def _find_new_fonts() -> None:
    """Add fonts that were installed after matplotlib wrote its list of fonts, which it never updates."""
    manager = font_manager.fontManager
    listed = {font.fname for font in manager.ttflist}
    for path in sorted(set(font_manager.findSystemFonts()) - listed):
        try:
            manager.addfont(path)
        except Exception:  # a damaged file, or a font of bitmaps
            continue


def _without(path: str, letters: set[str]) -> set[str]:
    """The letters that a font file lacks."""
    try:
        font = FT2Font(path)  # without the fallbacks of `get_font`
        if font.get_char_index(_NO_CHARACTER):
            return letters
        return {letter for letter in letters if not font.get_char_index(ord(letter))}
    except (OSError, RuntimeError):  # the file is gone, or damaged
        return letters


def _weight(weight: int | str) -> int:
    return weight if isinstance(weight, int) else font_manager.weight_dict.get(weight, 400)


def _advice(letters: set[str]) -> str:
    """Which letters are drawn as boxes, and what to install."""
    scripts = {_script(letter) for letter in letters}
    fonts = sorted({"Noto Sans CJK" if script in _CJK else f"Noto Sans {script.title()}" for script in scripts})
    packages = sorted({"fonts-noto-cjk" if font == "Noto Sans CJK" else "fonts-noto" for font in fonts})
    examples = "".join(sorted(letters)[:10]) + ("..." if len(letters) > 10 else "")
    return (
        f"no installed font has the letters {examples}: they are drawn as boxes. Install {', '.join(fonts)} "
        f"(Debian, Ubuntu: apt install {' '.join(packages)}; others: fonts.google.com/noto), or write an .svg, for "
        "which the viewer chooses the fonts."
    )


def _script(letter: str) -> str:
    """The first word of a letter's name in Unicode: "THAI", "CJK", "HANGUL", ..."""
    return unicodedata.name(letter, "Unicode").split()[0].split("-")[0]
