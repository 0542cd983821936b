"""The checks of the doctor on texts: the beginning of each text of an issue, and its place."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from featcache._utils.formatting import excerpt, plural
from featcache.analysis.doctor.findings import Check, Issue, IssueExample, name_row
from featcache.analysis.doctor.samples.base import DataChecks, SampleChecks
from featcache.analysis.doctor.samples.registry import SAMPLE_CHECKS
from featcache.analysis.doctor.words import TEXT_WORDS, Words
from featcache.cache.feature_cache import FeatureCache
from featcache.core.options import DataOptions, select
from featcache.data.modality import TEXTS
from featcache.data.sources.base import Source
from featcache.data.sources.registry import open_source


class TextChecks(SampleChecks):
    """Texts; see `SampleChecks`."""

    def _words(self, name: str) -> Words:
        return TEXT_WORDS

    def check_data(self, checks: Sequence[Check], request: DataChecks) -> list[Check]:
        """See `SampleChecks`: the checks with the beginning of each text of an issue, and a check of the files.

        Raises EmptyFolderError or DataLayoutError if the data does not exist, or holds no texts.
        """
        cache, data = request.cache, request.data
        source = open_source(data, **select(DataOptions, cache.split_options))
        if source.has_text_column:
            source.entries(Counter())  # with labels, which number equal texts, and so decide the places
        rows = {name: row for row, name in enumerate(cache.samples.ids)}
        starts: dict[str, str] = {}
        changed: dict[str, str] = {}

        def start(name: str) -> str:
            if name and name not in starts:
                starts[name] = _read(source, name, cache.samples.sha256[rows[name]].tobytes(), changed)
            return starts.get(name, "")

        def place(name: str) -> str:
            return source.place(name) if source.has_text_column and starts[name] else ""

        def with_texts(issue: Issue) -> Issue:
            if issue.kind == "skipped":  # they cannot be read
                return issue
            return replace(
                issue,
                images=tuple(
                    replace(one, text=start(one.image), other_text=start(one.other), place=place(one.image))
                    for one in issue.images
                ),
            )

        shown = [
            replace(
                check,
                findings=tuple(map(with_texts, check.findings)),
                rankings=tuple(map(with_texts, check.rankings)),
            )
            for check in checks
        ]
        return [*shown, _check_files(cache, data, rows, changed)] if changed else shown


def _read(source: Source, name: str, sha256: bytes, changed: dict[str, str]) -> str:
    """The beginning of a text; "" if it is not that of the cache, with the reason in `changed`."""
    try:
        content = source.read(name)
    except OSError as error:
        changed[name] = error.strerror or str(error)
        return ""
    if hashlib.sha256(content).digest() != sha256:
        changed[name] = "its bytes are not those of the cache"
        return ""
    return excerpt(content.decode())


def _check_files(cache: FeatureCache, data: Any, rows: dict[str, int], changed: dict[str, str]) -> Check:
    are = "is" if len(changed) == 1 else "are"
    reason = next(iter(changed.values()))
    what = f"{plural(len(changed), 'text')} {are} missing from {data} or changed: {reason}"
    examples: tuple[IssueExample, ...] = tuple(name_row(cache.samples, rows[name]) for name in changed)
    return Check("files", what, (Issue("other texts", "warning", what, "See `featcache diff`.", examples),))


SAMPLE_CHECKS.register(TEXTS.name, TextChecks(TEXTS.name))
