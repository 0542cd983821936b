"""The head of a model's README.md: YAML in the schema of model cards of the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from featcache._utils.formatting import capitalize, printable
from featcache.core.model_card import ModelCard
from featcache.core.specs import is_arrays

_TASKS = {"image": "image-classification", "text": "text-classification"}
_PATH = re.compile(r"(?:^|(?<=[:/]))(?:/|\\\\|~|\.{1,2}[/\\]|[A-Za-z]:[\\/]).*$")
_METRICS = {"mean_average_precision": "Mean average precision", "macro_f1": "Macro F1"}
_TYPES = {"macro_f1": "f1"}  # as the Hub's library of metrics calls them


def metadata_head(card: ModelCard, report: Mapping[str, Any], base_model: str, dataset: str) -> str:
    """The head, between two lines of three dashes. The parameters are those of `model_readme`.

    There is no license in it: featcache does not know that of the data, nor of the model.
    """
    import yaml

    task = None if is_arrays(card.spec.backbone) else _TASKS.get(card.spec.modality)
    fields: dict[str, Any] = {"library_name": "featcache"}
    if task:
        fields["pipeline_tag"] = task
    fields["tags"] = ["featcache", *(["transfer-learning"] if card.weights != "none" else [])]
    fields["tags"] += ["fine-tuned"] if card.kind == "network" else []
    fields["tags"] += ["multi-label"] if card.multilabel else []
    if base_model:
        fields["base_model"] = base_model
    if dataset:
        fields["datasets"] = [dataset]
    fields["metrics"] = ["accuracy", "f1"]
    name = last_part(printable(str((report.get("data") or {}).get("name", "")))) or "unnamed"
    data: dict[str, Any] = {"name": dataset or name, "type": dataset or "custom"}
    splits: dict[str, Any] = {"val": card.metrics, "test": report.get("test")}
    results: list[dict[str, Any]] = [
        {
            "task": {"type": task or "tabular-classification"},
            "dataset": {**data, "split": split},
            "metrics": _metrics(metrics),
        }
        for split, metrics in splits.items()
        if metrics
    ]
    backbone = public_name(card.spec.backbone)
    title = f"{card.head} on {backbone}" if card.kind == "head" else f"{backbone} fine-tuned"
    fields["model-index"] = [{"name": title, "results": results}]
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---"


def _metrics(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures, that of accuracy with its interval."""
    several = "micro_f1" in metrics
    name = f"{'All labels right' if several else 'Accuracy'} (95 % interval {metrics.get('accuracy_low', 0):.4f} to "
    name += f"{metrics.get('accuracy_high', 1):.4f}, n = {metrics.get('n', 0)})"
    found = [{"type": "accuracy", "value": metrics.get("accuracy", 0.0), "name": name}]
    for field, label in _METRICS.items():
        if metrics.get(field) is not None:
            found.append({"type": _TYPES.get(field, field), "value": metrics[field], "name": capitalize(label)})
    return found


def public_name(backbone: str) -> str:
    """The name of a backbone without a folder of this machine: of an absolute path only the last part.

    Parameters
    ----------
    backbone : str
        As in `ExtractSpec`.

    Returns
    -------
    str

    Examples
    --------
    >>> public_name("timm/local-dir:/home/someone/nets/small"), public_name("timm/resnet18.a1_in1k")
    ('timm/local-dir:small', 'timm/resnet18.a1_in1k')
    """
    return _PATH.sub(lambda match: last_part(match[0]), printable(backbone))


def last_part(path: str) -> str:
    """The last part of a path, as of a URL, on any system; "" for the root.

    Parameters
    ----------
    path : str
        Anything.

    Returns
    -------
    str
    """
    kind = PureWindowsPath if re.match(r"[A-Za-z]:\\|\\\\", path) else PurePosixPath
    return kind(path.split("?", 1)[0] if "://" in path else path).name
