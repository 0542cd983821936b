"""The folder of uploaded files: the server reads no other files for a request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from featcache.models.serving.panels.base import refused


def is_in(path: Path, folder: Path) -> bool:
    """Whether a path is in a folder, after links are followed."""
    try:
        return path.resolve().is_relative_to(folder)
    except (OSError, ValueError):  # a loop of links, or NUL in the name
        return False


@contextmanager
def refuse_other_files(folder: Path, gr: Any, what: str) -> Iterator[None]:
    """Refuse paths outside the folder of uploads. A mounted page of gradio copies any file or URL that it receives.

    what : the word for a sample in the message.
    """
    move = gr.blocks.Block.async_move_resource_to_block_cache

    async def move_file(self: Any, path: str | Path | None) -> str | None:
        if path is not None and not is_in(Path(path), folder):
            raise refused(gr, what, "it was not uploaded")
        return await move(self, path)

    gr.blocks.Block.async_move_resource_to_block_cache = move_file  # on the class: gradio creates some components again
    try:
        yield
    finally:
        gr.blocks.Block.async_move_resource_to_block_cache = move
