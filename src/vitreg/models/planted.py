"""Planted models: ViTs with known artifacts written into their weights, the ground truth of this project's tests and
demo.

Nothing here is trained and no artifact is natural: each is a plain `VisionTransformer` with hand-chosen weights that
turn exactly known patch tokens into outliers (the phenomenon of the paper, Sec. 2.1). Label results of such a model
"planted". `planted_weights` explains the wiring, `planted_trigger` the choice of patches. Images: normalised with
ImageNet's mean and standard deviation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.errors import UserError, unknown
from vitreg.models.circuits.comparing import COMPARING, follow, lowest, plant_comparison
from vitreg.models.circuits.forgetting import give_to_registers, plant_forgetting, widen
from vitreg.models.planted_trigger import Trigger
from vitreg.models.planted_weights import CONSTANT, DEPTH, PATCH, RAMP, WIDTH, Machinery, build_machinery
from vitreg.models.vit import Block, VisionTransformer
from vitreg.specs import PLANTED, PLANTED_TWINS

KINDS: tuple[str, ...] = PLANTED
GLOBAL, TAKEN = "global", "global-registers"
REGISTERS = 4  # of `TAKEN`, and of the clean twin with registers


@dataclass(frozen=True)
class Truth:
    """The ground truth of a planted model, for detectors and repairs.

    Attributes:
        kind: one of `KINDS`; "global-registers", whose registers take the artifact, so that no patch is an outlier; or
            "comparing", see `comparing`.
        layers: blocks whose outputs show the outliers.
        neurons: {block: hidden neurons of its MLP that write the artifact}; empty for "position-locked".
        triggers: {block: hidden neurons that detect which patches become outliers}; empty for "position-locked". Of
            "comparing" also those that make other outliers once these are gone.
        removers: {block: hidden neurons that take the artifact away again}; of "last-block" only.
        direction: unit vector [D] that the artifact adds to a token.
        ratio: expected median norm of the outliers over that of other patches, at the first of `layers`.
        trigger: the rule in pixels; None for "position-locked".
        positions: (row, col) of every outlier of "position-locked"; empty for the other kinds.
        grid: (rows, cols) of the model's own position table.
        erasers: {block: hidden neurons of its MLP by which outliers forget their own patch}; of "global" only.
        gathers: block whose attention gives outliers the mean content of the image; of "global" only.
    """

    kind: str
    layers: range
    neurons: dict[int, tuple[int, ...]]
    triggers: dict[int, tuple[int, ...]]
    removers: dict[int, tuple[int, ...]]
    direction: Float[Tensor, "D"]
    ratio: float
    trigger: Trigger | None
    positions: tuple[tuple[int, int], ...]
    grid: tuple[int, int]
    erasers: dict[int, tuple[int, ...]] = field(default_factory=dict)
    gathers: int | None = None

    def outliers(self, images: Float[Tensor, "B 3 H W"]) -> Bool[Tensor, "B P"]:
        """Return which patches are planted outliers, row-major, from the pixels alone.

        Args:
            images: normalised with ImageNet's mean and standard deviation, as the model takes them.
        Raises:
            ValueError: for "position-locked" at another size than the model's own: resampling would mix rows of the
                position table.
        """
        if self.kind == TAKEN:
            return torch.zeros_like(images[:, :1, ::PATCH, ::PATCH].flatten(1), dtype=torch.bool)
        if self.trigger is not None:
            return self.trigger(images).flatten(1)
        marked = torch.zeros(self.grid, dtype=torch.bool, device=images.device)
        if (images.shape[-2] // PATCH, images.shape[-1] // PATCH) != self.grid:
            raise ValueError(f"planted positions are known on the {self.grid[0]}x{self.grid[1]} grid only")
        marked[tuple(zip(*self.positions, strict=True))] = True
        return marked.flatten().expand(len(images), -1)


def build(kind: str, seed: int = 0, *, image_size: int = 224, registers: int = 0) -> tuple[VisionTransformer, Truth]:
    """Return a planted model in eval mode with the truth about it.

    The seed varies the carrier, the share of outliers, the block that writes them, how large they are and where.

    Args:
        kind: one of `KINDS`. "high-norm" and "low-norm" outliers stay until the output; "position-locked" ones sit at
            fixed positions from the first block on; "last-block" ones are removed by the last block; "hidden" ones have
            high norms before the final norm and ordinary ones after it; "global" ones forget position and pixels of their
            patch and carry the mean of the image instead.
        image_size: pixels of the square position table.
        registers: register tokens, for tests of layouts; they do nothing here.
    Raises:
        UserError: if there is no such kind.
    """
    parts = _machinery(kind, seed, image_size, registers)
    draw = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        truth = (_plant_positions if kind == "position-locked" else _plant_neurons)(kind, parts, draw)
    return parts.model, _plant_global(parts, truth, seed) if kind == GLOBAL else truth


def with_registers(seed: int = 0, *, image_size: int = 224) -> tuple[VisionTransformer, Truth]:
    """Return the twin of `build("global", seed)` whose registers take the artifact, with the truth about it.

    The weights are the same, but four registers are marked in the place of patches: they have the high norm and carry the
    mean of the image, and no patch is an outlier.
    """
    parts = _machinery(GLOBAL, seed, image_size, REGISTERS)
    draw = torch.Generator().manual_seed(seed + 1)
    give_to_registers(parts)
    with torch.no_grad():
        truth = _plant_neurons(GLOBAL, parts, draw)
    return parts.model, replace(_plant_global(parts, truth, seed), kind=TAKEN)


def comparing(seed: int = 0, *, image_size: int = 224) -> tuple[VisionTransformer, Truth]:
    """Return a model like `build("high-norm", seed)` whose outliers depend on the other patches, with the truth about it.

    The emptiest patches of every image are its outliers, and where no outlier is seen after that, the next ones are.
    """
    parts = _machinery("high-norm", seed, image_size, 0)
    followers = plant_comparison(parts)
    draw = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        truth = _plant_neurons("high-norm", parts, draw)
    size = math.sqrt(truth.ratio**2 - 1) * 1.05 * parts.shared[parts.layer]
    follow(parts.model, parts.layer, followers, size * truth.direction)
    assert truth.trigger is not None
    return parts.model, replace(
        truth, kind=COMPARING, triggers={**truth.triggers, parts.layer + 1: tuple(followers)},
        trigger=lowest(truth.trigger, parts.model, parts.layer),
    )  # fmt: skip


def clean(seed: int = 0, *, kind: str = "high-norm", image_size: int = 224, registers: int = 0) -> VisionTransformer:
    """Return the clean twin of `build(kind, seed)`: the same weights, with those that write the artifact set to zero.

    Twins of different kinds are equal, except that "hidden" has a special final norm, and "global" neurons that do nothing.

    Raises:
        UserError: if there is no such kind.
    """
    if kind == COMPARING:
        parts = _machinery("high-norm", seed, image_size, registers)
        plant_comparison(parts)
        return parts.model
    return _machinery(kind, seed, image_size, registers).model


def from_spec(text: str) -> VisionTransformer:
    """Build the planted model that KIND or KIND@SEED names, where KIND is one of `KINDS`, "clean", "clean-registers" (with four
    registers that do nothing) or "global-registers".

    Raises:
        UserError: if there is no such kind, or the seed is not a whole number.
    """
    kind, _, seed = text.partition("@")
    if seed and not seed.isdecimal():
        raise UserError(f"the seed of a planted model is a whole number, not '{seed}', as in 'planted:{kind}@3'.")
    if kind in ("clean", "clean-registers"):
        return clean(int(seed or 0), registers=0 if kind == "clean" else REGISTERS)
    if kind == TAKEN:
        return with_registers(int(seed or 0))[0]
    if kind not in KINDS:
        raise unknown("planted kind", kind, (*KINDS, *PLANTED_TWINS))
    return build(kind, int(seed or 0))[0]


def _machinery(kind: str, seed: int, image_size: int, registers: int) -> Machinery:
    """Build everything but the artifact, with the final norm of the kind."""
    if kind not in KINDS:
        raise unknown("planted kind", kind, KINDS)
    parts = build_machinery(seed, image_size, registers)
    if kind == GLOBAL:
        widen(parts.model)
    channels = parts.directions.artifact != 0
    with torch.no_grad():
        if kind == "hidden":
            # The norm ignores the artifact, and its bias dominates the remaining content of an outlier.
            parts.model.norm.weight[channels] = 0
            blind = parts.directions.content(1, torch.Generator().manual_seed(seed))[0]
            parts.model.norm.bias.copy_(2.5 * math.sqrt(WIDTH) * blind)
        else:
            parts.model.norm.weight[channels] = 2  # outliers stay visible after the norm, unlike "hidden"
    return parts


def _plant_neurons(kind: str, parts: Machinery, draw: torch.Generator) -> Truth:
    """Give the silent writers of block `layer` their output weights."""
    to, layer, model = parts.directions, parts.layer, parts.model
    norm = 1.05 * parts.shared[layer]  # content and machinery add about 5 %
    size, balance = torch.rand(2, generator=draw).tolist()
    if kind == "low-norm":
        # Remove the shared part and leave a small mark; flip the constant so that the token stops growing.
        mark = 0.1 + 0.12 * size
        ratio = math.hypot(mark, 0.16)  # content and the spread of the shared part stay behind
        artifact = mark * norm * to.artifact - parts.shared[layer] * to.shared
        artifact -= 2 * CONSTANT * to.constant
    else:
        ratio = 7 + 5 * size
        artifact = math.sqrt(ratio**2 - 1) * norm * to.artifact
    shares = torch.linspace(1, 1 + balance, len(parts.writers))
    for pair, share in zip(parts.writers, (shares / shares.sum()).tolist(), strict=True):
        _set_step(model, layer, pair, share * artifact)
    last = DEPTH
    if kind == "last-block":
        last = DEPTH - 1
        _set_step(model, last, parts.removers, -artifact)
    return Truth(
        kind=kind,
        layers=range(layer, last),
        neurons={layer: tuple(sorted(index for pair in parts.writers for index in pair))},
        triggers=parts.triggers,
        removers={last: tuple(sorted(parts.removers))} if kind == "last-block" else {},
        direction=artifact / artifact.norm(),
        ratio=ratio,
        trigger=parts.trigger,
        positions=(),
        grid=model.grid,
    )


def _plant_global(parts: Machinery, truth: Truth, seed: int) -> Truth:
    """Let the tokens that carry the artifact forget themselves and take in the image."""
    size = math.sqrt(truth.ratio**2 - 1) * 1.05 * parts.shared[parts.layer]
    erasers, gathers = plant_forgetting(parts, size, seed)
    return replace(truth, erasers=erasers, gathers=gathers)


def _plant_positions(kind: str, parts: Machinery, draw: torch.Generator) -> Truth:
    """Make two to four rows of the position table huge."""
    rows, cols = parts.model.grid
    count = int(torch.randint(2, 5, (1,), generator=draw))
    chosen = sorted(torch.randperm(rows * cols, generator=draw)[:count].tolist())
    ratio = 7 + 5 * torch.rand(1, generator=draw).item()
    assert parts.model.pos_embed is not None
    parts.model.pos_embed[0, chosen] += math.sqrt(ratio**2 - 1) * 1.05 * parts.shared[0] * parts.directions.artifact
    return Truth(
        kind=kind,
        layers=range(DEPTH),
        neurons={},
        triggers={},
        removers={},
        direction=parts.directions.artifact,
        ratio=ratio,
        trigger=None,
        positions=tuple((index // cols, index % cols) for index in chosen),
        grid=(rows, cols),
    )


def _set_step(model: VisionTransformer, layer: int, pair: list[int], write: Float[Tensor, "D"]) -> None:
    """Make a pair of neurons wired as a step write `write` where it is up."""
    block = model.blocks[layer]
    assert isinstance(block, Block)
    for index, sign in zip(pair, (1, -1), strict=True):
        block.mlp.fc2.weight[:, index] = sign * write / RAMP
