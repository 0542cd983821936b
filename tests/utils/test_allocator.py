"""What was freed stays with the process, so that the system need not zero it again."""

from __future__ import annotations

import sys

import pytest

from commands import in_process

_FAULTS = """
import os, resource, sys
os.environ["NUMPY_MADVISE_HUGEPAGE"] = "0"  # huge pages would hide the faults
import numpy as np
from featcache._utils.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(20):
    np.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def faults(how: str) -> int:
    return int(in_process(_FAULTS, how).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_blocks_are_used_again_without_page_faults() -> None:
    assert faults("keep") < faults("give back") / 2
