"""Settings as command lines that reproduce a report."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featcache.core.bit_depth import format_range
from featcache.core.options import ExtractArguments, SplitOptions, fields_of
from featcache.core.specs import ExtractSpec, is_arrays

_OPTIONS = {"out": "-o", "budget_s": "--budget"}


def format_command(name: str, arguments: Sequence[str], settings: Mapping[str, Any]) -> str:
    """`featcache NAME ARGUMENTS --option value ...`, quoted for a shell; None and False are omitted.

    A mapping under "parameters" becomes -p name=value, any other --option name=value; sequences are joined by commas.
    """
    words = ["featcache", name, *(f"./{argument}" if argument.startswith("-") else argument for argument in arguments)]
    for option, value in settings.items():
        if option == "parameters":
            for parameter, argument in (value or {}).items():
                words += ["-p", f"{parameter}={_literal(argument)}"]
        elif isinstance(value, Mapping):
            for key, argument in value.items():
                words += [f"--{option.replace('_', '-')}", f"{key}={argument}"]
        elif value is not None and value is not False:
            words.append(_OPTIONS.get(option, f"--{option.replace('_', '-')}"))
            if value is not True:
                words.append(_option_text(option, value))
    return shlex.join(words)


def _option_text(option: str, value: Any) -> str:
    """The value of an option as the command line reads it."""
    if option == "value_range" and not isinstance(value, str):
        return format_range(value)
    return ",".join(value) if isinstance(value, (list, tuple)) else str(value)


def _literal(value: object) -> str:
    """The value as -p reads it: strings without quotes, unless they would be read as another type, such as "1"."""
    if isinstance(value, str):
        try:
            ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return value
    return repr(value)


def extract_command(spec: ExtractSpec, provenance: Mapping[str, Any], data: str, out: str) -> str:
    """The `featcache extract` command for a cache of this spec, with the name of a weights file and not its path.

    For features that were given as arrays it is the line of Python.
    """
    if is_arrays(spec.backbone):
        return "# FeatureCache.from_arrays(x, y, " + f"{out!r})"
    settings: dict[str, Any] = {
        "out": out,
        "backbone": spec.backbone,
        "weights": Path(str(provenance.get("weights", "pretrained"))).name,
    }
    fields = spec.flat()
    settings |= {name: fields[name] for name in fields_of(ExtractArguments) if name in fields}
    settings |= {name: provenance.get(name) for name in fields_of(SplitOptions)}
    return format_command("extract", [data], settings)
