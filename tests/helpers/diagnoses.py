"""What a diagnosis holds, asked for by kind."""

from __future__ import annotations

from featcache.analysis.doctor.findings import DoctorReport, Issue, Severity


def kinds(found: DoctorReport, *severities: Severity) -> list[str]:
    """The kinds of the findings of these severities, of all without any, the worst first."""
    return [one.kind for one in found.findings if not severities or one.severity in severities]


def find(found: DoctorReport, kind: str) -> Issue | None:
    """The finding of a kind, if there is one."""
    return next((finding for finding in found.findings if finding.kind == kind), None)
