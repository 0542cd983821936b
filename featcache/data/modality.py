"""`Modality`: what the samples are, and which files are samples: `IMAGES` or `TEXTS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from featcache.data.file_types import why_no_image
from featcache.data.image_names import is_image_name
from featcache.data.text_names import is_text_name, why_no_text


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
    """

    name: str
    plural: str
    example: str
    accepts: Callable[[Path], bool]
    why_not: Callable[[Path], str]

    def count(self, n: int) -> str:
        """A number of samples, in words: "1 image", "2 images"."""
        return f"{n} {self.name if n == 1 else self.plural}"


IMAGES = Modality("image", "images", "*.jpg", is_image_name, why_no_image)
TEXTS = Modality("text", "texts", "*.txt", is_text_name, why_no_text)
