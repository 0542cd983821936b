"""Third-party packages that send usage data by default are loaded with that switched off.

For gradio `featcache.models.serving.app` does so. For ONNX Runtime the exported programs do it, see
`featcache.models.export.formats.onnx`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_OFF = {"HF_HUB_DISABLE_TELEMETRY": "1", "ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def decline_usage_data() -> None:
    """Tell Hugging Face's hub, ONNX Runtime and Ray not to collect usage data.

    They read the environment when they are imported or started, so this is called before. Values that the user's
    environment has already are kept.
    """
    for name, value in _OFF.items():
        os.environ.setdefault(name, value)


def import_openvino() -> Any:
    """Import OpenVINO without `openvino_telemetry`.

    `import openvino` alone would send an event to Google Analytics and write an identifier into the home folder. Where
    the package `openvino_telemetry` is not installed, OpenVINO uses a stand-in that does nothing.

    Returns
    -------
    module
        `openvino`.
    """
    with _hidden("openvino_telemetry"):
        import openvino
    return openvino


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Let `import package` fail as if it were not installed."""
    loaded = sys.modules.get(package)
    sys.modules[package] = None  # type: ignore[assignment]  # Python's own mark for this
    try:
        yield
    finally:
        del sys.modules[package]
        if loaded is not None:
            sys.modules[package] = loaded
