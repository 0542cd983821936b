"""The checks of the doctor on texts: the beginning of each text of an issue, and its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from featcache._utils.formatting import plural
from featcache.analysis.doctor.findings import Check, Issue, IssueExample, name_row
from featcache.analysis.doctor.samples.base import DataChecks, SampleChecks
from featcache.analysis.doctor.samples.registry import SAMPLE_CHECKS
from featcache.analysis.doctor.words import TEXT_WORDS, Words
from featcache.cache.cached_data import CachedData
from featcache.cache.feature_cache import FeatureCache
from featcache.data.modality import TEXTS


class TextChecks(SampleChecks):
    """Texts; see `SampleChecks`."""

    def _words(self, name: str) -> Words:
        return TEXT_WORDS

    def check_data(self, checks: Sequence[Check], request: DataChecks) -> list[Check]:
        """See `SampleChecks`: the checks with the beginning of each text of an issue, and a check of the files.

        Raises EmptyFolderError or DataLayoutError if the data does not exist, or holds no texts.
        """
        texts = CachedData(request.cache, request.data)

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
        return [*shown, _check_files(request.cache, request.data, texts)] if texts.changed else shown


def _check_files(cache: FeatureCache, data: Any, texts: CachedData) -> Check:
    are = "is" if len(texts.changed) == 1 else "are"
    reason = next(iter(texts.changed.values()))
    what = f"{plural(len(texts.changed), 'text')} {are} missing from {data} or changed: {reason}"
    examples: tuple[IssueExample, ...] = tuple(name_row(cache.samples, texts.rows[name]) for name in texts.changed)
    return Check("files", what, (Issue("other texts", "warning", what, "See `featcache diff`.", examples),))


SAMPLE_CHECKS.register(TEXTS.name, TextChecks(TEXTS.name))
