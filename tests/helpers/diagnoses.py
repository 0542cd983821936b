"""The issues of a report by kind."""

from __future__ import annotations

from featcache.analysis.doctor.findings import DoctorReport, Issue, Severity


def kinds(report: DoctorReport, *severities: Severity) -> list[str]:
    """The kinds of the issues, the worst first; severities : which ones, all by default."""
    return [issue.kind for issue in report.findings if not severities or issue.severity in severities]


def find(report: DoctorReport, kind: str) -> Issue | None:
    """The issue of a kind, if there is one."""
    return next((issue for issue in report.findings if issue.kind == kind), None)
