"""`Report`: the cost and the result of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from featcache._utils.environment import machine_info, package_versions, peak_gpu_memory_bytes, peak_memory_bytes
from featcache._utils.results import Result

if TYPE_CHECKING:
    from featcache.metrics.classification import Accuracy
    from featcache.metrics.multilabel import LabelAccuracy


@dataclass(frozen=True)
class Report(Result):
    """What one run cost and reached.

    seconds : by phase and `wall`. In the main thread: start, convert, hash, forward (waiting for the network),
    write, fit, train, data (waiting for images; on a GPU only while it has no work), evaluate. Summed over the threads
    that run beside it: read, decode, view.
    images : images worked on. size_bytes : size of the file written, if any.
    device, precision : where and in what the network computed, if one did. tf32 : whether a GPU may compute what is
    left in float32 in TF32. compiled : whether torch.compile compiled the network. peak_memory_bytes : highest resident
    memory of the process so far; peak_gpu_memory_bytes : the most that PyTorch held on one GPU, None without one.
    """

    method: str
    seconds: dict[str, float]
    images: int
    accuracy: Accuracy | LabelAccuracy | None = None
    test: Accuracy | LabelAccuracy | None = None
    size_bytes: int | None = None
    spec_digest: str | None = None
    seed: int | None = None
    device: str | None = None
    precision: str | None = None
    tf32: bool | None = None
    compiled: bool | None = None
    peak_gpu_memory_bytes: int | None = field(default_factory=lambda: peak_gpu_memory_bytes())
    peak_memory_bytes: int | None = field(default_factory=lambda: peak_memory_bytes())
    machine: dict[str, Any] = field(default_factory=lambda: machine_info())
    versions: dict[str, str] = field(default_factory=lambda: package_versions())

    def _json_fields(self) -> dict[str, Any]:
        fields = super()._json_fields()
        accuracy = fields.pop("accuracy")  # whose fields stand at the top level
        return {"method": fields.pop("method"), **(accuracy.to_dict() if accuracy else {}), **fields}
