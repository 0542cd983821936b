"""`fit_head`: from cached features to an evaluated, saved head."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from sklearn.base import BaseEstimator

from featcache._utils.notebook_html import folded, paragraph, table, text_block
from featcache._utils.progress_bar import ProgressOption, as_callback
from featcache._utils.results import NotebookResult, Result
from featcache._utils.timing import PhaseTimer
from featcache.cache.joined_cache import Caches, JoinedCache, name_caches, open_caches
from featcache.core.data_summary import DataSummary
from featcache.core.head_options import HeadFitOptions, HeadOptions
from featcache.core.layer_names import ALL, split_layer
from featcache.core.model_card import kept_readme, prepare_folder
from featcache.core.options import select, takes_options
from featcache.core.ray_cluster import Cluster
from featcache.core.specs import PENULTIMATE
from featcache.errors import HeadError
from featcache.heads.cache_comparison import CacheComparison
from featcache.heads.fit import default_layer, fit
from featcache.heads.fit_caches import fit_caches
from featcache.heads.novelty import NoveltyFigures
from featcache.heads.predict import evaluate
from featcache.heads.ray.coordinator import TrainingCluster
from featcache.heads.registry import find_head
from featcache.heads.saving import save_fit
from featcache.heads.self_training import SelfTraining
from featcache.heads.training_data import FitOptions, TrainingData
from featcache.heads.tuning.layer_selection import LayerSelection
from featcache.heads.tuning.selection import CANDIDATE_COLUMNS, Selection
from featcache.metrics.classification import Accuracy
from featcache.metrics.conformal import SetFigures
from featcache.metrics.multilabel import LabelAccuracy
from featcache.metrics.run_report import Report

_SHOWN_COVERAGE = 0.95  # of the sets of labels that the text names


@dataclass(frozen=True, repr=False)
class HeadFit(Result, NotebookResult):
    """What `fit_head` returns.

    Attributes
    ----------
    estimator : estimator
        The fitted classifier.
    name : str
        Name of the head; with "auto" that of the best one.
    report : Report
        Seconds of each phase, and figures of val and test.
    history : list
        Metrics of the epochs of "sgd"; empty for other heads.
    path : Path, optional
        The folder that it was saved in.
    selection : Selection, optional
        The result of cross-validation.
    before : Accuracy or LabelAccuracy, optional
        Figures of val without the temperature, if the head has one.
    notes : tuple of str
        What the user should know, a line each.
    data : DataSummary, optional
        The data that it was fitted to.
    thresholds : tuple of float, optional
        Probabilities above which the estimator and the saved head predict labels; None: 0.5 for each.
    at_half : LabelAccuracy, optional
        Figures of val at thresholds of 0.5, if there are other thresholds.
    layers : tuple of str
        The layers that it was fitted to.
    layer_selection : LayerSelection, optional
        How they were chosen.
    cache_comparison : CacheComparison, optional
        Of several caches: how those were chosen that it uses.
    sets : tuple of SetFigures
        How often sets of labels with a requested coverage hold the true label of val, and how large they are; see
        `featcache.metrics.conformal`. Empty for heads without scores of held-out samples.
    self_training : SelfTraining, optional
        What became of samples without a label, with ``unlabeled=True``.
    novelty : NoveltyFigures, optional
        How well samples of unknown classes are told from others; None for fewer than three classes.
    """

    estimator: BaseEstimator
    name: str
    report: Report
    history: list[Any]
    path: Path | None
    selection: Selection | None = None
    before: Accuracy | LabelAccuracy | None = None
    notes: tuple[str, ...] = ()
    data: DataSummary | None = None
    thresholds: tuple[float, ...] | None = None
    at_half: LabelAccuracy | None = None
    layers: tuple[str, ...] = (PENULTIMATE,)
    layer_selection: LayerSelection | None = None
    sets: tuple[SetFigures, ...] = ()
    self_training: SelfTraining | None = None
    novelty: NoveltyFigures | None = None
    cache_comparison: CacheComparison | None = None

    @property
    def accuracy(self) -> Accuracy | LabelAccuracy:
        """On val."""
        if self.report.accuracy is None:
            raise AssertionError("fit_head always evaluates")
        return self.report.accuracy

    def __str__(self) -> str:
        """Several lines for people."""
        seconds = ", ".join(f"{phase} {value:.2f} s" for phase, value in self.report.seconds.items())
        parts = (self.cache_comparison, self.layer_selection, self.selection, self.self_training)
        lines = [str(part) for part in parts if part]
        lines += [*self.notes, f"head {self.name}, val:", self.accuracy.describe()]
        if self.at_half:
            half = self.at_half
            lines.append(
                f"at thresholds of 0.5: macro F1 {half.macro_f1:.4f}, micro F1 {half.micro_f1:.4f}, all labels right "
                f"{half.accuracy:.4f}"
            )
        if self.before and self.selection:
            lines.append(
                f"before {_temperature(self.selection.temperature)}: log-loss "
                f"{self.before.log_loss:.4f}, calibration error {self.before.calibration_error:.4f}{self._made_worse()}"
            )
        lines += [str(figures) for figures in self.sets if figures.requested == _SHOWN_COVERAGE]
        if self.novelty:
            lines.append(str(self.novelty))
        if self.report.test:
            lines += ["test:", self.report.test.describe()]
        return "\n".join([*lines, seconds, *([f"saved in {self.path}"] if self.path else [])])

    def _repr_html_(self) -> str:
        """The figures of val, the heads that were compared, and all of the text."""
        parts = [paragraph(f"head {self.name}, val: accuracy {self.accuracy}")]
        if self.selection:
            parts.append(table(CANDIDATE_COLUMNS, self.selection.rows))
        parts += [paragraph(note) for note in self.notes]
        return "".join([*parts, folded("all figures", text_block(str(self)))])

    def _made_worse(self) -> str:
        """A clause with the figures of val that the temperature made worse; "" if there are none."""
        names = {"log_loss": "log-loss", "calibration_error": "calibration error"}
        worse = [
            name
            for field, name in names.items()
            if (getattr(self.accuracy, field) or 0.0) > (getattr(self.before, field) or 0.0)
        ]
        return f"; the temperature, chosen on train, made {' and '.join(worse)} worse on val" if worse else ""

    def _json_fields(self) -> dict[str, Any]:
        before = self.before and {
            "log_loss": self.before.log_loss,
            "calibration_error": self.before.calibration_error,
        }
        return {
            **self.report.to_dict(),
            "head": self.name,
            "path": self.path,
            "history": self.history,
            "selection": self.selection,
            "before_temperature": before,
            "notes": self.notes,
            "data": self.data,
            "thresholds": self.thresholds,
            "at_half": self.at_half,
            "layers": self.layers,
            "layer_selection": self.layer_selection,
            "sets": self.sets,
            "self_training": self.self_training,
            "novelty": self.novelty,
            **({"cache_comparison": self.cache_comparison} if self.cache_comparison else {}),
        }


@takes_options(HeadOptions)
def fit_head(
    cache: Caches,
    out: str | os.PathLike[str] | None = None,
    *,
    head: str | BaseEstimator = "auto",
    parameters: Mapping[str, Any] | None = None,
    cluster: Cluster | None = None,
    progress: ProgressOption = None,
    on_epoch: Callable[[Any], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    **options: Unpack[HeadOptions],
) -> HeadFit:
    """Train a head on the cached training views and evaluate it on val.

    Parameters
    ----------
    cache : path or FeatureCache, or several
        A cache that `extract` or `FeatureCache.from_arrays` made. Or several of the same samples, from two networks or
        at two resolutions: cross-validation chooses which of them the head uses, see `fit_caches`.
    out : path, optional
        Folder to save the head in. None: it is not saved.
    head : str or estimator, default "auto"
        "linear", "ridge", "lda", "centroid", "knn" and "head2toe" choose their settings by cross-validation within
        train; all views of an image, and its copies, are held out together. "auto" keeps the best of the first four;
        with several labels it is "linear". "sgd" trains as the tutorials of PyTorch do. "attention" weights the
        positions of a grid layer, see `featcache.heads.attention`, "layer-attention" layers, see
        `featcache.heads.layer_attention`. "imagenet:ant,bee" does not train: it takes the rows of the network's own
        classifier, see `featcache.heads.imagenet.choose_classes`. "logreg", "svm" and "forest" are
        classifiers of scikit-learn. Other installed packages can add names, see `featcache.heads.registry.HeadSpec`.
        Instead of a name, the dotted path of a scikit-learn classifier, or an unfitted classifier. One that
        cross-validates itself (GridSearchCV) does not know which rows are views of one image: use
        ``use_views="mean"`` or ``"clean"`` with it.
    parameters : mapping, optional
        Parameters of the constructor of the head; of `TrainConfig` for "sgd", of `AttentionConfig` for "attention".
        With any but "class_weight", a head does not choose its settings itself.
    cluster : Cluster, optional
        Machines that share the training rows of a head that chooses its settings ("knn" excepted). All must see the
        cache, see `featcache.heads.ray.coordinator`. Held-out images, val and test are evaluated on this machine.
    progress : bool or callable, optional
        True draws a bar. A callable is called as progress(what, done, total); what is "fit heads" with "auto", "fit
        strengths" with heads that choose theirs, "fit folds" with cross-validation, "fit epochs" with "sgd" and
        "attention". Other heads are fitted in one step.
    on_epoch : callable, optional
        Called with the metrics of each epoch of "sgd".
    on_note : callable, optional
        Called with a line about the data of the cache, and if the workers of a cluster are waited for.
    {options}

    Returns
    -------
    HeadFit
        The fitted estimator, its figures on val and test, and how its settings were chosen.

    Raises
    ------
    HeadError
        The head does not exist, an option has no effect on it, or it cannot be fitted or saved.
    CacheError
        The cache is damaged, or has no such layer or views.
    BackboneError
        The device does not exist, or weights of "imagenet:..." cannot be loaded.
    ClusterError, MissingExtraError
        The cluster fails, or Ray is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from featcache import FeatureCache, fit_head
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat(["ant", "bee"], 20)
    >>> features = rng.normal(size=(40, 8)) + 3 * (labels == "bee")[:, None]
    >>> cache = FeatureCache.from_arrays(features, labels)
    >>> fit = fit_head(cache, head="ridge")
    >>> fit.accuracy.accuracy
    1.0
    """
    timer = PhaseTimer()
    tta = options["tta"]
    folder = Path(out) if out is not None else None
    if folder is not None:
        prepare_folder(folder, "head")
    name = name_caches(cache)
    opened = open_caches(cache)
    joined = opened if isinstance(opened, JoinedCache) else None
    if joined and (cluster or options["unlabeled"]):
        what = "a cluster" if cluster else "unlabeled"
        raise HeadError(f"{what} is for a head on one cache: leave it out, or give one cache")
    summary = replace(opened.summary(), name=name, skipped=len(opened.skipped), digest=opened.samples.digest())
    if on_note and not summary.too_few_labels:  # which the error says
        for note in (str(summary), *(joined.notes if joined else ())):
            on_note(note)
    layer = options["layer"] or default_layer(head, parameters, [split_layer(name)[1] for name in opened.dims], cluster)
    with timer.phase("read"):  # machines of a cluster check their rows of train themselves
        data = TrainingData.read(
            opened, layer, tta=tta, with_test=True, with_unlabeled=options["unlabeled"], check_train=cluster is None
        )
        data = replace(data, keep_layers=options["layer"] is not None or find_head(head).layer == ALL)
    training_cluster = TrainingCluster(cluster, name, layer, on_note) if cluster else None
    fit_options = FitOptions(
        dict(parameters or {}),
        cluster=training_cluster,
        will_be_saved=folder is not None,
        progress=as_callback(progress),
        on_epoch=on_epoch,
        **select(HeadFitOptions, options),
    )
    with timer.phase("fit"), closing(training_cluster) if training_cluster else nullcontext():
        if joined:
            is_given = options["layer"] is not None
            fitted, opened, data = fit_caches(head, joined, data, fit_options, use_all=is_given, tta=tta)
        else:
            fitted = fit(head, data, fit_options)
        data = data.take_layers([data.layers.index(name) for name in fitted.layers])
    with timer.phase("evaluate"):
        evaluation = evaluate(fitted, data, tta)
    report = Report(
        method=f"head {fitted.name}",
        seconds=timer.seconds(),
        images=len(data.train.samples),
        accuracy=evaluation.accuracy,
        test=evaluation.test_accuracy,
        spec_digest=opened.digest if isinstance(opened, JoinedCache) else opened.spec.digest(),
        seed=options["seed"],
    )
    result = HeadFit(
        fitted.estimator,
        fitted.name,
        report,
        fitted.history,
        folder,
        fitted.selection,
        evaluation.before,
        (*fitted.notes, *(kept_readme(folder) if folder else [])),
        summary,
        None if fitted.thresholds is None else tuple(fitted.thresholds.tolist()),
        evaluation.at_half,
        fitted.layers,
        fitted.layer_selection,
        evaluation.sets,
        fitted.self_training,
        fitted.held_out.novelty.figures if fitted.held_out and fitted.held_out.novelty else None,
        fitted.cache_comparison,
    )
    if folder is not None:
        save_fit(result, fitted.held_out, evaluation, data, opened, folder, tta)
    return result


def _temperature(temperature: float | tuple[float, ...] | None) -> str:
    if isinstance(temperature, tuple):
        return f"its temperatures of {min(temperature):.3g} to {max(temperature):.3g} by label"
    return f"its temperature of {temperature:.3g}"
