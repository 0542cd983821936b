"""The options that several functions and commands share: one field each, with its type, default and description.

A function takes them as keywords and gets their defaults from here:

    class Arguments(ExtractOptions, SplitOptions, total=False): ...

    @takes_options(Arguments)
    def extract(data: Path, **options: Unpack[Arguments]) -> Cache: ...

mypy checks the keywords of a caller against the fields. `help(extract)` shows the fields with types, defaults and
descriptions. The command line builds its options from the same fields (`featcache_cli.shared_options`). This module
imports nothing heavy, because `featcache extract --help` imports it.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Annotated, Any, Literal, NamedTuple, TypedDict, TypeVar, get_args, get_origin, get_type_hints

from featcache.core.option_docs import UNIONS, describe_parameter, insert_paragraphs
from featcache.core.specs import (
    CACHED_AUGMENT,
    LIVE_AUGMENT,
    MAX_PIXELS,
    TEXT_AUGMENT,
    Augment,
    EngineName,
    Interpolation,
    StorageDtype,
)

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")


class Option(NamedTuple):
    """The default and the texts of an option.

    Parameters
    ----------
    default : object
        Its only default, of the library and the command line.
    description : str
        What it sets, in plain sentences. It is the help text of the command line, too.
    none : str
        What None stands for, where the default is None; without a full stop.
    """

    default: Any
    description: str
    none: str = ""


class ViewOptions(TypedDict, total=False):
    """What decides the pixels of a view, in extraction and in training."""

    augment: Annotated[
        Augment | None,
        Option(
            None,
            "Recipe of the augmented views: tutorial, crop, trivial, gentle, gentle-flip, none, or one that another "
            "package adds; for texts word-dropout, sentence-crop or none.",
            none=f"{CACHED_AUGMENT} for the views of a cache, {TEXT_AUGMENT} for those of texts, {LIVE_AUGMENT} for "
            "live training",
        ),
    ]
    image_size: Annotated[
        int | None, Option(None, "Side of the square image, in pixels.", none="the size that the network expects")
    ]
    interpolation: Annotated[
        Interpolation | None, Option(None, "How images are resized.", none="as the network expects")
    ]
    decode_side: Annotated[
        int | None,
        Option(None, "Decode JPEGs at 1/2, 1/4 or 1/8 if the short side keeps this many pixels.", none="in full"),
    ]
    value_range: Annotated[
        tuple[float, float] | None,
        Option(
            None,
            "Low and high pixel value that become black and white, for images with more than 8 bits a channel.",
            none="the range of whole bits that holds the values of the training images",
        ),
    ]
    seed: Annotated[int, Option(0, "Seed of the augmented views, of random weights and of the order of training.")]


class TextOptions(TypedDict, total=False):
    """What else decides the input of an encoder of texts."""

    max_length: Annotated[
        int | None,
        Option(
            None,
            "For texts: most tokens of a text. The end of a longer text is cut off.",
            none="as many as the encoder usually takes",
        ),
    ]
    prefix: Annotated[
        str | None,
        Option(None, 'For texts: put before every text, such as "query: ".', none="that of the encoder, mostly none"),
    ]


class FeatureOptions(ViewOptions, total=False):
    """What else decides a feature, in every route of a benchmark that extracts."""

    weights: Annotated[
        str,
        Option(
            "pretrained",
            "Weights of the network: pretrained, none (random), the path of a weights file, or a folder that finetune "
            "wrote.",
        ),
    ]
    precision: Annotated[
        str, Option("auto", "Precision in which the network computes: auto, fp32, bf16 or fp16; auto suits the device.")
    ]


class ViewCount(TypedDict, total=False):
    """How many views are extracted."""

    views: Annotated[int, Option(0, "Number of augmented views (K) of each training sample.")]


class ExtractOptions(FeatureOptions, TextOptions, total=False):
    """What decides which features a cache holds, besides the number of views."""

    val_views: Annotated[
        int, Option(0, "Number of augmented views of each val or test sample, for test-time augmentation.")
    ]
    layers: Annotated[
        str | Sequence[str],
        Option(
            "all",
            "Layers to keep: last (the penultimate one), stages (last, and the mean of each stage), all (stages, and "
            "maxima, deviations and grids), or names such as layer3:max,layer2.",
        ),
    ]
    dtype: Annotated[StorageDtype, Option("float16", "Type in which features are stored.")]


class DataOptions(TypedDict, total=False):
    """How the list of samples is read."""

    label_column: Annotated[
        str | None, Option(None, "Column of the labels.", none="label, or the only column that can hold them")
    ]
    skip_missing: Annotated[
        bool, Option(False, "Skip images of a manifest whose files are missing, and list them; else they are an error.")
    ]
    text_column: Annotated[
        str | None,
        Option(
            None,
            "Column of the texts, or several with commas between them, which the separator of the encoder joins.",
            none="text, where the data has it",
        ),
    ]


class SplitOptions(DataOptions, total=False):
    """How the images are read and split; see `read_manifest`."""

    val_fraction: Annotated[
        float, Option(0.2, "Fraction of the samples held out as val where the data has no val split.")
    ]
    split_seed: Annotated[int, Option(0, "Seed that draws this val split.")]
    allow_leak: Annotated[bool, Option(False, "Accept samples of val or test that are also in train.")]


class DeviceOptions(TypedDict, total=False):
    """Where a network runs."""

    device: Annotated[
        str, Option("auto", "Device of the network: auto (CUDA, MPS or CPU), cpu, cuda:1, cuda:all (all GPUs).")
    ]


class DeterminismOptions(TypedDict, total=False):
    """Whether PyTorch may take algorithms whose results vary from run to run."""

    deterministic: Annotated[
        bool,
        Option(False, "Same seed, same bits on a GPU: PyTorch takes deterministic algorithms, which can be slower."),
    ]


class EngineOptions(TypedDict, total=False):
    """What runs a frozen network."""

    engine: Annotated[
        EngineName,
        Option("auto", "Software that runs the network; auto takes OpenVINO or torch.compile on CPUs where it pays."),
    ]


class LoaderOptions(TypedDict, total=False):
    """How images are decoded."""

    workers: Annotated[int | None, Option(None, "Number of threads that decode images.", none="one for each core")]
    max_pixels: Annotated[int, Option(MAX_PIXELS, "Images with more pixels are skipped as unreadable.")]


class RuntimeOptions(DeviceOptions, DeterminismOptions, EngineOptions, LoaderOptions, total=False):
    """What decides how long an extraction takes, and not the features, except their rounding."""

    batch_size: Annotated[
        int | None, Option(None, "Number of views, not samples, in a forward pass.", none="32, on a GPU 256")
    ]


class ExtractArguments(ExtractOptions, ViewCount, SplitOptions, RuntimeOptions, total=False):
    """All options of an extraction."""


class CompleteArguments(ExtractArguments):
    """Those of an extraction, and what is known of its data.

    joins_columns : whether the samples are texts of several columns.
    """

    joins_columns: bool


class AutoExtractArguments(ExtractOptions, SplitOptions, RuntimeOptions, total=False):
    """All options of an extraction whose views may be chosen by a trial."""

    views: Annotated[
        int | Literal["auto"],
        Option(
            0,
            "Number of augmented views (K) of each training sample. auto: extract the clean views, compare recipes and "
            "numbers of views on a part of train, and add the views that lower the log-loss.",
        ),
    ]


class LiveOptions(
    ViewOptions, TextOptions, SplitOptions, DeviceOptions, DeterminismOptions, LoaderOptions, total=False
):
    """Options of a training that runs the network on samples, which an extraction has as well."""


class Field(NamedTuple):
    """An option with its name and its type."""

    name: str
    type: Any
    option: Option

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a Literal, or of a Literal or None; empty for other types."""
        kinds = get_args(self.type) if get_origin(self.type) in UNIONS else (self.type,)
        return tuple(value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind))

    @property
    def parameter(self) -> inspect.Parameter:
        """The keyword parameter of a function."""
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(self.name, kind, default=self.option.default, annotation=self.type)

    def paragraph(self) -> str:
        """The parameter in a NumPy docstring, without indentation."""
        none = f" None: {self.option.none}." if self.option.none else ""
        return describe_parameter(self.name, self.type, self.option.default, self.option.description + none)


_fields: dict[type[Any], Mapping[str, Field]] = {}
"""Those of `fields_of`: to evaluate the annotations takes 0.2 ms, and a command has twenty options."""


def fields_of(kind: type[Any]) -> Mapping[str, Field]:
    """The fields of a TypedDict of options by name, those of its bases first."""
    if kind not in _fields:
        hints = get_type_hints(kind, include_extras=True)
        _fields[kind] = types.MappingProxyType(
            {name: Field(name, get_args(hint)[0], get_args(hint)[1]) for name, hint in hints.items()}
        )
    return _fields[kind]


def with_defaults(kind: type[_T], options: Mapping[str, Any]) -> _T:
    """All fields of `kind`: those of `options`, and the defaults of the others. Raises TypeError for other names."""
    fields = fields_of(kind)
    for name in options:
        if name not in fields:
            raise TypeError(f"unexpected keyword argument {name!r}; the options are {', '.join(fields)}")
    complete: Any = {name: options.get(name, field.option.default) for name, field in fields.items()}
    return complete


def select(kind: type[_T], options: Mapping[str, Any]) -> _T:
    """Those of the options that are fields of `kind`."""
    chosen: Any = {name: options[name] for name in fields_of(kind) if name in options}
    return chosen


def manifest_keywords(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of `read_manifest` from `SplitOptions`, or from the provenance of a cache; other names are left out."""
    keywords: dict[str, Any] = {**select(SplitOptions, options)}
    if "split_seed" in keywords:
        keywords["seed"] = keywords.pop("split_seed")
    return keywords


def takes_options(kind: type[Any]) -> Callable[[_F], _F]:
    """A decorator of `def function(..., **options: Unpack[kind])`: the function always gets every field.

    It fills in the defaults, raises TypeError for unknown names, shows the fields in the signature, and
    replaces the line `{options}` of the docstring by their descriptions.
    """

    def decorate(function: _F) -> _F:
        signature = inspect.signature(function)
        explicit = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        names = {each.name for each in explicit}

        @wraps(function)
        def call(*args: Any, **keywords: Any) -> Any:
            options = {name: keywords.pop(name) for name in keywords.keys() - names}
            try:
                complete = with_defaults(kind, options)
            except TypeError as error:
                raise TypeError(f"{function.__name__}() got an {error}") from None
            return function(*args, **keywords, **complete)

        parameters = [*explicit, *(field.parameter for field in fields_of(kind).values())]
        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        call.__doc__ = insert_paragraphs(function.__doc__, [each.paragraph() for each in fields_of(kind).values()])
        return call  # type: ignore[return-value]

    return decorate


def describe_options(kind: type[Any]) -> Callable[[type[_T]], type[_T]]:
    """A decorator of a class with a parameter for each field: replaces `{options}` of its docstring."""

    def decorate(cls: type[_T]) -> type[_T]:
        cls.__doc__ = insert_paragraphs(cls.__doc__, [each.paragraph() for each in fields_of(kind).values()])
        return cls

    return decorate
