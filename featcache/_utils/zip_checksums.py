"""`damaged_part`: verify the checksums of a zip archive that `torch.save` wrote."""

from __future__ import annotations

import zipfile
from pathlib import Path

_CHUNK = 2**20


def damaged_part(path: Path) -> str:
    """The first member of an archive whose CRC-32 does not match; PyTorch does not check it.

    Parameters
    ----------
    path : Path
        Any file.

    Returns
    -------
    str
        The name of the member. "" if all checksums match, if none does (PyTorch can omit checksums, see
        `torch.serialization.set_crc32_options`), or if the file is not an archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = [part for part in archive.infolist() if part.compress_type == zipfile.ZIP_STORED and part.file_size]
            if sum(part.file_size for part in parts) > path.stat().st_size:
                return parts[0].filename  # members overlap
            wrong = [part.filename for part in parts if not _is_valid(archive, part)]
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return ""
    return wrong[0] if 0 < len(wrong) < len(parts) else ""


def _is_valid(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(part) as stream:
            while stream.read(_CHUNK):
                pass
    except (zipfile.BadZipFile, EOFError, RuntimeError):  # encrypted, or an unknown compression
        return False
    return True
