"""`write_head_page`: the report of a saved head."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from featcache._utils.remote import display_name
from featcache.cache.feature_cache import FeatureCache
from featcache.errors import PictureError
from featcache.heads.fit_head import HeadFit
from featcache.reports import model_figures
from featcache.reports.commands import extract_command, format_command
from featcache.reports.html import Section, write_page
from featcache.reports.pages.sections import add_figure, head_section, origin_section, result_section


def write_head_page(
    path: str | os.PathLike[str],
    fit: HeadFit,
    cache: str | os.PathLike[str],
    settings: Mapping[str, Any],
    data: str | os.PathLike[str] | None = None,
) -> Path:
    """Write the report of a saved head as one HTML file.

    Parameters
    ----------
    path : path
        The file to write.
    fit : HeadFit
        What `fit_head` returned; it must have been called with `out`.
    cache : path
        The cache that the head was fitted on.
    settings : mapping
        The options of `featcache fit-head` by name, for the command that repeats the fit.
    data : path, optional
        The images that the cache was made from. Without them the page has no images.

    Returns
    -------
    Path
        The written file.

    Raises
    ------
    PictureError
        The head was not saved.
    """
    if fit.path is None:
        raise PictureError("the report needs a saved head: call fit_head with out=...")
    opened = FeatureCache.open(cache)
    name = Path(cache).name
    source = "DATA" if data is None else display_name(data)
    commands = [
        extract_command(opened.spec, opened.provenance, source, name),
        format_command("fit-head", [name], {**settings, "out": fit.path.name}),
    ]
    figures = head_section(fit.path, opened, data)
    if fit.history:
        add_figure(figures, partial(model_figures.history_figure, fit.path), "Loss and accuracy by epoch", [fit.path])
    sections = [
        result_section(fit),
        figures,
        origin_section(opened, fit.report.machine, fit.report.versions),
        Section("Commands", code="\n".join(commands)),
    ]
    return write_page(path, f"featcache: {fit.name} head on {opened.spec.backbone}", sections)
