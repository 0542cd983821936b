"""`model_readme`: the README.md of a saved model, a model card as the Hugging Face Hub reads it.

Every word of it comes from model.json, run.json and the record of the cache. It names no folder of this machine: of
paths, only the last part. It names no time and no place of the model either, so that equal models have equal files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from featcache._utils.formatting import indefinite, join_words, plural, printable
from featcache.core.markdown import bullets, escape, table
from featcache.core.model_card import ModelCard, NetworkCard
from featcache.core.model_metadata import last_part, metadata_head, public_name
from featcache.core.specs import is_arrays
from featcache.core.thresholds import format_thresholds

_MOST_CLASSES = 50  # with a line each
_FILES = {"image": "photo.jpg", "text": "reviews.csv"}  # of the examples
_RECIPE = ("train", "epochs", "batch_size", "optimizer", "lr", "head_lr", "momentum", "weight_decay", "schedule",
           "step_size", "gamma", "patience", "class_weight", "label_smoothing", "unfreeze", "layer_decay", "batchnorm",
           "wise_ft", "reuse_until", "augment", "seed")  # fmt: skip
_FIGURES = {
    "mean_average_precision": "mean average precision",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "top5": "top-5 accuracy",
    "log_loss": "log-loss",
    "calibration_error": "calibration error",
}


def model_readme(
    card: ModelCard,
    report: Mapping[str, Any] | None = None,
    *,
    base_model: str = "",
    dataset: str = "",
    is_named: bool = True,
) -> bytes:
    """The content of README.md.

    Parameters
    ----------
    card : ModelCard
        The content of model.json.
    report : mapping, optional
        The content of run.json. None while the training goes on.
    base_model : str
        The repository of the backbone's weights on the Hugging Face Hub; "" if it is not known. Default: "".
    dataset : str
        The repository of the data there; "" if it is not known. Default: "".
    is_named : bool
        Whether featcache builds the backbone by its name; else it is the author's own. Default: True.

    Returns
    -------
    bytes
        UTF-8.
    """
    report = report or {}
    parts = [
        metadata_head(card, report, base_model, dataset),
        f"# {_title(card)}",
        _summary(card),
        "## Use",
        _use(card, is_named),
        "## Results",
        *_results(card, report),
        *_section("Data", _data(card, report, dataset)),
        *_section("How it was chosen", _choice(card, report)),
        "## Limits",
        bullets(_limits(card, report)),
        *_section("Versions", _versions(card, report)),
    ]
    return ("\n\n".join(parts) + "\n").encode()


def _section(title: str, parts: Iterator[str]) -> list[str]:
    texts = list(parts)
    return [f"## {title}", *texts] if texts else []


def _title(card: ModelCard) -> str:
    kind = f"Head {card.head} on" if card.kind == "head" else "Fine-tuned"
    return escape(f"{kind} {_backbones(card)}")


def _backbones(card: ModelCard) -> str:
    """The public names of all networks."""
    return join_words([public_name(network.spec.backbone) for network in card.networks or (card,)])


def _summary(card: ModelCard) -> str:
    noun, backbone = card.spec.modality, escape(_backbones(card))
    what = f"one of {len(card.classes)} classes" if not card.multilabel else f"any of {len(card.classes)} labels"
    gives = f"It gives {indefinite(noun)} {what}."
    if is_arrays(card.spec.backbone):
        return f"A classifier (`{card.head}`) on features that were given as arrays. It gives a row {what}."
    if card.kind == "network":
        return f"{backbone}, fine-tuned with featcache. {gives}"
    layers = len(card.layer.split(","))
    networks = "networks" if card.networks else "network"
    layer = escape(card.layer) if layers == 1 else f"{layers} layers"
    return f"A classifier (`{card.head}`) on the features ({layer}) of the frozen {networks} {backbone}. {gives}"


def _use(card: ModelCard, is_named: bool) -> str:
    """A command and some lines of Python, in which MODEL is the folder."""
    if is_arrays(card.spec.backbone):
        command, python = "features.h5", 'FeatureClassifier.load("MODEL").predict("features.h5")'
        loader = "FeatureClassifier"
    else:
        command = _FILES.get(card.spec.modality, "SAMPLE")
        python, loader = f'Classifier.load("MODEL").predict(["{command}"])', "Classifier"
    lines = ["MODEL is the folder of this file.", f"```sh\nfeatcache predict MODEL {command}\n```"]
    code = (
        f"from featcache import {loader}\n\nfor prediction in {python}:\n    print(prediction.path, prediction.label)"
    )
    lines.append(f"```python\n{code}\n```")
    if not is_named and not is_arrays(card.spec.backbone):
        lines.append(
            "The network is the author's own. Add `--backbone MODULE:FACTORY`, a function that returns it "
            '(`Classifier.load("MODEL", backbone=network)`).'
        )
    elif card.kind == "head":
        for network in card.networks or (card,):
            if network.weights not in ("pretrained", "none"):
                option = f"{network.name}=FILE" if isinstance(network, NetworkCard) else "FILE"
                lines.append(
                    "The head needs the weights of the network that it was fitted on, which are not in this folder: a "
                    f"file whose SHA-256 begins with `{network.spec.weights_sha256[:12]}`. If it was moved, add "
                    f'`--weights {option}` (`Classifier.load("MODEL", weights="{option}")`).'
                )
    return "\n\n".join(lines)


def _results(card: ModelCard, report: Mapping[str, Any]) -> Iterator[str]:
    """The figures of val, and of test if there is one; then those of each class."""
    results = {"val": card.metrics, "test": report.get("test")}
    rows = [row for split, metrics in results.items() if metrics for row in _figures(split, metrics)]
    yield table(["split", "figure", "value", "95 % interval", "samples"], rows, "<<>>>")
    sets = [
        [f"{figures['requested']:g}", _number(figures["coverage"]), _interval(figures, ""), f"{figures['n']}",
         _number(figures["mean_size"])]
        for figures in report.get("sets") or ()
    ]  # fmt: skip
    if sets:
        yield "How often sets of labels (`predict --coverage`) hold the true label of val:"
        yield table(["requested", "coverage", "95 % interval", "samples", "labels a set"], sets, ">")
    last = "test" if results["test"] else "val"
    yield f"By {'label' if card.multilabel else 'class'}, on {last}:"
    yield _by_class(card.classes, results[last] or {})


def _figures(split: str, metrics: Mapping[str, Any]) -> Iterator[list[str]]:
    name = "all labels right" if "micro_f1" in metrics else "accuracy"
    n = f"{metrics.get('n', '')}"
    yield [split, name, _number(metrics.get("accuracy")), _interval(metrics, "accuracy_"), n]
    for field, text in _FIGURES.items():
        if metrics.get(field) is not None:
            yield [split, text, _number(metrics[field]), "", n]


def _by_class(classes: Sequence[str], metrics: Mapping[str, Any]) -> str:
    """Recall and precision; of many classes those with the lowest recall."""
    recall, precision = metrics.get("recall") or (), metrics.get("class_precision") or ()
    confusion = metrics.get("confusion")
    counts = metrics.get("images") or [sum(row) for row in confusion or ()]
    if not len(recall) == len(precision) == len(counts) == len(classes):
        return "Not recorded."
    order = list(range(len(classes)))
    few = len(order) <= _MOST_CLASSES
    if not few:
        measured = [row for row in order if recall[row] is not None]
        order = sorted(measured, key=lambda row: (recall[row], row))[:_MOST_CLASSES]
    rows = [[escape(classes[row]), _number(recall[row]), _number(precision[row]), f"{counts[row]}"] for row in order]
    text = table(["class", "recall", "precision", "samples"], rows, "<>>>")
    if few:
        return text
    return f"{text}\n\nThese are the {len(rows)} of {len(classes)} with the lowest recall; `model.json` has all."


def _data(card: ModelCard, report: Mapping[str, Any], dataset: str) -> Iterator[str]:
    """Counts by class and split, and how the data were read."""
    data = report.get("data") or {}
    splits = data.get("images") or {}
    if not splits:
        return
    counts = data.get("images_by_class") or {}
    total = [["all", *(f"{splits[split]}" for split in splits)]]
    by_class = [
        [escape(name), *(f"{counts[split].get(name, 0)}" if split in counts else "" for split in splits)]
        for name in card.classes[:_MOST_CLASSES]
    ]
    yield table(["class", *splits], [*by_class, *total], "<>")
    lines = []
    if len(card.classes) > _MOST_CLASSES:
        lines.append(f"{len(card.classes) - _MOST_CLASSES} more classes: see `run.json`.")
    if dataset:
        lines.append(f"Data set: {escape(dataset)} of the Hugging Face Hub.")
    if held_out := data.get("held_out"):
        lines.append(f"There was no val split: {held_out['images']} of {held_out['of']} samples were held out (seed "
                     f"{held_out['seed']}).")  # fmt: skip
    if data.get("groups"):
        lines.append(f"{data['groups']} groups, each kept in one split.")
    if data.get("skipped"):
        lines.append(f"{data['skipped']} more could not be read, and were left out.")
    if data.get("digest"):
        lines.append(f"SHA-256 over names, labels, splits and contents: `{data['digest']}`.")
    if lines:
        yield bullets(lines)


def _choice(card: ModelCard, report: Mapping[str, Any]) -> Iterator[str]:
    """Cross-validation of a head, or the recipe of a fine-tuned model."""
    config, selection = report.get("config"), report.get("selection")
    if config:
        epochs = plural(len(report.get("history") or ()), "epoch")
        yield f"Trained for {epochs}. The weights are those of epoch {report.get('best_epoch')}, the best one on val."
        if report.get("start"):
            yield "The training began with a fitted head."
        if report.get("wise_ft") is not None:
            yield f"They are averaged with the initial weights: {report['wise_ft']:g} of them plus the rest (WiSE-FT)."
        rows = [[name, escape(f"{config[name]}")] for name in _RECIPE if config.get(name) is not None]
        yield table(["setting", "value"], rows)
    elif selection:
        yield f"By {selection['folds']}-fold cross-validation on {selection['images']} training samples, without val."
        rows = [
            [entrant["head"], escape(entrant["setting"]), _number(entrant.get("accuracy")),
             _interval(entrant, "accuracy_"), _number(entrant.get("log_loss"))]
            for entrant in selection["entrants"]
        ]  # fmt: skip
        yield table(["head", "setting", "accuracy", "95 % interval", "log-loss"], rows, "<<>>>")
    if (training := report.get("self_training") or {}).get("used"):
        yield (
            f"Then it learned from {training['samples']:,} samples without a label, too (self-training). On "
            f"{training['held_out']:,} held-out training samples the accuracy is {training['self_trained']:.4f}, and "
            f"{training['plain']:.4f} without them. The saved head is `{card.head}`."
        )
    if caches := report.get("cache_comparison"):
        names = join_words([escape(name) for name in caches["chosen"]])
        yield f"Of the features of several networks, cross-validation chose {names}."
    layers = report.get("layer_selection")
    if layers:
        yield (
            f"The layers were chosen out of {len(layers['candidates'])} sets, by cross-validation on "
            f"{layers['images']} training samples."
        )
    if card.thresholds:
        yield f"A label is predicted above its threshold: {escape(format_thresholds(card.thresholds))}."
    if card.tta:
        yield f"Predictions average the clean view and {card.tta} augmented ones."


def _limits(card: ModelCard, report: Mapping[str, Any]) -> Iterator[str]:
    """What is known to be uncertain or missing."""
    yield "The figures are self-reported: featcache computed them on the author's data, and nobody else checked them."
    if report.get("config"):
        yield "The epoch was chosen by val, so the figures of val can be too high; those of test are not."
    data = report.get("data") or {}
    if data.get("held_out"):
        yield "val was drawn from the same data as train. Data of another origin can give other figures."
    yield from (escape(text) for text in data.get("warnings") or ())
    absent = [name for name, count in (data.get("images_by_class", {}).get("val") or {}).items() if not count]
    if absent:
        some = join_words([escape(name) for name in absent[:8]]) + (" and others" if len(absent) > 8 else "")
        yield f"val has no sample of {some}: nothing is known of the accuracy there."
    if not card.multilabel:
        yield (
            f"It knows {len(card.classes)} classes. A sample of another class gets one of these all the same"
            + ("; `predict --unknown` refuses some of them." if report.get("novelty") else ".")
        )
    error = card.metrics.get("calibration_error")
    if error is None and card.metrics.get("log_loss") is None:
        yield "It gives no probabilities."
    elif error is not None:
        adjusted = (report.get("selection") or {}).get("temperature") is not None
        how = "a temperature from held-out training samples adjusts them" if adjusted else "nothing adjusts them"
        yield f"The calibration error of its probabilities on val is {error:.4f}; {how}."
    yield "The license is not recorded. Add `license` to the head of this file before you publish the model."


def _versions(card: ModelCard, report: Mapping[str, Any]) -> Iterator[str]:
    facts = []
    for network in card.networks or (card,):
        facts.append(f"Digest of all settings that decide a feature: `{network.spec.digest()}`.")
        if not is_arrays(network.spec.backbone):
            origin = _origin(network.weights)
            facts.append(f"SHA-256 of the backbone's weights: `{network.spec.weights_sha256}`{origin}.")
    yield bullets(facts)
    versions = report.get("versions") or {}
    if versions:
        yield table(["package", "version"], [[escape(name), escape(str(text))] for name, text in versions.items()])


def _origin(weights: str) -> str:
    """Where they come from; of a file only its name."""
    if weights == "pretrained":
        return " (those that its library publishes)"
    return " (random)" if weights == "none" else f" ({escape(last_part(printable(weights)))})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _interval(fields: Mapping[str, Any], prefix: str) -> str:
    low, high = fields.get(f"{prefix}low"), fields.get(f"{prefix}high")
    return "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
