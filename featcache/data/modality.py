"""`Modality`: what the samples are, and which files are samples: `IMAGES` or `TEXTS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featcache._utils.formatting import excerpt, indefinite
from featcache._utils.progress_bar import Progress
from featcache.data.content_hashes import ContentHashes, hash_images
from featcache.data.file_types import why_no_image
from featcache.data.image_names import is_image_name
from featcache.data.text_content import hash_texts
from featcache.data.text_names import is_text_name, why_no_text

if TYPE_CHECKING:
    from featcache.data.sources.base import SampleRecord, Source


@dataclass(frozen=True)
class Modality:
    """The files that a source takes as samples, and the words for them in messages.

    Sources of files (folders, URLs, tar files) ask it for each name; tables list their samples themselves.

    Parameters
    ----------
    name : str
        One sample, such as "image".
    plural : str
        Several samples, such as "images".
    example : str
        Glob pattern of the files of a class folder, for messages, such as "*.jpg".
    accepts : callable
        Whether a file with this path is a sample. Only the name counts: the file is not opened.
    why_not : callable
        The reason why a file that `accepts` refuses is passed over, such as "not an image (.txt)". Files are counted by
        this reason.
    hash_content : callable
        From a source, the records of its samples and a progress callback to `ContentHashes`.
    takes_hashes : bool
        Whether samples are not read for their hashes if a list has these.
    start : callable or None
        From the bytes of a sample to its beginning in one line, by which people know it. None: it is not shown so.
    hint : str
        What to do about data that holds other samples, for the end of a message; begins with a space.
    """

    name: str
    plural: str
    example: str
    accepts: Callable[[Path], bool]
    why_not: Callable[[Path], str]
    hash_content: Callable[[Source, Sequence[SampleRecord], Progress | None], ContentHashes]
    takes_hashes: bool = True
    start: Callable[[bytes], str] | None = None
    hint: str = ""

    @property
    def one(self) -> str:
        """One sample, with its article: "an image", "a text"."""
        return indefinite(self.name)

    def count(self, n: int) -> str:
        """A number of samples, in words: "1 image", "2 images"."""
        return f"{n} {self.name if n == 1 else self.plural}"


IMAGES = Modality("image", "images", "*.jpg", is_image_name, why_no_image, hash_images)
TEXTS = Modality(
    "text",
    "texts",
    "*.txt",
    is_text_name,
    why_no_text,
    hash_texts,
    takes_hashes=False,
    start=lambda content: excerpt(content.decode()),
    hint=" Name the column of the texts with text_column.",
)
