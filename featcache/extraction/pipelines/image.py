"""The pipeline of images: `Backbone` on views that `ViewLoader` makes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from featcache._utils.monitor import Monitor
from featcache._utils.timing import PhaseTimer
from featcache.backbones.backbone import Backbone
from featcache.backbones.load import load_backbone, load_backbone_of
from featcache.backbones.sources.registry import check_name, is_named
from featcache.core.options import CompleteArguments, ExtractArguments, RuntimeOptions, ViewOptions, select
from featcache.core.specs import EMBEDDED, ExtractSpec
from featcache.data.manifest import Manifest
from featcache.data.modality import IMAGES
from featcache.errors import UnreadableImageError
from featcache.extraction.input_costs import NO_INPUTS, InputCosts, describe_unread
from featcache.extraction.pipelines.base import LoadOptions, load_keywords, spec_keywords
from featcache.extraction.pipelines.registry import PIPELINES
from featcache.extraction.plan import ExtractionPlan
from featcache.vision.decode import decode_for
from featcache.vision.device_views import support
from featcache.vision.loader import ViewLoader, read_image
from featcache.vision.value_range import choose_value_range, describe_value_range

if TYPE_CHECKING:
    from featcache.vision.device_views.device_views import DeviceViews


@dataclass(frozen=True)
class ImagePlan(ExtractionPlan):
    """How to run a `Backbone` over images; see `ExtractionPlan`.

    Parameters
    ----------
    device_views : DeviceViews, optional
        Makes the views on the device of the network; None: the CPU makes them. By default this depends on the device.
    """

    backbone: Backbone
    device_views: DeviceViews | None = None

    def __post_init__(self) -> None:
        view = self.spec.image_view
        if self.device_views is None or self.device_views.spec != view:
            object.__setattr__(self, "device_views", support.open_device_views(self.backbone.device, view))

    @property
    def note(self) -> str:
        """See `ExtractionPlan`. Also why views are not made on the device."""
        return "\n".join(filter(None, [super().note, *(self.device_views.notes if self.device_views else [])]))

    @property
    def makes_views_on_device(self) -> bool:
        """See `ExtractionPlan`."""
        return self.device_views is not None

    def prepare(self) -> None:
        """Compile what makes views on the devices, in advance. If it does not work, the CPU makes them."""
        import torch

        if self.device_views:
            for device in self.backbone.devices:
                self.device_views.check(torch.device(device))

    def open_loader(self, manifest: Manifest, timer: PhaseTimer | None = None) -> ViewLoader:
        """See `ExtractionPlan`."""
        return ViewLoader(
            manifest,
            self.spec.image_view,
            workers=self.runtime["workers"],
            max_pixels=self.runtime["max_pixels"],
            timer=timer,
            device_views=self.device_views,
        )

    def measure_inputs(self, manifest: Manifest, rows: Sequence[int], numbers: Sequence[int]) -> InputCosts:
        """See `ExtractionPlan`. Images are read, decoded and made views of one by one.

        Where a GPU makes the views, the cores only plan them.
        """
        from featcache.vision.augment import make_views  # needs PyTorch

        view, device_views = self.spec.image_view, self.device_views
        read, sizes, decoding, viewing, pixels, unread = [], [], [], [], [], ""
        for row in rows:
            expected = manifest.samples.sha256[row].tobytes()
            try:
                content = read_image(manifest, row, expected)
                started = time.perf_counter()
                image = decode_for(content, view).pixels
            except UnreadableImageError as error:
                unread = unread or describe_unread(manifest, row, str(error))
                continue
            decoded = time.perf_counter()
            is_planned = device_views is not None and device_views.plan(image, expected, numbers) is not None
            planned = time.perf_counter()
            pixels.append(make_views(image, view, expected, numbers))
            decoding.append(decoded - started)
            viewing.append(((planned if is_planned else time.perf_counter()) - decoded) / len(numbers))
            sizes.append(len(content))
            read.append(row)
        if not read:
            return InputCosts(np.zeros(0, np.int64), 0.0, 0.0, 0.0, NO_INPUTS, unread)
        skip = int(len(read) > 1)  # the first image includes loading the decoder
        return InputCosts(
            np.array(read, np.int64),
            float(np.mean(sizes)),
            float(np.mean(decoding[skip:])),
            float(np.mean(viewing[skip:])),
            np.concatenate(pixels),
            unread,
        )

    def run_once(self) -> None:
        """See `ExtractionPlan`."""
        from featcache.vision.augment import make_views  # needs PyTorch

        view = self.spec.image_view
        blank = np.zeros((view.image_size, view.image_size, 3), np.uint8)
        self.backbone.submit(make_views(blank, view, b"", (0, 1)))()
        self.prepare()


class ImagePipeline:
    """The pipeline of images; see `Pipeline`."""

    modality = IMAGES
    default_backbone = EMBEDDED
    network = "a network for images"
    options: tuple[str, ...] = (
        "image_size",
        "interpolation",
        "value_range",
        "decode_side",
        "workers",
        "max_pixels",
    )

    def owns(self, backbone: Any, /) -> bool:
        """See `Pipeline`. A module of PyTorch is a network for images, too."""
        return isinstance(backbone, Backbone) or (isinstance(backbone, str) and is_named(backbone))

    def check_name(self, name: str, /) -> None:
        """See `Pipeline`."""
        check_name(name)

    def complete(
        self, backbone: Any, options: ExtractArguments, out: Path | None, manifest: Manifest, monitor: Monitor, /
    ) -> CompleteArguments:
        """See `Pipeline`: the value range of the images."""
        if side := options["decode_side"]:
            monitor.note(
                f"JPEG files are decoded at 1/2, 1/4 or 1/8 of their size if the short side then has {side} pixels"
            )
        value_range = choose_value_range(options["value_range"], out, manifest, options["max_pixels"])
        monitor.note(describe_value_range(value_range))
        return {**options, "value_range": value_range, "joins_columns": False}

    def load(self, backbone: Any, options: CompleteArguments, /) -> tuple[Backbone, ExtractSpec]:
        """See `Pipeline`."""
        network = backbone
        if not isinstance(backbone, Backbone):
            network = load_backbone(backbone, image_size=options["image_size"], **load_keywords(options))
        view = {**select(ViewOptions, options), **spec_keywords(options, IMAGES.name)}
        return network, network.extract_spec(**view)

    def load_of(self, spec: ExtractSpec, path: Path, backbone: Any, /, **options: Unpack[LoadOptions]) -> Backbone:
        """See `Pipeline`."""
        return load_backbone_of(spec, path, backbone=backbone, **options)

    def plan(self, encoder: Any, spec: ExtractSpec, runtime: RuntimeOptions, match_engine: str = "", /) -> ImagePlan:
        """See `Pipeline`."""
        return ImagePlan(encoder, spec, runtime, match_engine)


PIPELINES.register(IMAGES.name, ImagePipeline())
