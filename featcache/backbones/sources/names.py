"""`check_name`: refuses the name of a network that nobody has, before seconds of imports and before images are read.

The names of timm and torchvision are read from their sources, where each network is registered: importing the two
takes seconds.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from featcache.core.close_names import closest_names
from featcache.core.specs import EMBEDDED, is_arrays
from featcache.errors import BackboneError

TIMM = "timm/"
SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")
"""What names begin with that are no names of timm's own: a repository of the Hugging Face hub, a folder."""

_REGISTERED = re.compile(r"^@register_model\b.*\n(?:@.*\n)*def (\w+)", re.MULTILINE)


def check_name(name: object) -> None:
    """Raise BackboneError, with the names that are near, for a name that is surely no network's.

    Others are for those that load it to judge: factories of the user's own (with a colon), what is no text, models that
    a program has registered with timm itself.
    """
    if not isinstance(name, str) or ":" in name or name == EMBEDDED or is_arrays(name):
        return
    if name.startswith(TIMM):
        model = name.removeprefix(TIMM).partition(".")[0]
        if "timm" in sys.modules or _is_mentioned("timm", model):
            return
        if known := _registered("timm"):
            raise no_timm_model(model, known)
    elif "torchvision" not in sys.modules and (known := _registered("torchvision")) and name not in known:
        raise unknown(name, known, _registered("timm"))


def unknown(name: str, torchvision: Iterable[str], timm: Iterable[str]) -> BackboneError:
    """Of a name that is neither the embedded network's nor one of torchvision's, those of which are given."""
    if name.startswith(SOURCES):
        return BackboneError(f"there is no backbone {name!r}: timm loads such networks, as timm/{name}")
    close = closest_names(name, [EMBEDDED, *torchvision, *(f"{TIMM}{one}" for one in timm)], 6, prefix=TIMM)
    return BackboneError(
        f"there is no backbone {name!r}"
        + (f"; close: {', '.join(close)}" if close else "")
        + f". Use {EMBEDDED} (embedded), a torchvision model such as resnet18, or timm/<model>."
    )


def no_timm_model(model: str, known: Collection[str]) -> BackboneError:
    """Of a name that is none of timm's models, which are given."""
    close = closest_names(model, known)
    near = f"; close: {', '.join(f'{TIMM}{one}' for one in close)}" if close else ""
    return BackboneError(f"timm has no model {model!r}{near}")


def _registered(package: str) -> list[str]:
    """The names of all networks of timm or torchvision, sorted; none where the sources are not to be found."""
    return sorted({name for text in _sources(package) for name in _REGISTERED.findall(text)})


def _is_mentioned(package: str, name: str) -> bool:
    """Whether a name is in the sources at all: those that are out of use are in a table."""
    word = re.compile(rf"\b{re.escape(name)}\b")
    return any(word.search(text) for text in _sources(package))


def _sources(package: str) -> Iterator[str]:
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder, "models").glob("*.py")):
            yield path.read_text(encoding="utf-8", errors="replace")
