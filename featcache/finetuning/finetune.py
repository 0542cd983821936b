"""`finetune`: train a whole network, or only a head on the live frozen network, with the data layer of caches."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from featcache._utils.determinism import deterministic_on_request
from featcache._utils.environment import check_writable
from featcache._utils.locks import exclusive_folder
from featcache._utils.progress_bar import ProgressOption, as_callback
from featcache._utils.timing import PhaseTimer
from featcache.backbones.devices import check_training_device
from featcache.backbones.engines.base import has_compiler
from featcache.backbones.hub_model import hub_model, is_named
from featcache.backbones.trainable import TrainableNetwork
from featcache.core.hub_names import hub_dataset
from featcache.core.model_card import CHECKPOINT, kept_readme, prepare_folder
from featcache.core.options import LiveOptions, manifest_keywords, takes_options
from featcache.data.manifest import Manifest, read_manifest
from featcache.errors import RunError
from featcache.extraction.pipelines.registry import check_backbone
from featcache.finetuning.checks import check_distributed, explain_torch_errors, process_device
from featcache.finetuning.initial_weights import build_initial_model
from featcache.finetuning.notes import run_notes
from featcache.finetuning.pipelines.registry import select_live_pipeline
from featcache.finetuning.precision import no_bf16_note, training_precision
from featcache.finetuning.result import FineTune
from featcache.finetuning.resume import check_before_loading
from featcache.finetuning.run import FineTuneRun
from featcache.finetuning.run_logs import check_formats
from featcache.finetuning.strategy import StrategyOptions, make_strategy
from featcache.metrics.run_report import Report
from featcache.training.config import TrainConfig, make_train_config
from featcache.training.distributed import SINGLE_PROCESS, ProcessGroup
from featcache.training.loop import EpochMetrics


class FineTuneOptions(StrategyOptions, LiveOptions, total=False):
    """The options of `finetune` that other functions share, or that decide its strategy."""


@takes_options(FineTuneOptions)
@deterministic_on_request(RunError)
def finetune(
    data: str | os.PathLike[str] | Manifest,
    out: str | os.PathLike[str],
    *,
    backbone: str | TrainableNetwork | None = None,
    weights: str = "pretrained",
    config: TrainConfig | Mapping[str, Any] | None = None,
    precision: str | None = None,
    compile: bool = False,
    image_cache: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    log: Sequence[str] = (),
    process_group: ProcessGroup = SINGLE_PROCESS,
    progress: ProgressOption = None,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    recipe: TrainConfig | Mapping[str, Any] | None = None,
    world: ProcessGroup | None = None,
    **options: Unpack[FineTuneOptions],
) -> FineTune:
    """Fine-tune a network, and keep the weights of the best val epoch in the folder `out`.

    Epoch e trains on view e of every image, so a cached head with as many views saw the same images. An interrupted run
    resumes when the call is repeated with the same settings, and gives the result of an uninterrupted run: within the
    epoch after SIGINT or SIGTERM, else from the last saved state, some minutes before at most. Several processes resume
    after the last complete epoch.

    Parameters
    ----------
    data : path, URL or Manifest
        Labelled images or texts, see `read_manifest`.
    out : path
        The folder of the run.
    backbone : str, Backbone or TextEncoder, optional
        The name of a network, see `load_backbone`, or for texts of an encoder, see `load_text_encoder`; or a network.
        Default: the embedded EfficientNet-Lite0, for texts the embedded all-minilm-l6-v2.
    weights : str
        "pretrained", "none" (train from scratch) or the path of a state dict. Default: "pretrained".
    config : TrainConfig or dict, optional
        Epochs, batch size, optimizer, schedule and so on. A dict gives some fields of `TrainConfig`; the others have
        their defaults, or with `init_head` those of `LP_FT_DEFAULTS`; for texts those of
        `featcache.finetuning.defaults`. If images have several labels, each label has its
        own sigmoid, and the best epoch is that with the highest mean average precision.
    precision : {"fp32", "bf16", "auto"}, optional
        Of the forward pass. "auto" takes bf16 if the device multiplies matrices in bf16, else fp32, as gradients in
        fp16 would underflow. "fp32" is IEEE float32, without TF32. Default: "auto" on a GPU, as in `extract`,
        else "fp32".
    compile : bool
        Train with torch.compile. It takes about a minute at the start; epochs are faster then, mainly on GPUs. Dropout
        draws other random numbers. Default: False.
    image_cache : path, optional
        A file that stores decoded images for later epochs and runs. If the short side of an image exceeds twice that of
        the clean view's resize, the image is reduced to that, so its views differ slightly.
    resume : bool
        Allow a longer training than that of the existing run: more epochs or more patience. Default: False.
    overwrite : bool
        Start again if the folder holds a run. Default: False.
    log : sequence of {"jsonl", "tensorboard"}
        Write the loss of each step and the metrics of each epoch into the folder: log.jsonl, and event files in the
        folder tensorboard. A run that resumes writes them anew, and goes on with those that it has. Default: none.
    process_group : ProcessGroup
        The processes that train together, each with its shard of every batch, see `ProcessGroup.from_torchrun`. Losses
        are those of one process, up to rounding and the random numbers of dropout, which each process draws for itself.
        All processes must see the folder; the main process writes. The number of processes may change when a run
        resumes. Default: one process.
    progress : bool or Callable[[str, int, int], None], optional
        True shows a bar. A function is called with the phase, and how much of it is done and in total.
    on_epoch : Callable[[EpochMetrics], None], optional
        Called with the metrics of each epoch.
    on_note : Callable[[str], None], optional
        Called with a summary of the data before the work starts.
    recipe : TrainConfig or dict, optional
        Deprecated: the former name of `config`.
    world : ProcessGroup, optional
        Deprecated: the former name of `process_group`.
    {options}

    Returns
    -------
    FineTune

    Raises
    ------
    ImageError
        The data cannot be used.
    BackboneError
        There is no such network, or its weights cannot be loaded.
    RunError
        Settings contradict each other, or `out` holds a run with other settings.
    HeadError
        `init_head` is not a saved head.
    MissingExtraError
        A package that `log` needs is not installed.
    CacheError
        The image cache was made with other settings.

    Examples
    --------
    Train a small network from scratch.

    >>> from featcache import finetune
    >>> run = finetune(
    ...     "photos", "run", backbone="timm/test_resnet", weights="none", image_size=32, config={"epochs": 1}
    ... )
    >>> len(run.history)
    1
    """
    if recipe is not None:
        warnings.warn("finetune(recipe=...) is now finetune(config=...).", DeprecationWarning, stacklevel=4)
        config = recipe if config is None else config
    if world is not None:
        warnings.warn("finetune(world=...) is now finetune(process_group=...).", DeprecationWarning, stacklevel=4)
        process_group = world
    progress, device = as_callback(progress), options["device"]
    mode, init_head = options["mode"], None if options["init_head"] is None else os.fspath(options["init_head"])
    timer, no_bf16, log = PhaseTimer(), "", check_formats(log)
    check_training_device(device)
    checked = make_train_config(config)  # an invalid field is refused before samples are read
    if process_group.size > 1:
        check_distributed(process_group, checked, image_cache, compile)
        device = process_device(process_group, backbone, device)
        process_group.init(device)
    out = Path(out)
    strategy = make_strategy(
        mode,
        weights,
        init_head=init_head,
        reuse_until=options["reuse_until"],
        unfreeze=options["unfreeze"],
        layer_decay=options["layer_decay"],
        batchnorm=options["batchnorm"],
        wise_ft=options["wise_ft"],
    )
    check_writable(out)
    check_backbone(backbone)
    if process_group.is_main_process:
        prepare_folder(out, "run")
    process_group.barrier()
    if not overwrite:
        check_before_loading(out, backbone, mode, config, options, resume)
    with timer.phase("hash"):
        manifest = read_manifest(data, **manifest_keywords(options), progress=progress).labeled("finetune")
    pipeline, default = select_live_pipeline(manifest, backbone, {**options, "image_cache": image_cache})
    config = make_train_config(config, pipeline.default_config(mode, init_head is not None))
    if process_group.size > 1:
        check_distributed(process_group, config, image_cache, compile)
    if on_note and process_group.is_main_process:
        on_note(str(manifest.summary()))
    network: TrainableNetwork
    with timer.phase("start"):
        if backbone is None or isinstance(backbone, str):
            no_bf16 = no_bf16_note(precision, device, mode)
            network = pipeline.load(
                backbone or default,
                {**options},
                weights=weights,
                device=device,
                precision=training_precision(precision, device, mode),
            )
        else:
            network = backbone
        _check_trainable(network, mode, compile)
        spec = pipeline.spec(network, {**options}, manifest, init_head)
    with ExitStack() as stack:
        if process_group.is_main_process:
            stack.enter_context(exclusive_folder(out, "trained"))
        live = pipeline.open_data(
            stack,
            network,
            spec,
            manifest,
            {**options},
            image_cache=None if image_cache is None else Path(image_cache),
            timer=timer,
            progress=progress,
        )
        loader = live.loader
        with timer.phase("start"):
            initial = build_initial_model(network, spec, loader, mode, strategy, config)
        run = FineTuneRun(
            out,
            network,
            spec,
            loader,
            mode,
            initial,
            config,
            timer=timer,
            view_config=live.config,
            progress=progress,
            on_epoch=on_epoch,
            process_group=process_group,
            log=log,
        )
        stack.callback(run.logs.close)
        if overwrite and process_group.is_main_process:
            (out / CHECKPOINT).unlink(missing_ok=True)
            run.logs.remove()
        process_group.barrier()
        if (out / CHECKPOINT).exists():
            run.load_checkpoint(allow_longer=resume)
        run.sync_unreadable()
        with explain_torch_errors(pipeline.describe(spec), pipeline.size_option, config, compile):
            if compile:
                run.state.module.compile()
            with timer.phase("evaluate"):
                run.evaluate_initial_head()
            with timer.phase("train"):
                run.train()
            with timer.phase("evaluate"):
                run.apply_wise_ft()
                test = run.test()
    history, samples = run.state.history, manifest.samples
    result = FineTune(
        path=out,
        history=history,
        skipped=[(samples.ids[row], reason) for row, reason in sorted(loader.skipped.items())],
        report=Report(
            method="finetune from scratch" if (mode, weights) == ("all", "none") else f"finetune {mode}",
            seconds=timer.seconds(),
            images=len(set(samples.rows("train").tolist()) - loader.skipped.keys()) * len(history),
            accuracy=run.accuracy("saved"),
            test=test,
            spec_digest=spec.digest(),
            seed=options["seed"],
            device=network.device_name,
            precision=network.precision,
            tf32=network.allows_tf32,
            compiled=compile,
        ),
        init_head=strategy.init_head,
        start=run.accuracy("initial"),
        wise_ft=strategy.wise_ft,
        tuned=run.accuracy("best") if strategy.wise_ft is not None else None,
        notes=(*filter(None, [no_bf16]), *live.notes(), *run_notes(run, network.weights_note), *kept_readme(out)),
        data=replace(manifest.summary(loader.skipped), skipped=len(loader.skipped), digest=samples.digest()),
    )
    if process_group.is_main_process:
        run.folder.save_report(
            {"config": run.config, **result.to_dict()},
            base_model=hub_model(network.name, network.weights),
            dataset=hub_dataset(manifest.source.name),
            is_named=is_named(network.name),
        )
    process_group.destroy()
    return result


def _check_trainable(backbone: TrainableNetwork, mode: str, compile: bool) -> None:
    if compile and mode == "head":
        raise RunError("a head alone cannot be compiled: drop --compile, or train all layers")
    if compile and not has_compiler(backbone.device):
        raise RunError("torch.compile needs a C++ compiler (Triton on a GPU). Install g++, or drop --compile.")
    if mode == "all" and backbone.precision == "fp16":
        raise RunError("fp16 gradients underflow without loss scaling: train with --precision bf16 or fp32")
