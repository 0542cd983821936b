"""`write_head_page`: the report of a saved head."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from featcache._utils.remote import display_name
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.joined_cache import Caches, list_caches
from featcache.core.model_card import ModelCard
from featcache.errors import PictureError
from featcache.heads.fit_head import HeadFit
from featcache.reports import model_figures
from featcache.reports.commands import extract_command, format_command
from featcache.reports.html import Section, write_page
from featcache.reports.pages.sections import add_figure, head_section, origin_section, result_section


def write_head_page(
    path: str | os.PathLike[str],
    fit: HeadFit,
    cache: Caches,
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
    cache : path or FeatureCache, or several
        What `fit_head` was called with.
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
    opened, card = [FeatureCache.open(each) for each in list_caches(cache)], ModelCard.read(fit.path)
    specs = [network.spec for network in card.networks] or [card.spec]
    used = {each.spec: each for each in opened if each.spec in specs}
    source = "DATA" if data is None else display_name(data)
    commands = [
        *(extract_command(each.spec, each.provenance, source, each.path.name) for each in opened),
        format_command("fit-head", [each.path.name for each in opened], {**settings, "out": fit.path.name}),
    ]
    figures = head_section(fit.path, used[card.spec], data)
    if fit.history:
        add_figure(figures, partial(model_figures.history_figure, fit.path), "Loss and accuracy by epoch", [fit.path])
    sections = [
        result_section(fit),
        figures,
        *(origin_section(each, fit.report.machine, fit.report.versions) for each in used.values()),
        Section("Commands", code="\n".join(commands)),
    ]
    return write_page(path, f"featcache: {fit.name} head on {card.backbones}", sections)
