"""Image folders to try featcache on: scikit-learn's digits, and the ants and bees of the PyTorch tutorial."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path

import numpy as np

from featcache._utils.environment import cache_folder
from featcache._utils.progress_bar import Progress
from featcache.data.file_listing import list_images
from featcache.errors import DownloadError
from featcache.vision.decode import write_png

ANTS_BEES_URL = "https://download.pytorch.org/tutorial/hymenoptera_data.zip"
ANTS_BEES_SHA256 = "073f92c5bf0fadca72c78f72ec5114ad75f607011421077632ec625eba2237ca"
ANTS_BEES_VARIABLE = "FEATCACHE_ANTS_BEES"

_ENLARGE = 4
_CHUNK = 1 << 16


def prepare(name: str, folder: Path, progress: Progress | None = None) -> Path:
    """The data set "digits" (written into `folder`), "ants-bees", or the path that `name` is."""
    if name == "digits":
        return write_digits(folder / "digits")
    if name == "ants-bees":
        return ants_bees(progress)
    if not Path(name).exists():
        raise DownloadError(f"there is no data set {name!r}: use digits, ants-bees, or the path of a folder or CSV")
    return Path(name)


def write_digits(folder: Path) -> Path:
    """Write scikit-learn's 1,797 digits as `folder/<digit>/<number>.png`, 32 x 32 pixels, grey.

    Files that are there are left alone, so that a second call costs nothing.
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
    """The folder of the tutorial's ants and bees: `FEATCACHE_ANTS_BEES` if set, else fetched once and cached.

    Raises DownloadError; FeatcacheError where there is no place for it.
    """
    given = os.environ.get(ANTS_BEES_VARIABLE)
    if given:
        if not Path(given).is_dir():
            raise DownloadError(f"{ANTS_BEES_VARIABLE} is set to {given}, which is not a folder")
        return Path(given)
    return fetch(ANTS_BEES_URL, ANTS_BEES_SHA256, cache_folder() / "hymenoptera_data", progress)


def fetch(url: str, sha256: str, folder: Path, progress: Progress | None = None) -> Path:
    """Download a zip archive of images and unpack it to `folder`, unless it is there.

    An interrupted download goes on where it stopped.

    Parameters
    ----------
    sha256 : what `tree_sha256` gives for the folder that the archive holds.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    archive = folder.with_suffix(".zip.part")
    try:
        _download(url, archive, progress)
    except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
        raise DownloadError(
            f"{url} could not be fetched ({getattr(error, 'reason', error)}). Run the same command again when there "
            f"is a network (it goes on where it stopped), or set {ANTS_BEES_VARIABLE} to a folder that holds the data."
        ) from error
    draft = folder.with_suffix(".unpacked")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as file:
            file.extractall(draft)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        archive.unlink()
        raise DownloadError(f"what {url} gave is not a zip archive; it was removed. Try again.") from error
    found = tree_sha256(draft / folder.name)
    if found != sha256:
        shutil.rmtree(draft)
        archive.unlink()
        raise DownloadError(
            f"the images in {url} are not the expected ones: sha256 {found[:16]}..., expected {sha256[:16]}.... "
            "They were removed."
        )
    os.replace(draft / folder.name, folder)
    shutil.rmtree(draft)
    archive.unlink()
    return folder


def tree_sha256(folder: Path) -> str:
    """One SHA-256 over the relative path and the content of every image of a folder, however it was packed."""
    digest = hashlib.sha256()
    for path in list_images(folder) if folder.is_dir() else []:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def _download(url: str, path: Path, progress: Progress | None) -> None:
    """Append to `path` what it still lacks of `url`."""
    have = path.stat().st_size if path.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing lies beyond what we have
            return
        raise
    with response:
        if response.status != 206:  # the server sends all of it
            have = 0
        total = have + int(response.headers.get("Content-Length") or 0)
        with path.open("ab" if have else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                if progress:
                    progress("download", have, total)
    if have < total:
        raise DownloadError(f"the connection broke off after {have} of {total} bytes")
