"""`TEXT_SOURCES`: the sources of text encoders by name."""

from __future__ import annotations

from contextlib import suppress

from featcache.backbones.text_sources.base import BuiltTextEncoder, TextSource
from featcache.core.close_names import closest_names
from featcache.core.registry import Registry
from featcache.core.rng import derived_seed
from featcache.errors import BackboneError

TEXT_SOURCES: Registry[TextSource] = Registry(
    "text encoder source", "featcache.backbones.text_sources", "featcache.text_encoders", BackboneError
)


def find_text_source(name: str) -> TextSource | None:
    """The source of a text encoder; None for an unknown name.

    Entry points of other packages are read only for a name that featcache's own sources do not have.
    """
    registered = TEXT_SOURCES.registered()
    for key in registered:
        if (source := TEXT_SOURCES.get(key)).owns(name):
            return source
    key = name.partition("/")[0]
    if key not in registered and key in TEXT_SOURCES and (source := TEXT_SOURCES.get(key)).owns(name):
        return source
    return None


def get_text_source(name: str) -> TextSource:
    """The source of a text encoder. Raises BackboneError, with close names, for an unknown one."""
    source = find_text_source(name)
    if source is not None:
        return source
    sources = []
    for key in TEXT_SOURCES.names():
        with suppress(BackboneError):  # an entry point that cannot be loaded
            sources.append(TEXT_SOURCES.get(key))
    close = closest_names(name, [encoder for source in sources for encoder in source.names()])
    *hints, last = [source.hint for source in sources if source.hint]
    raise BackboneError(
        f"there is no text encoder {name!r}"
        + (f"; close: {', '.join(close)}" if close else "")
        + f". Use {', '.join(hints)}, or {last}."
    )


def build(name: str, weights: str, seed: int, max_length: int | None, prefix: str | None) -> BuiltTextEncoder:
    """Build a text encoder, see `load_text_encoder`; random weights depend on `seed` alone."""
    from featcache._utils.random_generators import seeded

    source = get_text_source(name)
    with seeded(derived_seed(seed, "weights")):
        return source.build(name, weights, max_length, prefix)
