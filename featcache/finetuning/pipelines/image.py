"""The pipeline of images: `Backbone` on views that `ViewLoader` makes in every epoch."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from featcache._utils.progress_bar import Progress
from featcache._utils.timing import PhaseTimer
from featcache.backbones.backbone import Backbone
from featcache.backbones.load import load_backbone
from featcache.core.bit_depth import ValueRange
from featcache.core.model_card import ModelCard
from featcache.core.options import ViewOptions, select
from featcache.core.specs import ExtractSpec, live_augment
from featcache.data.manifest import Manifest
from featcache.data.modality import IMAGES
from featcache.finetuning.pipelines.base import LiveData
from featcache.finetuning.pipelines.registry import LIVE_PIPELINES
from featcache.finetuning.strategy import LP_FT_DEFAULTS, Mode
from featcache.heads.imagenet import is_imagenet
from featcache.vision.device_views import support
from featcache.vision.image_cache import ImageCache
from featcache.vision.loader import ViewLoader
from featcache.vision.value_range import describe_value_range, find_value_range

_CACHED_SIDE_FACTOR = 2  # short side of images in an ImageCache, as a multiple of the clean view's resize


class ImageLivePipeline:
    """See `LivePipeline`."""

    options: tuple[str, ...] = ("image_cache",)
    size_option = "--image-size"
    trains_from_scratch = True

    def default_config(self, mode: Mode, has_init_head: bool, /) -> dict[str, Any]:
        """See `LivePipeline`."""
        return LP_FT_DEFAULTS if has_init_head else {}

    def load(self, name: str, options: dict[str, Any], /, *, weights: str, device: str, precision: str) -> Backbone:
        """See `LivePipeline`."""
        return load_backbone(
            name,
            weights=weights,
            device=device,
            precision=precision,
            seed=options["seed"],
            image_size=options["image_size"],
        )

    def spec(
        self, network: Backbone, options: dict[str, Any], manifest: Manifest, init_head: str | None, /
    ) -> ExtractSpec:
        """See `LivePipeline`."""
        value_range = options["value_range"] or _value_range(init_head, manifest, options["max_pixels"])
        views: Any = select(ViewOptions, options)
        views |= {"augment": live_augment(options["augment"]), "value_range": value_range}
        return network.extract_spec(views=0, dtype="float32", **views)

    def describe(self, spec: ExtractSpec, /) -> str:
        """See `LivePipeline`."""
        return f"image at {spec.image_view.image_size} pixels"

    def open_data(
        self,
        stack: ExitStack,
        network: Backbone,
        spec: ExtractSpec,
        manifest: Manifest,
        options: dict[str, Any],
        /,
        *,
        image_cache: Path | None,
        timer: PhaseTimer,
        progress: Progress | None,
    ) -> LiveData:
        """See `LivePipeline`."""
        view, max_pixels, images = spec.image_view, options["max_pixels"], None
        if image_cache is not None:
            with timer.phase("image cache"):
                side = _CACHED_SIDE_FACTOR * view.resize_size
                images = stack.enter_context(
                    closing(ImageCache(image_cache, manifest, side, max_pixels, progress, view.value_range))
                )
        device_views = support.open_device_views(network.device, view)
        loader = ViewLoader(
            manifest,
            view,
            workers=options["workers"],
            max_pixels=max_pixels,
            timer=timer,
            images=images,
            device_views=device_views,
            exact_batches=True,
        )

        def notes() -> list[str]:
            described = [describe_value_range(view.value_range)] if view.value_range else []
            return [*(device_views.notes if device_views else []), *described]

        return LiveData(
            stack.enter_context(closing(loader)),
            {"max_pixels": max_pixels, "image_side": images.side if images else None},
            notes,
        )


def _value_range(init_head: str | None, manifest: Manifest, max_pixels: int) -> ValueRange | None:
    """The value range that the head was fitted with, else that of the images."""
    if init_head is None or is_imagenet(init_head):
        return find_value_range(manifest, max_pixels)
    return ModelCard.read(Path(init_head)).spec.image_view.value_range


LIVE_PIPELINES.register(IMAGES.name, ImageLivePipeline())
