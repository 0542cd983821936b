"""The file formats of figures, without matplotlib, so that help texts can name them."""

from __future__ import annotations

FORMATS = (".png", ".svg", ".pdf")
