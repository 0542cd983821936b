"""`Words`: what the checks call the samples, and the remedies that fit them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """The words for samples of one modality.

    Attributes
    ----------
    sample : str
        One sample, such as "image".
    show : str
        How to see the samples of an issue, in brackets behind "check them".
    settings : str
        What to check if the features say little about the samples.
    compare : str
        What else `doctor` compares if it gets the data; "" for nothing.
    recipe : str
        A recipe of views that certainly changes a sample; "" if there is none.
    mild_recipe : str
        A recipe of views that changes a sample little.
    copies : str
        What samples with equal content are.
    """

    sample: str
    show: str
    settings: str
    compare: str
    recipe: str
    mild_recipe: str
    copies: str

    @property
    def samples(self) -> str:
        """Several samples, such as "images"."""
        return f"{self.sample}s"


IMAGE_WORDS = Words(
    "image",
    "-o FILE.png with DATA",
    "the mean, std, interpolation and image_size of the cache (`featcache info`) and the weights",
    " With DATA the doctor also compares with plain pixels and other input scales.",
    "tutorial",
    "gentle",
    "exact duplicates",
)
TEXT_WORDS = Words(
    "text",
    "with DATA the report shows their words",
    "the encoder, its prefix and max_length (`featcache info`) and the weights",
    "",
    "",
    "word-dropout",
    "copies, equal but for case and white space",
)
