"""Engine "auto" on a GPU: torch.compile where it pays by measured rates. A stand-in clock gives the rates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from featcache.backbones.engines import select
from featcache.backbones.engines.gpu_trial import COMPILE_S, EXPECTED_GAIN, WORTH_A_TRIAL, GpuTrial
from featcache.backbones.engines.select import EngineRequest, select_engine
from featcache.errors import BackboneError


class Rated:
    """An engine that moves the clock when its features are awaited."""

    note, max_in_flight = "", 0

    def __init__(self, time: list[float], seconds_per_view: float) -> None:
        self._time, self._seconds, self.views = time, seconds_per_view, 0

    def submit(self, pixels: np.ndarray) -> Any:
        self.views += len(pixels)

        def features() -> list[Any]:
            self._time[0] += self._seconds * len(pixels)
            return []

        return features


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "has_compiler", lambda device: True)


def selected(pytorch_s: float, compiled_s: float | Exception, views: int, **options: Any) -> tuple[str, str, int, bool]:
    """Engine, note, views that PyTorch computed for the trial, and whether it compiled."""
    time, compiled = [0.0], []
    pytorch = Rated(time, pytorch_s)

    def compile() -> Any:
        compiled.append(1)
        if isinstance(compiled_s, Exception):
            raise compiled_s
        return Rated(time, compiled_s)

    request: dict[str, Any] = {
        "network": "net", "engine": "auto", "views": views, "conversion_pays": 700, "like": "", "device": "cuda:0",
        "precision": "bf16", "conversion": None,
        "trial": GpuTrial(lambda: pytorch, 8, 16, clock=lambda: time[0]),
    }  # fmt: skip
    found = select_engine(EngineRequest(**{**request, **options}), {"compiled": compile})
    assert (found.engine is not None) == (found.name == "compiled")
    return found.name, found.note, pytorch.views, bool(compiled)


MEASURED = 16 * (8 + 1 + 4)


@pytest.mark.parametrize(
    ("pytorch_s", "compiled_s", "views", "expected"),
    [
        (1e-3, 8e-4, 10**6, ("compiled", "", MEASURED, True)),
        (1e-3, 8e-4, WORTH_A_TRIAL - 1, ("pytorch", "", 0, False)),
        (1e-5, 1e-6, 10**6, ("pytorch", "", MEASURED, False)),  # 10 s in all
        (1e-3, 1e-3, 10**6, ("pytorch", "torch.compile does not make net faster here", MEASURED, True)),
        (1e-3, 2e-3, 10**6, ("pytorch", "torch.compile does not make net faster here", MEASURED, True)),
    ],
)
def test_it_compiles_where_measured_rates_say_that_it_pays(
    pytorch_s: float, compiled_s: float, views: int, expected: tuple[Any, ...]
) -> None:
    assert selected(pytorch_s, compiled_s, views) == expected


def test_the_limit_is_the_time_that_is_saved() -> None:
    views = 10**6
    limit = COMPILE_S / EXPECTED_GAIN / views
    assert [selected(limit * factor, 0.0, views)[0] for factor in (0.99, 1.01)] == ["pytorch", "compiled"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"engine": "compiled"}, ("compiled", "", 0, True)),  # by option, without a trial
        ({"engine": "pytorch"}, ("pytorch", "", 0, False)),
        ({"like": "pytorch"}, ("pytorch", "", 0, False)),  # as the features that are there, in bf16
        ({"like": "compiled", "views": 1}, ("compiled", "", 0, True)),
        ({"like": "pytorch", "precision": "fp32"}, ("compiled", "", MEASURED, True)),
        ({"trial": None}, ("pytorch", "", 0, False)),
    ],
)
def test_options_and_earlier_features_decide_first(options: dict[str, Any], expected: tuple[Any, ...]) -> None:
    assert selected(1e-3, 5e-4, **{"views": 10**6, **options}) == expected


@pytest.mark.parametrize("error", [RuntimeError("no ptxas\nmore"), BackboneError("too little free memory.")])
def test_where_it_cannot_compile_pytorch_runs_and_a_note_says_why(error: Exception) -> None:
    name, note, _, _ = selected(1e-3, error, 10**6)
    assert name == "pytorch"
    assert str(error).splitlines()[0] in note
    with pytest.raises(BackboneError):
        selected(1e-3, error, 10**6, engine="compiled")


def test_without_a_compiler_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "has_compiler", lambda device: False)
    assert selected(1e-3, 5e-4, 10**6) == ("pytorch", "", 0, False)
