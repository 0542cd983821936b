"""`damaged_part`: whether the parts of a zip archive, as `torch.save` writes it, have their checksums."""

from __future__ import annotations

import zipfile
from pathlib import Path

_CHUNK = 2**20


def damaged_part(path: Path) -> str:
    """The first part of an archive whose bytes are not those that were written; PyTorch does not look.

    Parameters
    ----------
    path : Path
        A file, an archive or not.

    Returns
    -------
    str
        The part's name in the archive. "" where all parts have their CRC-32, where none has, as PyTorch can be told to
        write them (`torch.serialization.set_crc32_options`), and for what is no archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = [part for part in archive.infolist() if part.compress_type == zipfile.ZIP_STORED and part.file_size]
            if sum(part.file_size for part in parts) > path.stat().st_size:
                return parts[0].filename  # they lie one over the other
            wrong = [part.filename for part in parts if not _is_valid(archive, part)]
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return ""
    return wrong[0] if 0 < len(wrong) < len(parts) else ""


def _is_valid(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(part) as stream:
            while stream.read(_CHUNK):
                pass
    except (zipfile.BadZipFile, EOFError, RuntimeError):  # encrypted, or in a way that is not known
        return False
    return True
