"""`FineTuneStrategy`: the initial weights, which of them are trained, and which are saved."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, TypedDict, get_args

from featcache.core.options import Option
from featcache.errors import RunError

Mode = Literal["all", "head"]
BatchNorm = Literal["train", "eval"]
Unfreeze = int | Literal["all", "last-stage"]

LP_FT_DEFAULTS: dict[str, Any] = {"optimizer": "adamw", "lr": 1e-4, "schedule": "cosine"}
"""Fields of `TrainConfig` for a network with a fitted head. Large steps would destroy pretrained features (LP-FT, Kumar
et al. 2022, "Fine-tuning can distort pretrained features and underperform out-of-distribution", arXiv 2202.10054). On
the digits, two epochs of SGD with the rate 1e-4 lowered the accuracy from 0.94 to 0.82; AdamW raised it to 0.95."""


class StrategyOptions(TypedDict, total=False):
    """Which weights training begins with, which of them it changes, and which are saved."""

    mode: Annotated[
        Mode,
        Option(
            "all",
            "What is trained: all, the whole network; head, a linear layer on the network, which stays frozen in "
            "eval() mode and runs on every sample in every epoch.",
        ),
    ]
    init_head: Annotated[
        str | os.PathLike[str] | None,
        Option(
            None,
            "Begin with a fitted head, and a low learning rate (LP-FT, Kumar et al. 2022, arXiv 2202.10054): a folder "
            "of fit_head on a cache of the same network, preprocessing and split; or imagenet:ant,bee, the rows of the "
            "pretrained classifier.",
            none="a random head",
        ),
    ]
    reuse_until: Annotated[
        str | None,
        Option(
            None,
            "Keep the pretrained weights up to the stage of this name (layer2, blocks.4), inclusive. Later stages get "
            "random weights.",
            none="all stages keep them",
        ),
    ]
    unfreeze: Annotated[
        Unfreeze,
        Option(
            "all",
            "Which stages below the head are trained: all, last-stage, or the number of last stages. The others are "
            "frozen in eval() mode.",
        ),
    ]
    layer_decay: Annotated[
        float,
        Option(
            1.0, "Learning rate of a stage, relative to that of the next stage, or of the head for the last; at most 1."
        ),
    ]
    batchnorm: Annotated[
        BatchNorm | None,
        Option(
            None,
            "How BatchNorm normalises: eval, with its running statistics, which do not change; train, with those of "
            "the batch, as stages after reuse_until always do.",
            none="eval with init_head, which was fitted on such features, else train",
        ),
    ]
    wise_ft: Annotated[
        float | None,
        Option(
            None,
            "Save the average of this fraction of the best epoch's weights and the rest of the initial weights, 0 to 1 "
            "(WiSE-FT, Wortsman et al. 2021, arXiv 2109.01903), running statistics of BatchNorm included. It needs "
            "init_head.",
            none="the best epoch's weights",
        ),
    ]


@dataclass(frozen=True)
class FineTuneStrategy:
    """How to fine-tune, see `finetune`. The defaults train all pretrained weights below a new head.

    Attributes
    ----------
    init_head : str, optional
        A folder of `fit_head`, or "imagenet:...".
    reuse_until : str, optional
        The name of a stage.
    unfreeze : int
        How many of the last stages are trained; 0 means all.
    layer_decay : float
        1 means none.
    batchnorm : {"train", "eval"}
    wise_ft : float, optional
        The fraction of the fine-tuned weights.
    """

    init_head: str | None = None
    reuse_until: str | None = None
    unfreeze: int = 0
    layer_decay: float = 1.0
    batchnorm: BatchNorm = "train"
    wise_ft: float | None = None

    @property
    def needs_stages(self) -> str | None:
        """The first option that refers to stages, if one is used."""
        options = {
            "--unfreeze": self.unfreeze,
            "--reuse-until": self.reuse_until,
            "--layer-decay": self.layer_decay != 1,
        }
        return next((option for option, value in options.items() if value), None)

    def config(self) -> dict[str, Any]:
        """What a resumed run must have in common, JSON values. The head is compared by its content, not its path."""
        return {**asdict(self), "init_head": None, "unfreeze": self.unfreeze or "all"}


def make_strategy(
    mode: Mode,
    weights: str,
    *,
    init_head: str | None,
    reuse_until: str | None,
    unfreeze: Unfreeze,
    layer_decay: float,
    batchnorm: BatchNorm | None,
    wise_ft: float | None,
) -> FineTuneStrategy:
    """Check the arguments of `finetune`. Raises RunError if one is out of range, or if two contradict each other."""
    stages = {"all": 0, "last-stage": 1}.get(str(unfreeze), unfreeze)
    if not isinstance(stages, int) or isinstance(unfreeze, bool) or stages < (unfreeze != "all"):
        raise RunError(
            f"--unfreeze is {unfreeze}; it must be all, last-stage, or the number of last stages to train, 1 or more. "
            "For a head on the frozen network: --train head."
        )
    if not 0 < layer_decay <= 1:
        raise RunError(f"--layer-decay is {layer_decay}; it must be greater than 0, and 1 (none) or less")
    if batchnorm not in (None, *get_args(BatchNorm)):
        raise RunError(f"--batchnorm is {batchnorm!r}; it must be train or eval")
    if wise_ft is not None and not (math.isfinite(wise_ft) and 0 <= wise_ft <= 1):
        raise RunError(f"--wise-ft is {wise_ft}; it must be from 0 (initial weights) to 1 (trained weights)")
    is_set = {
        "--init-head": init_head is not None,
        "--reuse-until": reuse_until is not None,
        "--unfreeze": stages > 0,
        "--layer-decay": layer_decay != 1,
        "--batchnorm": batchnorm is not None,
        "--wise-ft": wise_ft is not None,
    }
    used = [option for option, value in is_set.items() if value]
    if mode == "head":
        _refuse(used, {"--init-head"}, "--train head does not change the network")
    if weights == "none":
        reason = "--init scratch has no pretrained weights"
        _refuse(used, {"--batchnorm"} if batchnorm == "train" else set(), reason)
    if init_head is not None and reuse_until is not None:
        raise RunError(
            "--init-head was fitted on features of the whole pretrained network, and --reuse-until keeps a part of it: "
            "drop one of the two"
        )
    if wise_ft is not None and init_head is None:
        raise RunError(
            "--wise-ft averages with the initial weights, whose head is random without --init-head: add --init-head"
        )
    return FineTuneStrategy(
        init_head, reuse_until, stages, float(layer_decay), batchnorm or ("eval" if init_head else "train"), wise_ft
    )


def _refuse(used: list[str], allowed: set[str], reason: str) -> None:
    excluded = [option for option in used if option not in allowed]
    if excluded:
        raise RunError(f"{reason}, so {excluded[0]} has no effect: drop one of the two")
