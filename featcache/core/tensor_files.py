"""The metadata of the safetensors files that featcache writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Literal


def tensor_metadata(content: str, form: Literal["np", "pt"], digest: str = "") -> dict[str, str]:
    """The `__metadata__` of a file: small texts, which readers may ignore.

    Parameters
    ----------
    content : str
        What the file holds, such as "network".
    form : {"np", "pt"}
        Whose tensors they are: those of numpy or of PyTorch. Other libraries look for this.
    digest : str
        Of the spec of the features, see `ExtractSpec.digest`; "" leaves it out. Default: "".

    Returns
    -------
    dict of str to str

    Examples
    --------
    >>> sorted(tensor_metadata("network", "pt", "0" * 64))
    ['content', 'featcache_version', 'format', 'spec_digest']
    """
    fields = {"format": form, "featcache_version": version("featcache"), "content": content}
    return {**fields, **({"spec_digest": digest} if digest else {})}


def add_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with metadata in the order of their names.

    `safetensors.save` writes metadata in an order that differs from process to process: equal models would have unequal
    files.

    Parameters
    ----------
    content : bytes
        A file without metadata.
    metadata : mapping of str to str
        See `tensor_metadata`.

    Returns
    -------
    bytes
    """
    size = int.from_bytes(content[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(content[8 : 8 + size])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(content)[8 + size :]])
