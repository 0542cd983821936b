"""Image folders to try featcache on: scikit-learn's digits, and the ants and bees of the PyTorch tutorial."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from featcache._utils.download import ByteStream, complete, open_partial
from featcache._utils.environment import cache_folder
from featcache._utils.files import draft_folder
from featcache._utils.progress_bar import Progress
from featcache.data.file_listing import list_images
from featcache.errors import DatasetError, RemoteIOError
from featcache.vision.image_files import write_png

ANTS_BEES_URL = "https://download.pytorch.org/tutorial/hymenoptera_data.zip"
ANTS_BEES_SHA256 = "073f92c5bf0fadca72c78f72ec5114ad75f607011421077632ec625eba2237ca"
ANTS_BEES_VARIABLE = "FEATCACHE_ANTS_BEES"

_ENLARGE = 4
_CHUNK = 1 << 16  # bytes
_TIMEOUT_S = 30


def prepare(name: str, folder: Path, progress: Progress | None = None) -> Path:
    """The data set "digits" (written into `folder`), "ants-bees", or the path that `name` is."""
    if name == "digits":
        return write_digits(folder / "digits")
    if name == "ants-bees":
        return ants_bees(progress)
    if not Path(name).exists():
        raise DatasetError(
            f"there is no data set {name!r}: use digits, ants-bees, docstrings, or the path of a folder or CSV"
        )
    return Path(name)


def write_digits(folder: Path) -> Path:
    """Write scikit-learn's 1,797 digits as `folder/<digit>/<number>.png`, 32 x 32 pixels, grey.

    Existing files are kept, so a second call does no work.
    """
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{number:04d}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = zoom(image * (255 / 16), _ENLARGE, order=3)  # cubic: smooth strokes, not blocks
            write_png(pixels.clip(0, 255).astype(np.uint8), path)
    return folder


def ants_bees(progress: Progress | None = None) -> Path:
    """The folder of the PyTorch tutorial's ants and bees: `FEATCACHE_ANTS_BEES` if set, else downloaded once.

    Raises DatasetError if the variable names no folder, RemoteIOError if the download fails, FeatcacheError if the user
    has no home folder.
    """
    folder = os.environ.get(ANTS_BEES_VARIABLE)
    if folder:
        if not Path(folder).is_dir():
            raise DatasetError(f"{ANTS_BEES_VARIABLE} is set to {folder}, which is not a folder")
        return Path(folder)
    return fetch(ANTS_BEES_URL, ANTS_BEES_SHA256, cache_folder() / "hymenoptera_data", progress)


def fetch(url: str, sha256: str, folder: Path, progress: Progress | None = None) -> Path:
    """Download a zip archive of images and unpack it to `folder`, unless the folder exists.

    An interrupted download is continued. Several processes may call this at once.

    Parameters
    ----------
    url : str
        The archive. It holds one folder, of the same name as `folder`.
    sha256 : str
        Result of `tree_sha256` for the unpacked folder.
    folder : Path
        The folder to create.
    progress : callable, optional
        Called as progress("download", done, total), in bytes.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    RemoteIOError
        The archive cannot be downloaded, or has other content than expected.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    archive = folder.with_suffix(".zip.part")
    with open_partial(archive) as file:
        if folder.is_dir():  # another process has unpacked it meanwhile
            return folder
        try:
            complete(file, partial(_stream, url), partial(progress, "download") if progress else None)
        except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
            reason = getattr(error, "reason", error)
            raise RemoteIOError(
                f"{url} could not be fetched ({reason}). Run the same command again when there "
                f"is a network (it resumes), or set {ANTS_BEES_VARIABLE} to a folder that holds the "
                "data."
            ) from error
        try:
            _unpack(file, folder, url, sha256)
        except RemoteIOError:
            archive.unlink(missing_ok=True)
            raise
        archive.unlink(missing_ok=True)
    return folder


def _unpack(archive: BinaryIO, folder: Path, url: str, sha256: str) -> None:
    with draft_folder(folder) as draft:
        try:
            with zipfile.ZipFile(archive) as content:
                content.extractall(draft)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise RemoteIOError(f"what {url} gave is not a zip archive; it was removed. Try again.") from error
        actual = tree_sha256(draft / folder.name)
        if actual != sha256:
            raise RemoteIOError(
                f"the images in {url} are not the expected ones: sha256 {actual[:16]}..., expected {sha256[:16]}.... "
                "They were removed."
            )
        try:
            os.replace(draft / folder.name, folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, on a file system without locks
                raise


def tree_sha256(folder: Path) -> str:
    """One SHA-256 over the relative path and the content of every image of a folder, however it was packed."""
    digest = hashlib.sha256()
    for path in list_images(folder) if folder.is_dir() else []:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def _stream(url: str, start: int) -> ByteStream:
    """The bytes of a file from `start` on; all of them if the server does not support ranges."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # there is nothing after `start`
            return ByteStream(start, start, ())
        raise
    if response.status != 206:
        start = 0
    length = response.headers.get("Content-Length")
    return ByteStream(start, start + int(length) if length else None, _chunks(response))


def _chunks(response: Any) -> Iterator[bytes]:
    with response:
        while chunk := response.read(_CHUNK):
            yield chunk
