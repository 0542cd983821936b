"""`RunFolder`: the files of a fine-tuning run. The main process writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from featcache._utils.files import write_file
from featcache._utils.formatting import json_safe
from featcache.core.model_card import CHECKPOINT, REPORT, ModelCard, as_json
from featcache.core.model_folder import README, attach
from featcache.core.model_readme import model_readme
from featcache.core.samples import Samples
from featcache.core.specs import PENULTIMATE, ExtractSpec
from featcache.core.training_samples import FILE as TRAINING_SAMPLES
from featcache.core.training_samples import training_samples
from featcache.errors import OutputError
from featcache.heads.io import save_head
from featcache.heads.linear import LinearHead
from featcache.heads.one_vs_rest import OneVsRestHead
from featcache.metrics.multilabel import judge
from featcache.metrics.predictions import FILE, LAST, TEST, split_predictions_csv
from featcache.training.checkpoint import save_checkpoint
from featcache.training.evaluation import EvalResult
from featcache.training.network import BackboneWithHead

NETWORK = "network.safetensors"
BEST = "network.tuned.safetensors"  # of the best epoch, if its average with the initial weights is saved


class RunFolder:
    """The files of a fine-tuning run: model, predictions and checkpoint.

    Parameters
    ----------
    path : Path
    spec : ExtractSpec
        Of the views.
    weights : str
        Where the backbone's weights come from.
    samples : Samples
    skipped : dict of int to str
        Rows that cannot be read, with the reason. The loader adds to it.
    """

    def __init__(
        self, path: Path, spec: ExtractSpec, weights: str, samples: Samples, skipped: Mapping[int, str]
    ) -> None:
        self.path, self.spec, self.weights = path, spec, weights
        self.samples, self.skipped = samples, skipped

    def save_model(self, module: nn.Module, val: EvalResult) -> None:
        """Save the weights of a module, a network or a head, with its predictions of val."""
        classes, multilabel = self.samples.classes, self.samples.multilabel
        if isinstance(module, BackboneWithHead):
            file, content = NETWORK, module.to_bytes(self.spec.digest())
        else:
            arrays = {name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}
            coef, intercept = arrays["weight"], arrays["bias"]
            head: LinearHead | OneVsRestHead
            if multilabel:
                head = OneVsRestHead.from_weights(coef, intercept)
            else:
                head = LinearHead.from_weights(coef, intercept, np.arange(len(classes)))
            file, content = save_head(head, self.spec.digest())
        card = ModelCard(
            kind="network" if isinstance(module, BackboneWithHead) else "head",
            file=file,
            head="sgd",
            classes=classes,
            spec=self.spec,
            weights=self.weights,
            layer=PENULTIMATE,
            metrics=judge(val.labels.numpy(), val.predicted.numpy(), val.probabilities, classes).to_dict(),
            multilabel=multilabel,
        )
        with self._explain_errors():
            trained = training_samples(self.samples.sha256[self.samples.rows("train")])
            others = {TRAINING_SAMPLES: trained, FILE: self._predictions("val", val), TEST: None}
            card.write(self.path, content, {**others, README: model_readme(card)})

    def save_best_weights(self, network: BackboneWithHead) -> None:
        """Save the weights of the best epoch, which will be averaged with the initial ones."""
        with self._explain_errors():
            network.save(self.path / BEST)

    def save_last_predictions(self, val: EvalResult) -> None:
        """Save the predictions of val after the last epoch."""
        content = self._predictions("val", val)
        with self._explain_errors():
            if content is None:
                (self.path / LAST).unlink(missing_ok=True)
            else:
                write_file(self.path / LAST, content)

    def save_test_predictions(self, labels: Any, predicted: Any, probabilities: Any) -> None:
        """Add the predictions of test to the saved model."""
        arrays, modality = (labels, predicted, probabilities), self.spec.modality
        content = split_predictions_csv(self.samples, "test", self.skipped, *arrays, modality)
        attach(self.path, {TEST: content})

    def save_checkpoint(self, state: dict[str, Any], config: dict[str, Any]) -> None:
        """Replace the checkpoint."""
        with self._explain_errors():
            save_checkpoint(self.path / CHECKPOINT, state, config)

    def save_report(self, report: dict[str, Any], **about: Any) -> None:
        """Add the report and the model card to the saved model. about : see `model_readme`."""
        report = json_safe(report)
        readme = model_readme(ModelCard.read(self.path), report, **about)
        attach(self.path, {REPORT: as_json(report), README: readme})

    def _predictions(self, split: str, result: EvalResult) -> bytes | None:
        """The predictions of a split, as CSV."""
        arrays = result.labels.numpy(), result.predicted.numpy(), result.probabilities
        return split_predictions_csv(self.samples, split, self.skipped, *arrays, self.spec.modality)

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        """Add to errors of the disk what to do."""
        try:
            yield
        except OutputError as error:
            resumes = ". It resumes from the last saved state" if (self.path / CHECKPOINT).exists() else ""
            raise OutputError(error.errno, f"{error} Then run the same command again{resumes}.") from error
