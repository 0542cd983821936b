"""The check of a cache of texts with its data: the beginning of each text of an issue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from featcache._utils.formatting import plural
from featcache.analysis.doctor.findings import Check, Issue, IssueExample, name_row
from featcache.cache.cached_data import CachedData
from featcache.cache.feature_cache import FeatureCache


def show_texts(cache: FeatureCache, data: Any, checks: Sequence[Check]) -> list[Check]:
    """The checks with the beginning of each text of an issue, and a check of the files.

    Parameters
    ----------
    cache : FeatureCache
        Of texts.
    data : path
        What the cache was made from.
    checks : sequence of Check

    Raises
    ------
    EmptyFolderError, DataLayoutError
        The data does not exist, or holds no texts.
    """
    texts = CachedData(cache, data)

    def with_text(one: IssueExample) -> IssueExample:
        text, other = texts.start(one.image), texts.start(one.other)
        return replace(one, text=text, other_text=other, place=texts.place(one.image))

    def with_texts(issue: Issue) -> Issue:
        if issue.kind == "skipped":  # they cannot be read
            return issue
        return replace(issue, images=tuple(map(with_text, issue.images)))

    shown = [
        replace(
            check,
            findings=tuple(map(with_texts, check.findings)),
            rankings=tuple(map(with_texts, check.rankings)),
        )
        for check in checks
    ]
    return [*shown, _check_files(cache, data, texts)] if texts.changed else shown


def _check_files(cache: FeatureCache, data: Any, texts: CachedData) -> Check:
    are = "is" if len(texts.changed) == 1 else "are"
    reason = next(iter(texts.changed.values()))
    what = f"{plural(len(texts.changed), 'text')} {are} missing from {data} or changed: {reason}"
    examples: tuple[IssueExample, ...] = tuple(name_row(cache.samples, texts.rows[name]) for name in texts.changed)
    return Check("files", what, (Issue("other texts", "warning", what, "See `featcache diff`.", examples),))
