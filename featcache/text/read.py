"""`read_text`: one text of a manifest."""

from __future__ import annotations

import hashlib

from featcache.data.manifest import Manifest
from featcache.errors import RemoteIOError


def read_text(manifest: Manifest, row: int, skipped: dict[int, str]) -> str | None:
    """A text; None if it cannot be read, with the reason in `skipped`.

    Raises
    ------
    RemoteIOError
        A connection is lost. The text may be readable: the command stops, and resumes when it is repeated.
    """
    try:
        content = manifest.read(row)
    except RemoteIOError:
        raise
    except OSError as error:
        skipped[row] = error.strerror or str(error)
        return None
    if hashlib.sha256(content).digest() != manifest.samples.sha256[row].tobytes():
        skipped[row] = "its bytes are not those that were hashed: it has changed"
        return None
    return content.decode()  # `Manifest.read` refuses what is not UTF-8
