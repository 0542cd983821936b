"""`finetune`: train a network end to end, or its head with the frozen network live, on the shared data layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from featcache._utils.locks import exclusive_folder
from featcache._utils.notebook import NotebookResult
from featcache._utils.progress_bar import ProgressOption, as_callback
from featcache._utils.timing import PhaseTimer
from featcache.backbones.backbone import Backbone
from featcache.backbones.devices import resolve_device, resolve_precision
from featcache.backbones.engines.base import has_compiler
from featcache.backbones.load import load_backbone
from featcache.backbones.sources.registry import check_name
from featcache.core.bit_depth import ValueRange
from featcache.core.data_summary import DataSummary
from featcache.core.model_card import CHECKPOINT, REPORT, ModelCard, prepare_folder, write_json
from featcache.core.specs import EMBEDDED, Augment, ExtractSpec
from featcache.data.input_notes import input_notes, list_inputs, remark_notes, write_list
from featcache.data.manifest import Manifest, read_manifest
from featcache.errors import RunError, first_line
from featcache.finetuning.initial_weights import build_initial_model
from featcache.finetuning.run import FineTuneRun, refuse_early
from featcache.finetuning.strategy import LP_FT_DEFAULTS, BatchNorm, Unfreeze, make_strategy
from featcache.heads.imagenet import describe_choice, is_imagenet
from featcache.metrics.classification import Accuracy
from featcache.metrics.multilabel import LabelAccuracy
from featcache.metrics.run_report import Report
from featcache.training.config import TrainConfig, make_train_config
from featcache.training.distributed import SINGLE_PROCESS, ProcessGroup
from featcache.training.loop import EpochMetrics
from featcache.vision.decode import MAX_PIXELS
from featcache.vision.image_cache import ImageCache
from featcache.vision.loader import ViewLoader
from featcache.vision.value_range import describe_value_range, find_value_range

"""In a run's folder, while a process trains there."""

_KEPT_SIDES = 2  # of an image in an ImageCache, in short sides of the resized clean view


@dataclass(frozen=True, repr=False)
class FineTune(NotebookResult):
    """What `finetune` returns. The folder `path` holds the weights of the best val epoch, or their average with those
    at the start.

    init_head : the fitted head that it began with, where it did. start : val figures of that, before any step.
    wise_ft : share of the fine-tuned weights in those that were kept, where they were averaged. tuned : val figures of
    the best epoch; `report.accuracy` are those of what was kept. notes : what a user should know, a line each.
    data : what was understood of the data, as far as it could be read.
    """

    path: Path
    history: list[EpochMetrics]
    skipped: list[tuple[str, str]]
    report: Report
    init_head: str | None = None
    start: Accuracy | LabelAccuracy | None = None
    wise_ft: float | None = None
    tuned: Accuracy | LabelAccuracy | None = None
    notes: tuple[str, ...] = ()
    data: DataSummary | None = None

    def write_list(self, path: str | os.PathLike[str]) -> None:
        """All skipped images as CSV: kind, image, other, reason; whole or not at all."""
        write_list(path, list_inputs([], self.skipped, {}))

    @property
    def best(self) -> EpochMetrics:
        """The epoch with the highest val accuracy, of several labels with the highest mean average precision."""
        return max(self.history, key=lambda epoch: epoch.score)

    @property
    def data_share(self) -> float:
        """Share of training and evaluating that was spent waiting for images, 0..1; of this call."""
        seconds = self.report.seconds
        return seconds.get("data", 0.0) / max(1e-9, seconds.get("train", 0.0) + seconds.get("evaluate", 0.0))

    def __str__(self) -> str:
        """What was reached, for people."""
        lines = input_notes({}, [], self.skipped)
        lines += [self.data.missing] if self.data and self.data.missing else []
        if self.start:
            lines.append(f"began with {self.init_head}: val {_figure(self.start)}")
        lines.append(
            f"{len(self.history)} epochs in {sum(epoch.seconds for epoch in self.history):.1f} s; "
            f"best val {_figure(self.tuned or self.report.accuracy)} in epoch {self.best.epoch}"
        )
        if self.start and self.best.score < _score(self.start):
            lines.append("that is below what it began with: take the head itself, or a lower --lr")
        if self.wise_ft is not None:
            lines.append(
                f"kept {self.wise_ft:g} of these weights and {1 - self.wise_ft:g} of those at the start (WiSE-FT): "
                f"val {_figure(self.report.accuracy)}"
            )
        lines.append(f"waiting for images took {self.data_share:.0%} of the time")
        if self.report.test:
            lines.append(f"test {_figure(self.report.test)}")
        return "\n".join([*lines, *self.notes, f"saved in {self.path}"])

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **self.report.to_dict(),
            "path": str(self.path),
            "best_epoch": self.best.epoch,
            "data_share": self.data_share,
            "start": {"head": self.init_head, **self.start.to_dict()} if self.start else None,
            "wise_ft": self.wise_ft,
            "tuned": self.tuned.to_dict() if self.tuned else None,
            "data": self.data.to_dict() if self.data else None,
            "history": [asdict(epoch) for epoch in self.history],
            "skipped": [{"path": name, "reason": reason} for name, reason in self.skipped],
            "notes": list(self.notes),
        }


def _figure(accuracy: Accuracy | LabelAccuracy | None) -> str:
    """The figures with what they are: "accuracy 0.9 (...)", of several labels "mAP 0.9, all labels right ..."."""
    return f"{'' if isinstance(accuracy, LabelAccuracy) else 'accuracy '}{accuracy}"


def _score(accuracy: Accuracy | LabelAccuracy) -> float:
    """What the best epoch is chosen by."""
    precision = accuracy.mean_average_precision if isinstance(accuracy, LabelAccuracy) else None
    return accuracy.accuracy if precision is None else precision


def finetune(
    data: str | os.PathLike[str] | Manifest,
    out: str | os.PathLike[str],
    *,
    backbone: str | Backbone = EMBEDDED,
    weights: str = "pretrained",
    mode: Literal["all", "head"] = "all",
    init_head: str | os.PathLike[str] | None = None,
    reuse_until: str | None = None,
    unfreeze: Unfreeze = "all",
    layer_decay: float = 1.0,
    batchnorm: BatchNorm | None = None,
    wise_ft: float | None = None,
    recipe: TrainConfig | Mapping[str, Any] | None = None,
    augment: Augment = "tutorial",
    image_size: int | None = None,
    workers: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    compile: bool = False,
    seed: int = 0,
    val_fraction: float = 0.2,
    split_seed: int = 0,
    allow_leak: bool = False,
    label_column: str | None = None,
    skip_missing: bool = False,
    max_pixels: int = MAX_PIXELS,
    value_range: ValueRange | None = None,
    image_cache: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    world: ProcessGroup = SINGLE_PROCESS,
    progress: ProgressOption = None,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> FineTune:
    """Train on view e of every image in epoch e; keep the weights of the best val epoch in the folder `out`.

    Parameters
    ----------
    weights : "pretrained", "none" (from scratch) or the path of a state dict.
    mode : "all" trains every layer; "head" a linear layer on the backbone, which stays frozen in `eval()` mode
        and runs live over every image in every epoch.
    init_head : begin with a fitted head instead of a random one (LP-FT, Kumar et al. 2022, arXiv 2202.10054): a folder
        of `fit_head` on a cache of the same network, preprocessing and split, or "imagenet:ant,bee", the pretrained
        classifier's own rows (see `featcache.heads.imagenet.choose_classes`).
    reuse_until : keep the pretrained weights up to and with the stage of this name, draw those behind it.
    unfreeze : what learns below the head: "all", "last-stage", or how many of the last stages. The rest is frozen in
        `eval()` mode. See `featcache.backbones.stages.find_stages`.
    layer_decay : the rate of a stage is that of the one above it times this; the head is above the last one.
    batchnorm : "eval" lets every BatchNorm normalise by its running statistics, which stay as they are; "train" by its
        batch, as those behind `reuse_until` always do, which are drawn and know no statistics. None takes "eval" with
        `init_head`, which was fitted on what "eval" gives, else "train".
    wise_ft : keep this share of the best epoch's weights and the rest of those at the start, running statistics of
        BatchNorm included (WiSE-FT, Wortsman et al. 2021, arXiv 2109.01903); needs `init_head`.
    recipe : epochs, batch size, optimizer, schedule and the like; a dict gives some fields of `TrainConfig`, the others
        are the usual ones, with `init_head` those of `LP_FT_DEFAULTS`. Where images have several labels, each has a
        sigmoid of its own, and the best epoch is that of the highest mean average precision.
    compile : train through torch.compile: a minute at the start, then faster epochs, most of all on GPUs. Dropout
        then draws other random numbers.
    seed : of views, order, new weights and dropout.
    val_fraction, split_seed, allow_leak, label_column, skip_missing : see `read_manifest`.
    max_pixels : larger images count as unreadable.
    value_range : low and high value of pixels with more than 8 bits a channel, which become black and white; None
        takes that of `init_head`, else finds it, see `find_value_range`.
    image_cache : a file that keeps the decoded images, for later epochs and runs. In it those whose short side
        exceeds twice that of the clean view's resize are shrunk to that, so their views differ a little.
    world : processes that train together, each with its share of every batch, see `ProcessGroup.of_torchrun`: losses
        are those of one process, up to rounding. The folder must be one that all see; the first process writes. A
        resumed run may have another number of them.
    on_note : called with what was understood of the data, before the work starts.
    resume : a run in `out` with the same settings goes on in any case, where it was interrupted, to the result that an
        uninterrupted one would give: within an epoch after SIGINT or SIGTERM, and else from the last state saved, at
        most some minutes before; one of several processes from the end of its last whole epoch. With `resume` it also
        trains longer: for more epochs, or with more patience.
    overwrite : begin anew in a folder that holds a run.

    Raises
    ------
    ImageError, BackboneError, RunError, HeadError, CacheError : of the image cache.
    """
    progress = as_callback(progress)
    watch = PhaseTimer()
    if world.size > 1:
        _check_together(world, make_train_config(recipe), image_cache, compile)
        device = world.device(resolve_device(device))
        world.join(device)
    out, recipe = Path(out), make_train_config(recipe, {} if init_head is None else LP_FT_DEFAULTS)
    plan = make_strategy(
        mode,
        weights,
        init_head=None if init_head is None else os.fspath(init_head),
        reuse_until=reuse_until,
        unfreeze=unfreeze,
        layer_decay=layer_decay,
        batchnorm=batchnorm,
        wise_ft=wise_ft,
    )
    check_name(backbone)
    if world.first:
        prepare_folder(out, "run")
    world.wait()
    if not overwrite:
        known = {"backbone": backbone if isinstance(backbone, str) else None, "image_size": image_size}
        known = {name: value for name, value in known.items() if value is not None}
        known |= {"augment": augment, "seed": seed, "train": mode, "max_pixels": max_pixels, **asdict(recipe)}
        refuse_early(out, known, resume)
    with watch.phase("hash"):
        manifest = read_manifest(
            data,
            val_fraction=val_fraction,
            seed=split_seed,
            allow_leak=allow_leak,
            label_column=label_column,
            skip_missing=skip_missing,
            progress=progress,
        )
    if on_note and world.first:
        on_note(str(manifest.summary()))
    with watch.phase("start"):
        if isinstance(backbone, str):
            if mode == "all" and precision == "auto":
                precision = trainable_precision(device)
            backbone = load_backbone(
                backbone, weights=weights, device=device, precision=precision, seed=seed, image_size=image_size
            )
        if compile and mode == "head":
            raise RunError("a head alone has nothing to compile: drop --compile, or train all layers")
        if compile and not has_compiler(backbone.device):
            raise RunError("torch.compile needs a C++ compiler (Triton on a GPU). Install g++, or drop --compile.")
        if mode == "all" and backbone.precision == "fp16":
            raise RunError("fp16 gradients underflow without loss scaling: train with --precision bf16 or fp32")
        value_range = value_range or _range_of(init_head, manifest, max_pixels)
        spec = backbone.extract_spec(
            image_size=image_size, augment=augment, seed=seed, views=0, dtype="float32", value_range=value_range
        )
    with ExitStack() as stack:
        if world.first:
            stack.enter_context(exclusive_folder(out, "trained"))
        images = None
        if image_cache is not None:
            with watch.phase("image cache"):
                side = _KEPT_SIDES * spec.view.resize_size
                images = stack.enter_context(
                    closing(ImageCache(image_cache, manifest, side, max_pixels, progress, value_range))
                )
        loader = stack.enter_context(
            closing(ViewLoader(manifest, spec.view, workers=workers, max_pixels=max_pixels, watch=watch, images=images))
        )
        side_kept = images.side if images else None
        with watch.phase("start"):
            start = build_initial_model(backbone, spec, loader, mode, plan, recipe)
        told = (progress, on_epoch, world)
        run = FineTuneRun(out, backbone, spec, manifest, loader, mode, start, recipe, watch, side_kept, *told)
        if overwrite and world.first:
            (out / CHECKPOINT).unlink(missing_ok=True)
        world.wait()
        if (out / CHECKPOINT).exists():
            run.restore(longer=resume)
        run.screen()
        with _told_apart(spec, recipe, compile):
            if compile:
                run.training.module.compile()
            with watch.phase("evaluate"):
                run.look()
            with watch.phase("train"):
                run.train()
            with watch.phase("evaluate"):
                run.average()
                on_test = run.test()
    history = run.training.history
    report = Report(
        method="finetune from scratch" if (mode, weights) == ("all", "none") else f"finetune {mode}",
        seconds=watch.seconds(),
        images=len(set(manifest.samples.rows("train").tolist()) - loader.skipped.keys()) * len(history),
        accuracy=run.accuracy("kept"),
        test=on_test,
        spec_digest=spec.digest(),
        seed=seed,
        device=backbone.device_name,
        precision=backbone.precision,
    )
    understood = manifest.summary(loader.skipped)
    skipped = [(manifest.samples.ids[row], reason) for row, reason in sorted(loader.skipped.items())]
    first, tuned = run.accuracy("first"), run.accuracy("best") if plan.wise_ft is not None else None
    taken = describe_choice(str(plan.init_head), manifest.samples.classes) if is_imagenet(plan.init_head) else []
    taken += _dropped_thresholds(plan.init_head)
    odd = {row: remark for found in world.gather(loader.remarks) for row, remark in found.items()}
    remarks = remark_notes([(manifest.samples.ids[row], remark) for row, remark in sorted(odd.items())])
    ranged = [describe_value_range(value_range)] if value_range else []
    notes = (*filter(None, [backbone.weights_note]), *taken, *run.notes, *_notes(history, recipe), *ranged, *remarks)
    result = FineTune(out, history, skipped, report, plan.init_head, first, plan.wise_ft, tuned, notes, understood)
    if world.first:
        write_json(out / REPORT, {"config": run.config, **result.to_dict()})
    world.leave()
    return result


def _range_of(init_head: str | os.PathLike[str] | None, manifest: Manifest, max_pixels: int) -> ValueRange | None:
    """The value range that the head was fitted with, else that of the images."""
    if init_head is None or is_imagenet(os.fspath(init_head)):
        return find_value_range(manifest, max_pixels)
    return ModelCard.read(Path(init_head)).spec.view.value_range


def _dropped_thresholds(init_head: str | None) -> list[str]:
    """What a user should know of a head whose labels were not decided at 0.5, where a run began with it."""
    if init_head is None or is_imagenet(init_head) or ModelCard.read(Path(init_head)).thresholds is None:
        return []
    return [f"the thresholds of {init_head} are not taken over: this run decides every label at 0.5"]


def _notes(history: list[EpochMetrics], recipe: TrainConfig) -> list[str]:
    """What a user should know of the epochs."""
    notes = []
    if history[-1].diverged:
        end = f"training diverged in epoch {len(history)} of {recipe.epochs}: the loss on val is no finite number"
        notes.append(f"{end}; epoch {max(history, key=lambda epoch: epoch.score).epoch} is kept; give a lower --lr")
    elif len(history) < recipe.epochs:
        end = f"stopped after epoch {len(history)} of {recipe.epochs}: for {recipe.patience} epoch(s) val got no better"
        notes.append(f"{end} and its loss did not fall (--patience)")
    return notes


def _check_together(world: ProcessGroup, recipe: TrainConfig, image_cache: object, compile: bool) -> None:
    """Raise RunError for what several processes cannot do together."""
    if image_cache is not None:
        raise RunError("one process writes an image cache, and here several train: drop --image-cache")
    if compile:
        raise RunError("torch.compile does not see what several processes tell each other: drop --compile")
    if recipe.batch_size < world.size:
        raise RunError(f"{world.size} processes cannot share batches of {recipe.batch_size}: raise --batch-size")


@contextmanager
def _told_apart(spec: ExtractSpec, recipe: TrainConfig, compiled: bool) -> Iterator[None]:
    """Errors of PyTorch that a user's settings cause, as such."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise RunError(
            f"BatchNorm cannot train on a batch of one image at {spec.view.image_size} pixels. Give a larger "
            f"--batch-size than {recipe.batch_size}, --batchnorm eval, or a larger --image-size."
        ) from error
    except Exception as error:
        if not compiled or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise RunError(f"torch.compile cannot train this network ({first_line(error)}). Drop --compile.") from error


def trainable_precision(device: str) -> str:
    """ "auto" for training: fp16 would need its losses scaled."""
    found = resolve_precision("auto", resolve_device(device))
    return "fp32" if found == "fp16" else found
