"""The option `--require`: figures that a model must reach, for CI."""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from featcache.heads.fit_head import HeadFit
    from featcache.models.evaluation import Evaluation

STATUS = 5
"""The exit status if a figure is not reached."""

_TEST = "test."
_COMPARE = {">=": operator.ge, "<=": operator.le}


class Requirement(NamedTuple):
    """A figure, how it is compared, and with which number."""

    figure: str
    comparison: str
    number: float

    def __str__(self) -> str:
        return f"{self.figure}{self.comparison}{self.number:g}"


class RequirementError(click.ClickException):
    """A model that does not reach what is required of it."""

    exit_code = STATUS


def _names() -> list[str]:
    """The figures in the JSON of an evaluation, of one label or several labels a sample."""
    from featcache.metrics.classification import Accuracy
    from featcache.metrics.multilabel import LabelAccuracy

    fields = [field for kind in (Accuracy, LabelAccuracy) for field in dataclasses.fields(kind)]
    return list(dict.fromkeys(field.name for field in fields if str(field.type).startswith("float")))


def _parse(_ctx: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> list[Requirement]:
    requirements = []
    for text in texts:
        parts = re.fullmatch(r"\s*([\w.]+)\s*(>=|<=)\s*(\S+)\s*", text)
        try:
            number = float(parts[3]) if parts else math.nan
        except ValueError:
            number = math.nan
        if not parts or not math.isfinite(number):
            raise click.BadParameter(f"{text!r} is not FIGURE>=NUMBER or FIGURE<=NUMBER, such as accuracy>=0.9")
        if parts[1].removeprefix(_TEST) not in (names := _names()):
            raise click.BadParameter(f"there is no figure {parts[1]!r}; the figures are {', '.join(names)}")
        requirements.append(Requirement(parts[1], parts[2], number))
    return requirements


require_option = click.option(
    "--require",
    multiple=True,
    callback=_parse,
    metavar="FIGURE>=NUMBER",
    help=f"A figure of the JSON that must be reached, such as accuracy>=0.9, log_loss<=0.3 or {_TEST}accuracy>=0.9; "
    f"repeat the option for more. Otherwise the exit status is {STATUS}; outputs are written all the same.",
)


def check_requirements(requirements: list[Requirement], result: HeadFit | Evaluation) -> None:
    """Raise RequirementError if a figure of val, or with the prefix "test." of test, is not reached."""
    if not requirements:
        return
    figures = _figures("", result.report.accuracy) | _figures(_TEST, result.report.test)
    missed = []
    for requirement in requirements:
        value = figures.get(requirement.figure)
        if value is None:
            missed.append(f"{requirement}: there is no {requirement.figure} here; there are {', '.join(figures)}")
        elif not _COMPARE[requirement.comparison](value, requirement.number):
            missed.append(f"{requirement}: it is {value:.6g}")
    if missed:
        raise RequirementError("required, but not reached: " + "; ".join(missed))


def _figures(prefix: str, accuracy: Any) -> dict[str, float]:
    """The figures that have a value."""
    values = accuracy.to_dict() if accuracy else {}
    return {f"{prefix}{name}": value for name in _names() if (value := values.get(name)) is not None}
