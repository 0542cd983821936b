"""`select_engine`: the fastest engine for a network, that gives the same features up to rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from featcache.backbones.engines.base import Engine, EngineName, has_compiler, has_openvino
from featcache.backbones.engines.gpu_trial import GpuTrial
from featcache.core.specs import Precision
from featcache.errors import BackboneError, first_line

EngineStarters = Mapping[EngineName, Callable[[], Engine]]
"""Start an engine of a network, beside plain PyTorch. They raise RuntimeError if it cannot run the network."""

CONVERSION_PAYS = 700
"""Views from which a conversion to OpenVINO (3 to 5 s) pays: 600 for the embedded network, 1,000 for resnet18, by the
rates in benchmarks/results/extraction.json. It is cached, so later runs gain from the first view on."""

TEXT_CONVERSION_PAYS = 1_000
"""The same for views of texts."""

COMPILING_PAYS = 20_000
"""Views from which torch.compile pays, which takes half a minute to a minute."""


@dataclass(frozen=True)
class EngineRequest:
    """What decides which engine runs a network.

    Attributes
    ----------
    network : name of the network, for messages.
    engine : the requested engine, or "auto".
    views : number of views to come.
    conversion_pays : number of views from which a conversion to OpenVINO pays.
    like : engine that made the features which the new ones go with; "" for none.
    conversion : file of the conversion to OpenVINO, once it is made; None to cache none.
    trial : measures engines on a GPU; None: "auto" does not compile there.
    """

    network: str
    engine: EngineName
    views: int
    conversion_pays: int
    like: str
    device: str
    precision: Precision
    conversion: Path | None
    trial: GpuTrial | None = None


@dataclass(frozen=True)
class SelectedEngine:
    """An engine and its name. engine : None for plain PyTorch. note : why it is not a faster one, or differs; or ""."""

    name: EngineName
    engine: Engine | None
    note: str


def select_engine(request: EngineRequest, starters: EngineStarters) -> SelectedEngine:
    """Start the requested engine, or for "auto" the fastest one that works.

    Raises
    ------
    BackboneError : the requested engine is not available, or cannot run the network.
    """
    if request.engine not in ("auto", "pytorch", *starters):
        engines = ", ".join(["pytorch", *starters])
        raise BackboneError(f"{request.network} has no engine {request.engine!r}: it has {engines}. Drop --engine.")
    if request.engine == "openvino" and not _can_use_openvino(request):
        raise BackboneError("OpenVINO runs on the CPU in fp32 or bf16 and must be installed: pip install openvino")
    if request.engine == "compiled" and not has_compiler(request.device):
        raise BackboneError("torch.compile needs a C++ compiler (Triton on a GPU). Install g++, or drop --engine.")
    name = choose_engine(request, starters) if request.engine == "auto" else request.engine
    try:
        engine = start_engine(name, starters)
    except (RuntimeError, ImportError, OSError, AttributeError) as error:  # or a broken installation
        tool, reason = "OpenVINO" if name == "openvino" else "torch.compile", first_line(error)
        if request.engine != "auto":
            raise BackboneError(f"{tool} cannot run {request.network}: {reason}. Drop --engine.") from error
        return SelectedEngine(
            "pytorch", None, f"{tool} cannot run {request.network} ({reason}); PyTorch is used instead"
        )
    except BackboneError as error:  # no memory for the batches of compiled code
        if request.engine != "auto":
            raise
        return SelectedEngine("pytorch", None, f"PyTorch is used instead of {name}: {first_line(error)}")
    if request.engine == "auto" and request.trial and engine and not request.trial.is_faster(engine):
        return SelectedEngine("pytorch", None, f"torch.compile does not make {request.network} faster here")
    name = name if engine else "pytorch"
    note = ""
    if request.precision == "bf16" and request.like not in ("", name):
        note = (
            f"the earlier features were computed by {request.like} in bf16, and {name} is used now: features differ by "
            "about 1 %, and predictions can change"
        )
    return SelectedEngine(name, engine, note)


def choose_engine(request: EngineRequest, starters: EngineStarters) -> EngineName:
    """The engine for "auto".

    In bf16 two engines round so differently that a class can change, so it is the one that made the earlier features.
    Otherwise it is OpenVINO on a CPU if the conversion pays or is cached; without OpenVINO, compiled PyTorch if that
    pays. On a GPU it is compiled PyTorch if that pays by the measured rate of PyTorch.
    """
    if request.device.startswith("cuda"):
        return _choose_on_gpu(request, starters)
    takes_openvino = _can_use_openvino(request)
    if request.precision == "bf16" and (request.like == "pytorch" or (request.like == "openvino" and takes_openvino)):
        return "pytorch" if request.like == "pytorch" else "openvino"
    is_converted = request.conversion is not None and request.conversion.exists()
    if takes_openvino and (request.views >= request.conversion_pays or is_converted):
        return "openvino"
    compiling_pays = "compiled" in starters and request.views >= COMPILING_PAYS and has_compiler("cpu")
    return "compiled" if request.device == "cpu" and not takes_openvino and compiling_pays else "pytorch"


def _choose_on_gpu(request: EngineRequest, starters: EngineStarters) -> EngineName:
    if request.trial is None or "compiled" not in starters or not has_compiler(request.device):
        return "pytorch"
    if request.precision == "bf16" and request.like in ("pytorch", "compiled"):
        return "pytorch" if request.like == "pytorch" else "compiled"
    return "compiled" if request.trial.compiling_pays(request.views) else "pytorch"


def start_engine(name: EngineName, starters: EngineStarters) -> Engine | None:
    """The engine of this name; None for plain PyTorch."""
    return starters[name]() if name in starters else None


def _can_use_openvino(request: EngineRequest) -> bool:
    return request.device == "cpu" and request.precision != "fp16" and has_openvino()
