"""Which fields of a configuration of transformers decide the features of an encoder."""

from __future__ import annotations

import json
from typing import Any

_WITHOUT_INFLUENCE = frozenset(
    {
        "architectures", "attn_implementation", "auto_map", "dtype", "finetuning_task", "gradient_checkpointing",
        "id2label", "initializer_range", "label2id", "num_labels", "output_attentions", "output_hidden_states",
        "problem_type", "return_dict", "torch_dtype", "transformers_version", "use_cache",
    }
)  # fmt: skip
"""Fields on which features do not depend: where files come from, training, and what featcache sets itself."""


def architecture_of(config: Any) -> str:
    """Canonical JSON of the fields that decide features and differ from the defaults of the kind of network.

    So neither a default that a file writes out nor a field that a newer version of transformers adds changes it.
    """
    try:
        usual = type(config)().to_dict()
    except Exception:  # a kind whose configuration has no defaults
        usual = {}
    fields = {
        key: value
        for key, value in config.to_dict().items()
        if key == "model_type" or (_has_influence(key) and (key not in usual or usual[key] != value))
    }
    return json.dumps(fields, sort_keys=True, default=str)


def _has_influence(key: str) -> bool:
    return key not in _WITHOUT_INFLUENCE and "dropout" not in key and not key.startswith("_")
