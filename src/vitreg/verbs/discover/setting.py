"""The settings that determine the box: method, feature, block, normalisation and bias, and grids of them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

from vitreg.errors import UserError, unknown

Feature = Literal["k", "q", "v", "output"]
FEATURES: tuple[Feature, ...] = get_args(Feature)
Method = Literal["lost", "tokencut", "maskcut"]
Normalize = Literal["none", "l2", "center", "center+l2"]
METHODS: tuple[Method, ...] = get_args(Method)
NORMALIZE: tuple[Normalize, ...] = get_args(Normalize)
AUTO = "auto"
T = TypeVar("T", Method, Feature, Normalize)
_UNIT: dict[Normalize, Normalize] = {"l2": "none", "center+l2": "center"}


def _known(what: str, word: str, choices: tuple[T, ...]) -> T:
    for choice in choices:
        if choice == word:
            return choice
    raise unknown(what, word, map(str, choices))


@dataclass(frozen=True, slots=True)
class Bias:
    """The number LOST adds to every entry of the Gram matrix.

    Args:
        value: a number; None for the automatic rule.
        relative: the number is a share of the mean of the matrix's diagonal, per image, so it means the same for raw
            features of any length. For normalised features the diagonal is 1, and both are the same.
    """

    value: float | None
    relative: bool = False

    @classmethod
    def read(cls, text: str | float) -> Bias:
        """Read "auto", a number, or a percentage of the mean diagonal such as "-20%".

        Raises:
            UserError: for anything else.
        """
        words = str(text).strip()
        if words == AUTO:
            return cls(None)
        match = re.fullmatch(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(%?)", words)
        if not match or not math.isfinite(float(match[1])):
            raise UserError(f"'{words}' is no bias; give auto, a number, or a share of the diagonal such as -20%.")
        number = float(match[1])
        return cls(number / 100 if match[2] else number, bool(match[2]))

    def __str__(self) -> str:
        if self.value is None:
            return AUTO
        return f"{100 * self.value:g}%" if self.relative else f"{self.value:g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One way to find a box. LOST as published has the normalisation none and the bias 0.

    Args:
        layer: block index, -1 for the last.
        normalize: the method's default if None. LOST: center+l2, which subtracts the mean patch of an image before
            patches are compared, as others did for register models (Bach et al. 2025); with the automatic bias no number
            is then chosen by hand. The cuts: none, as published.
        bias: read by lost only.
        open: for a cut, whether feature, block and normalisation are still to be chosen, without labels, on the images.
    """

    method: Method = "lost"
    feature: Feature = "k"
    layer: int = -1
    normalize: Normalize | None = None
    bias: Bias = Bias(None)
    open: bool = False

    def __post_init__(self) -> None:
        _known("method", self.method, METHODS)
        _known("feature", self.feature, FEATURES)
        _known("normalisation", self.normalisation, NORMALIZE)

    def resolved(self, depth: int) -> Setting:
        """Return the setting with its defaults filled in and its block counted from 0. Raises UserError for a missing block."""
        from vitreg.backbones.trace import resolve_layer  # needs torch, which reading a setting does not

        return replace(self, layer=resolve_layer(self.layer, depth), normalize=self.normalisation, open=False)

    @property
    def normalisation(self) -> Normalize:
        """The chosen normalisation, or the method's default."""
        if self.normalize is not None:
            return self.normalize
        return "center+l2" if self.method == "lost" else "none"

    @property
    def automatic(self) -> bool:
        """Whether LOST runs with the automatic bias, so no number is chosen by hand."""
        return self.method == "lost" and self.bias.value is None

    @property
    def vanilla(self) -> bool:
        """Whether this is LOST as published, with any feature and block."""
        return self.method == "lost" and self.normalisation == "none" and self.bias.value == 0

    @property
    def bias_word(self) -> str:
        """The bias as text; a dash for a method without one."""
        return str(self.bias) if self.method == "lost" else "-"

    def record(self) -> dict[str, str | int]:
        """Return the setting's entry in result.json."""
        return {
            "method": self.method,
            "feature": self.feature,
            "block": self.layer,
            "normalisation": self.normalisation,
            "bias": self.bias_word,
        }

    def words(self) -> str:
        """Name the setting in a few words."""
        bias = f", bias {self.bias}" if self.method == "lost" else ""
        return f"{self.method}, {self.feature} of block {self.layer}, normalisation {self.normalisation}{bias}"


DEFAULT = Setting()


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """A grid of settings, all tried on every image in one forward pass.

    The defaults are those tried for register models: the last four blocks, normalised features, negative biases (dinov2
    issue 381; test-time registers, Jiang et al. 2025).
    """

    features: tuple[Feature, ...] = ("k", "q", "v")
    layers: tuple[int, ...] | None = None  # the last four, or all of a shallower model
    normalize: tuple[Normalize, ...] = ("none", "l2", "center+l2")
    biases: tuple[Bias, ...] = (
        Bias(None), Bias(0.0), Bias(-0.1, True), Bias(-0.2, True), Bias(-0.4, True), Bias(-0.6, True), Bias(-0.8, True),
    )  # fmt: skip

    def settings(self, chosen: Setting, depth: int) -> list[Setting]:
        """Return every combination, with blocks counted from 0, the chosen setting first.

        Raises:
            UserError: for a block that does not exist, or if a list is empty.
        """
        layers = range(depth - 1, max(depth - 5, -1), -1) if self.layers is None else self.layers
        if not (self.features and layers and self.normalize and self.biases):
            raise UserError("a sweep needs at least one feature, block, normalisation and bias.")
        biases: tuple[Bias, ...] = self.biases
        ways: Iterable[Normalize] = self.normalize
        if chosen.method != "lost":  # a cut has no bias and always compares patches by cosine
            biases, ways = (chosen.bias,), dict.fromkeys(_UNIT.get(way, way) for way in self.normalize)
        grid = itertools.product(self.features, layers, ways, biases)
        combined = [
            Setting(method=chosen.method, feature=feature, layer=layer, normalize=normalize, bias=bias).resolved(depth)
            for feature, layer, normalize, bias in grid
        ]
        return list(dict.fromkeys([chosen.resolved(depth), *combined]))


def refuse_blind_sweep(setting: Setting, sweep: Sweep | None, *, boxes: bool) -> None:
    """Raise UserError for a sweep of LOST without true boxes."""
    if sweep is not None and not boxes and setting.method == "lost":
        raise UserError("a sweep of LOST compares settings by CorLoc, which needs true boxes; name them with --boxes.")


def read_settings(
    method: str = "lost",
    *,
    feature: str | None = None,
    layer: str | None = None,
    normalize: str | None = None,
    bias: str | None = None,
    sweep: bool = False,
) -> tuple[Setting, Sweep | None]:
    """Turn words of the command line into one setting, or into a grid where `sweep` is set and commas list values.

    The first value of each list is the chosen setting, whose boxes are kept.

    Raises:
        UserError: for a word that is not known, several values without `sweep`, or a bias for a method without one.
    """
    way = _known("method", method, METHODS)
    if way != "lost" and bias is not None:
        raise UserError(f"{method} has no Gram matrix to add a bias to; leave --bias out.")
    words: dict[str, list[str]] = {}
    for flag, text in (("feature", feature), ("layer", layer), ("normalize", normalize), ("bias", bias)):
        words[flag] = [] if text is None else [word.strip() for word in text.split(",")]
        if len(words[flag]) > 1 and not sweep:
            raise UserError(f"--{flag} {text} names several values; name one, or add --sweep to compare them.")
    features: tuple[Feature, ...] = tuple(_known("feature", word, FEATURES) for word in words["feature"])
    normals: tuple[Normalize, ...] = tuple(_known("normalisation", word, NORMALIZE) for word in words["normalize"])
    biases = tuple(Bias.read(word) for word in words["bias"])
    try:
        layers = tuple(int(word) for word in words["layer"])
    except ValueError:
        raise UserError(f"--layer {layer} names no block; give a number such as 7, or several as 5,8,11.") from None
    chosen = Setting(
        method=way,
        feature=features[0] if features else "k",
        layer=layers[0] if layers else -1,
        normalize=normals[0] if normals else None,
        bias=biases[0] if biases else Bias(None),
        open=way != "lost" and not (sweep or features or layers or normals),
    )
    if not sweep:
        return chosen, None
    grid = Sweep()
    return chosen, Sweep(
        features=features or grid.features,
        layers=layers or None,
        normalize=normals or grid.normalize,
        biases=biases or grid.biases,
    )
