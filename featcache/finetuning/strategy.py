"""`FineTuneStrategy`: what a fine-tuning begins with, what of it learns, and what is kept of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from featcache.errors import RunError

BatchNorm = Literal["train", "eval"]
Unfreeze = int | Literal["all", "last-stage"]

LP_FT_DEFAULTS: dict[str, Any] = {"optimizer": "adamw", "lr": 1e-4, "schedule": "cosine"}
"""Fields of `TrainConfig` for a network whose head is fitted: large steps would undo what it knows (LP-FT, Kumar et
al. 2022, "Fine-tuning can distort pretrained features and underperform out-of-distribution", arXiv 2202.10054). SGD did
so on the digits even at 1e-4, which after two epochs were at 0.82 from 0.94; AdamW went to 0.95."""


@dataclass(frozen=True)
class FineTuneStrategy:
    """The defaults are plain fine-tuning of all that is pretrained, below a new head. See `finetune`.

    init_head : a folder of `fit_head`, or "imagenet:...". reuse_until : name of a stage. unfreeze : how many stages
    learn, from the last one; 0 are all. layer_decay : 1 is none. wise_ft : share of the fine-tuned weights.
    """

    init_head: str | None = None
    reuse_until: str | None = None
    unfreeze: int = 0
    layer_decay: float = 1.0
    batchnorm: BatchNorm = "train"
    wise_ft: float | None = None

    @property
    def needs_stages(self) -> str | None:
        """The option that counts stages, if one does."""
        asked = {
            "--unfreeze": self.unfreeze,
            "--reuse-until": self.reuse_until,
            "--layer-decay": self.layer_decay != 1,
        }
        return next((option for option, value in asked.items() if value), None)

    def config(self) -> dict[str, Any]:
        """What a resumed run must have in common, as JSON values. The head stands there by its content, not by name."""
        return {**asdict(self), "init_head": None, "unfreeze": self.unfreeze or "all"}


def make_strategy(
    mode: Literal["all", "head"],
    weights: str,
    *,
    init_head: str | None,
    reuse_until: str | None,
    unfreeze: Unfreeze,
    layer_decay: float,
    batchnorm: BatchNorm | None,
    wise_ft: float | None,
) -> FineTuneStrategy:
    """Raises RunError where settings are none, or contradict each other; arguments as of `finetune`."""
    stages = {"all": 0, "last-stage": 1}.get(str(unfreeze), unfreeze)
    if not isinstance(stages, int) or isinstance(unfreeze, bool) or stages < (unfreeze != "all"):
        raise RunError(
            f"--unfreeze is {unfreeze}; it must be all, last-stage, or how many of the last stages learn, from 1. For "
            "a head on the frozen network: --train head."
        )
    if not 0 < layer_decay <= 1:
        raise RunError(f"--layer-decay is {layer_decay}; it must be greater than 0, and 1 (none) or less")
    if batchnorm not in (None, *get_args(BatchNorm)):
        raise RunError(f"--batchnorm is {batchnorm!r}; it must be train or eval")
    if wise_ft is not None and not (math.isfinite(wise_ft) and 0 <= wise_ft <= 1):
        raise RunError(f"--wise-ft is {wise_ft}; it must be from 0 (where training began) to 1 (where it ended)")
    given = {
        "--init-head": init_head is not None,
        "--reuse-until": reuse_until is not None,
        "--unfreeze": stages > 0,
        "--layer-decay": layer_decay != 1,
        "--batchnorm": batchnorm is not None,
        "--wise-ft": wise_ft is not None,
    }
    asked = [option for option, there in given.items() if there]
    if mode == "head":
        _refuse(asked, {"--init-head"}, "--train head keeps the whole network frozen and as it was")
    if weights == "none":
        scratch = "--init scratch has random weights, of which nothing is worth keeping"
        _refuse(asked, {"--batchnorm"} if batchnorm == "train" else set(), scratch)
    if init_head is not None and reuse_until is not None:
        raise RunError(
            "--init-head was fitted on the features of the whole pretrained network, of which --reuse-until keeps a "
            "part: drop one of the two"
        )
    if wise_ft is not None and init_head is None:
        raise RunError(
            "--wise-ft averages with what training began with, which without --init-head has a random head: give "
            "--init-head, too"
        )
    return FineTuneStrategy(
        init_head, reuse_until, stages, float(layer_decay), batchnorm or ("eval" if init_head else "train"), wise_ft
    )


def _refuse(asked: list[str], fine: set[str], why: str) -> None:
    wrong = [option for option in asked if option not in fine]
    if wrong:
        raise RunError(f"{why}: drop {wrong[0]}, or that")
