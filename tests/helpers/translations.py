"""The translated pages of the documentation."""

from __future__ import annotations

TRANSLATIONS = {"README.zh.md": "README.md", "docs/zh/getting-started.md": "docs/getting-started.md"}
"""Page -> the English page."""
