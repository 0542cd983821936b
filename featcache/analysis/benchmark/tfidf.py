"""`fit_tfidf`: TF-IDF with logistic regression, which texts are classified with if there is no encoder."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from featcache._utils.files import write_file
from featcache._utils.progress_bar import ProgressOption, as_callback
from featcache._utils.results import Result, as_records
from featcache._utils.threads import blas_threads
from featcache._utils.timing import PhaseTimer
from featcache.core.options import SplitOptions, manifest_keywords, takes_options
from featcache.core.progress import StepProgress
from featcache.core.samples import Samples
from featcache.core.splitting import assign_folds
from featcache.data.manifest import Manifest, read_manifest
from featcache.errors import RunError
from featcache.metrics.classification import Accuracy, evaluate
from featcache.metrics.predictions import FILE, TEST, predictions_csv
from featcache.metrics.run_report import Report
from featcache.text.read import read_text

STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)
"""Values of C, the inverse strength of the regularization, that cross-validation chooses from."""

_FOLDS = 5


@dataclass(frozen=True)
class TfidfFit(Result):
    """What `fit_tfidf` returns.

    Attributes
    ----------
    report : Report
    C : float
        The inverse strength that was chosen.
    features : int
        Number of n-grams.
    skipped : list of (str, str)
        Unreadable texts and the reason of each.
    """

    report: Report
    C: float
    features: int
    skipped: list[tuple[str, str]]

    def _json_fields(self) -> dict[str, Any]:
        return {
            **self.report.to_dict(),
            "C": self.C,
            "features": self.features,
            "skipped": as_records(self.skipped, "path", "reason"),
        }


@takes_options(SplitOptions)
def fit_tfidf(
    data: str | os.PathLike[str] | Manifest,
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    progress: ProgressOption = None,
    **options: Unpack[SplitOptions],
) -> TfidfFit:
    """Fit logistic regression to TF-IDF of words and characters, and evaluate it on val and test.

    The features are those of words and pairs of words, and of 2 to 5 characters within words, with 1 + ln(count) as the
    count. The strength of the regularization has the lowest log-loss in cross-validation within train, in which copies
    and groups of texts are held out together.

    Parameters
    ----------
    data : path or Manifest
        Labelled texts, see `read_manifest`.
    out : path
        Folder for the predictions of val and test. The classifier is not saved.
    seed : int
        Of the folds. Default: 0.
    progress : bool or callable, optional
        True draws a bar; a callable is called as progress(what, done, total).
    {options}

    Raises
    ------
    RunError
        Train or val has no readable text, or no text has a word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    timer = PhaseTimer()
    with timer.phase("hash"):
        manifest = read_manifest(data, **manifest_keywords(options)).labeled("benchmark")
    skipped: dict[int, str] = {}
    with timer.phase("read"):
        texts = {split: _read(manifest, split, skipped) for split in ("train", "val", "test")}
    for split in ("train", "val"):
        if not texts[split]:
            raise RunError(f"{manifest.source.name} has no readable {split} texts")
    rows = {split: np.array([*of_split], np.int64) for split, of_split in texts.items()}
    train = manifest.samples.take(rows["train"])
    vectorizer = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
    )
    with blas_threads(1):
        with timer.phase("vectorize"):
            try:
                x = vectorizer.fit_transform(texts["train"].values())
            except ValueError as error:  # "empty vocabulary"
                raise RunError(
                    f"{manifest.source.name} has no texts with words, which TF-IDF needs: {error}"
                ) from error
        with timer.phase("fit"):
            strength = _choose_strength(x, train, seed, as_callback(progress))
            classifier = _logistic_regression(strength).fit(x, train.labels)
        with timer.phase("evaluate"):
            accuracies = {}
            for split, file in (("val", FILE), ("test", TEST)):
                if texts[split]:
                    samples = manifest.samples.take(rows[split])
                    probabilities = _probabilities(classifier, vectorizer.transform(texts[split].values()), samples)
                    accuracies[split] = _save(Path(out) / file, samples, probabilities)
    report = Report(
        method="TF-IDF",
        seconds=timer.seconds(),
        images=len(train),
        accuracy=accuracies["val"],
        test=accuracies.get("test"),
        size_bytes=classifier.coef_.nbytes + sum(map(len, vectorizer.get_feature_names_out())),
        seed=seed,
    )
    ids = manifest.samples.ids
    return TfidfFit(report, strength, x.shape[1], [(ids[row], reason) for row, reason in sorted(skipped.items())])


def _read(manifest: Manifest, split: str, skipped: dict[int, str]) -> dict[int, str]:
    """The readable texts of a split by row."""
    texts = {int(row): read_text(manifest, int(row), skipped) for row in manifest.samples.rows(split)}
    return {row: text for row, text in texts.items() if text is not None}


def _logistic_regression(strength: float, **options: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=1000, **options)


def _choose_strength(x: Any, train: Samples, seed: int, progress: Any) -> float:
    """The value of C with the lowest log-loss on held-out texts, the smallest of equals."""
    folds = assign_folds(train.labels, train.split_keys, _FOLDS, seed)
    numbers = np.unique(folds[folds >= 0])
    losses = np.zeros(len(STRENGTHS))
    with StepProgress(progress, "fit strengths", len(numbers) * len(STRENGTHS)) as steps, warnings.catch_warnings():
        warnings.simplefilter("ignore", _convergence_warning())  # held-out texts judge what was reached
        for fold in numbers:
            fitted, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            classifier = _logistic_regression(1.0, tol=1e-3, warm_start=True)
            for index, strength in enumerate(STRENGTHS):
                classifier.set_params(C=strength).fit(x[fitted], train.labels[fitted])
                probabilities = _probabilities(classifier, x[held_out], train)
                right = probabilities[np.arange(len(held_out)), train.labels[held_out]]
                losses[index] -= np.log(np.maximum(right, 1e-15)).sum()
                steps.advance()
    return STRENGTHS[int(losses.argmin())]


def _convergence_warning() -> type[Warning]:
    from sklearn.exceptions import ConvergenceWarning

    return ConvergenceWarning


def _probabilities(classifier: Any, x: Any, samples: Samples) -> NDArray[np.float64]:
    """Shape (n, c); 0 for classes that the classifier has not seen."""
    probabilities = np.zeros((x.shape[0], len(samples.classes)))
    probabilities[:, classifier.classes_] = classifier.predict_proba(x)
    return probabilities


def _save(path: Path, samples: Samples, probabilities: NDArray[np.float64]) -> Accuracy:
    """Write the predictions of a split, and judge them."""
    predicted = probabilities.argmax(axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, predictions_csv(samples, predicted, probabilities, "text"))
    return evaluate(samples.labels, predicted, samples.classes, probabilities)
