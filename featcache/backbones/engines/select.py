"""`select_engine`: the fastest engine for a network, that gives the same features up to rounding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.backbones.engines.base import Engine, EngineName, has_compiler, has_openvino
from featcache.backbones.engines.data_parallel import join_engines
from featcache.core.specs import Precision
from featcache.errors import BackboneError, first_line

if TYPE_CHECKING:
    from featcache.backbones.feature_extractor import FeatureExtractor

CONVERSION_PAYS = 700
"""Views from which a conversion to OpenVINO (3 to 5 s) pays: 600 for the embedded network, 1,000 for resnet18, by the
rates in benchmarks/results/extraction.json. It is cached, so later runs gain from the first view on."""

COMPILING_PAYS = 20_000
"""Views from which torch.compile pays, which takes half a minute to a minute."""


@dataclass(frozen=True)
class EngineRequest:
    """What decides which engine runs a network.

    Attributes
    ----------
    network : name of the network, for messages.
    engine : the requested engine, or "auto".
    image_size : of the views, in pixels.
    views : number of views to come.
    like : engine that made the features which the new ones go with; "" for none.
    conversion : file of the conversion to OpenVINO, once it is made; None to cache none.
    """

    network: str
    engine: EngineName
    image_size: int
    views: int
    like: str
    device: str
    precision: Precision
    conversion: Path | None


@dataclass(frozen=True)
class SelectedEngine:
    """An engine and its name. engine : None for plain PyTorch. note : why it is not a faster one, or differs; or ""."""

    name: EngineName
    engine: Engine | None
    note: str


def select_engine(request: EngineRequest, extractors: Callable[[], Sequence[FeatureExtractor]]) -> SelectedEngine:
    """Start the requested engine, or for "auto" the fastest one that works.

    Parameters
    ----------
    extractors : returns the network on each device. It is called only if the engine needs it.

    Raises
    ------
    BackboneError : the requested engine is not available, or cannot run the network.
    """
    if request.engine == "openvino" and not _can_use_openvino(request):
        raise BackboneError("OpenVINO runs on the CPU in fp32 or bf16 and must be installed: pip install openvino")
    if request.engine == "compiled" and not has_compiler(request.device):
        raise BackboneError("torch.compile needs a C++ compiler (Triton on a GPU). Install g++, or drop --engine.")
    name = choose_engine(request) if request.engine == "auto" else request.engine
    try:
        engine = start_engine(name, request, extractors)
    except (RuntimeError, ImportError, OSError, AttributeError) as error:  # or a broken installation
        tool, reason = "OpenVINO" if name == "openvino" else "torch.compile", first_line(error)
        if request.engine != "auto":
            raise BackboneError(f"{tool} cannot run {request.network}: {reason}. Drop --engine.") from error
        return SelectedEngine(
            "pytorch", None, f"{tool} cannot run {request.network} ({reason}); PyTorch is used instead"
        )
    name = name if engine else "pytorch"
    note = ""
    if request.precision == "bf16" and request.like not in ("", name):
        note = (
            f"the earlier features were computed by {request.like} in bf16, and {name} is used now: features differ by "
            "about 1 %, and predictions can change"
        )
    return SelectedEngine(name, engine, note)


def choose_engine(request: EngineRequest) -> EngineName:
    """The engine for "auto".

    In bf16 two engines round so differently that a class can change, so it is the one that made the earlier features.
    Otherwise it is OpenVINO on a CPU if the conversion pays or is cached; without OpenVINO, compiled PyTorch if that
    pays.
    """
    takes_openvino = _can_use_openvino(request)
    if request.precision == "bf16" and (request.like == "pytorch" or (request.like == "openvino" and takes_openvino)):
        return "pytorch" if request.like == "pytorch" else "openvino"
    is_converted = request.conversion is not None and request.conversion.exists()
    if takes_openvino and (request.views >= CONVERSION_PAYS or is_converted):
        return "openvino"
    compiling_pays = request.views >= COMPILING_PAYS and has_compiler("cpu")
    return "compiled" if request.device == "cpu" and not takes_openvino and compiling_pays else "pytorch"


def start_engine(
    name: EngineName, request: EngineRequest, extractors: Callable[[], Sequence[FeatureExtractor]]
) -> Engine | None:
    """The engine of this name; None for plain PyTorch."""
    if name == "openvino":
        from featcache.backbones.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(lambda: extractors()[0], request.image_size, request.precision, request.conversion)
    if name == "compiled":
        from featcache.backbones.engines.pytorch import CompiledEngine

        return join_engines([CompiledEngine(extractor, request.image_size) for extractor in extractors()])
    return None


def _can_use_openvino(request: EngineRequest) -> bool:
    return request.device == "cpu" and request.precision != "fp16" and has_openvino()
