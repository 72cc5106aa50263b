"""Options that several verbs share, and how a Python call takes them as keywords. No torch here.

The options of a verb are a frozen dataclass in its `options` module. Its fields are the flags of the command line and the
keywords of the Python call, and its docstrings are the manual, so each is written once.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar, cast

from tyro.conf import arg

from vitreg import specs
from vitreg.errors import UserError, unknown
from vitreg.passes.keywords import Fitted, Listed, Size, fitting

Fit = Literal["pad", "crop", "resize"]
Layers = int | tuple[int, ...] | Literal["all"]
"""Blocks of a model, counted from 0; -1 is the last."""
LARGEST_SIDE = 8192  # pixels
DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia")


BLOCKS = Listed(r"-?\d+|all|none")


def _known_detectors(default: str) -> str:
    from vitreg.analysis.outliers import known_detectors

    return f"One of {known_detectors()} (default: {default})."


DETECTORS = arg(help_behavior_hint=_known_detectors)
"""Marks a flag that names a detector: the help lists those that there are, installed ones too."""


class Options(Protocol):
    """A frozen dataclass whose fields are flags and keywords."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


O = TypeVar("O", bound=Options)  # noqa: E741
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class SourceOptions(Fitted):
    """Which weights the model has."""

    random: bool = False
    """Use untrained weights instead of fetching pretrained ones."""
    strict: bool = False
    """Refuse a checkpoint whose position table would have to be resampled."""
    allow_partial: bool = False
    """Accept a checkpoint with missing or unexpected keys."""
    trust: bool = False
    """Run the code of the repository that hub:OWNER/REPO:ENTRY names. No other source runs any code of its files."""
    repair: Path | None = None
    """Apply the repair in this folder, which vitreg fix wrote."""

    def check(self, spec: str, weights: str | Path | None = None) -> None:
        """Refuse a model or weights that can be seen to be wrong without torch. Raises UserError."""
        from vitreg.passes import ahead

        specs.refuse(spec, random=self.random, weights=weights, trust=self.trust)
        ahead.refuse_absent_inputs(files=[weights])
        if self.repair is not None and not specs.is_repair(self.repair.expanduser()):
            raise UserError(f"{self.repair} holds no repair.json, so it is no repair; vitreg fix writes one.")

    def given(self) -> dict[str, Any]:
        """Return the options, without a file of weights, as keywords of `vitreg.load`."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "weights"}


@dataclass(frozen=True, kw_only=True)
class ModelOptions(SourceOptions):
    """How to load the model and run it."""

    device: str | None = None
    """cpu, cuda, cuda:1, mps; the best there is if unset."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto is bf16 where that is faster on this machine, else fp32. Statistics are fp32 always."""

    def check(self, spec: str, weights: str | Path | None = None) -> None:
        """Refuse a model, weights or a device that can be seen to be wrong without torch. Raises UserError."""
        super().check(spec, weights)
        if self.device is not None:
            kind = re.fullmatch(r"([a-z]+)(?::\d+)?", self.device)
            if kind is None or kind[1] not in DEVICES:
                raise unknown("device", self.device, DEVICES)


@dataclass(frozen=True, kw_only=True)
class LoadOptions(ModelOptions):
    """How to load the model and run it."""

    weights: Path | None = None
    """A checkpoint (.safetensors, .pth) in any known layout; pickled code is never run."""


@dataclass(frozen=True, kw_only=True)
class ImageOptions(Fitted):
    """Which images, and how they reach the model."""

    size: Size | None = None
    """Image size, 518 or 384x512 (height x width); the model's own if unset."""
    fit: Fit = "resize"
    """What to do where a side is no multiple of the patch; the model's own size is left as it is."""
    limit: int | None = None
    """Use at most this many images."""
    batch_size: int | None = None
    """Images that pass the model at once; chosen by token count and device if unset."""
    workers: int | None = None
    """Workers that decode images; chosen by the number of processors if unset. With 0 the main process decodes."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense. Raises UserError."""
        super().__post_init__()
        check_size(self.size)
        at_least(1, "limit", self.limit)
        at_least(1, "batch_size", self.batch_size)
        at_least(0, "workers", self.workers)

    @property
    def threads(self) -> int | None:
        """Decoding threads of a verb that uses threads: at least one."""
        return None if self.workers is None else max(1, self.workers)

    @property
    def pixels(self) -> tuple[int, int] | None:
        """The size as (height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


def at_least(low: int, name: str, value: int | None) -> None:
    """Raise UserError for a number below `low`; None passes."""
    if value is not None and value < low:
        raise UserError(f"--{name.replace('_', '-')} must be at least {low}, not {value}.")


def check_size(size: Size | None) -> None:
    """Raise UserError for an impossible image size."""
    sides = () if size is None else size if isinstance(size, tuple) else (size,)
    if sides and not all(0 < side <= LARGEST_SIDE for side in sides):
        raise UserError(
            f"--size {'x'.join(map(str, sides))} is no image size; give 518 or 384x512 (height x width), "
            f"{LARGEST_SIDE} pixels a side at most."
        )


@dataclass(frozen=True, kw_only=True)
class _Loading(ModelOptions):
    """Keywords that `vitreg.load` takes."""

    image_size: Size | None = None
    weights_size: Size | None = None


def split(
    kind: type[O], options: O | None, keywords: Mapping[str, Any], verb: str, *, loads: bool = True
) -> tuple[O, dict[str, Any]]:
    """Split the keywords of a Python call into the verb's options and those of `vitreg.load`, and check their types.

    Args:
        options: the options that the keywords override; the defaults if None.
        loads: whether the verb loads a model.
    Raises:
        UserError: for a keyword that belongs to neither, or a value that does not fit its type.
    """
    if options is not None and not isinstance(options, kind):
        raise UserError(f"options of {verb} are a {kind.__name__}, not a {type(options).__name__}.")
    own = [each.name for each in fields(kind) if each.init]
    refuse_unknown(keywords, [*own, *(each.name for each in fields(_Loading) if loads)], verb)
    chosen = {name: value for name, value in keywords.items() if name in own}
    loading = {name: value for name, value in keywords.items() if name not in own}
    made = _Loading(**loading)
    loading = {name: getattr(made, name) for name in loading}
    return (kind(**chosen) if options is None else replace(options, **chosen)), loading


def refuse_unknown(keywords: Iterable[str], known: Sequence[str], verb: str) -> None:
    """Raise UserError for a keyword that a verb does not know."""
    for name in keywords:
        if name not in known:
            raise unknown("keyword", name, known, f"vitreg.{verb}")


CHECKED_INSIDE = ("model", "models", "images", "data", "task", "tasks", "config", "options")
"""Arguments of many types, which say themselves what they take."""


def takes(*kinds: type[Options]) -> Callable[[F], F]:
    """Make a function a verb: its keywords are in its signature, for help() and completion, and its values fit their types.

    Args:
        kinds: dataclasses whose fields replace **keywords; `split` checks those.
    """

    def shown(function: F) -> F:
        signature = inspect.signature(function)
        own = {name: each for name, each in signature.parameters.items() if each.kind is not each.VAR_KEYWORD}
        open_ended = len(own) < len(signature.parameters)

        @functools.wraps(function)
        def called(*values: Any, **keywords: Any) -> Any:
            if not open_ended:
                refuse_unknown(keywords, [*own], function.__name__)
            named = {**dict(zip(own, values, strict=False)), **keywords}
            read = fitting(function, {name: named[name] for name in own.keys() & named.keys() - {*CHECKED_INSIDE}})
            values = tuple(read.get(name, value) for name, value in zip(own, values, strict=False)) + values[len(own) :]
            return function(*values, **{name: read.get(name, value) for name, value in keywords.items()})

        known = dict(own)
        for each in (each for kind in kinds for each in fields(kind) if each.init):
            needed = each.default is MISSING and each.default_factory is MISSING
            default = inspect.Parameter.empty if needed else None if each.default is MISSING else each.default
            parameter = inspect.Parameter(
                each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=each.type
            )
            known.setdefault(each.name, parameter)
        called.__signature__ = signature.replace(parameters=list(known.values()))  # type: ignore[attr-defined]
        return cast(F, called)

    return shown
