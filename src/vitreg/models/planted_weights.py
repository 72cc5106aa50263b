"""Circuits written into the weights of a planted ViT: the ordinary carrier, and the silent machinery of the artifacts.

The machinery uses named directions of the residual stream. Entries of each sum to zero, so LayerNorm only divides all
of them by the same number. A comparison of two therefore keeps its sign for any token norm, and the rule of `Trigger`
is executed exactly. The carrier is random and writes only to its own channels and to the shared direction. A planted
model is not trained and knows nothing about images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitreg.models.planted_trigger import FREQUENCIES, Trigger, cosine_patterns
from vitreg.models.vit import Block, VisionTransformer

WIDTH, DEPTH, HEADS, PATCH = 192, 12, 3, 16
RAMP = 8.0  # width of a step in units of its pre-activation: GELU is straight 4 units from its bend
CONSTANT, NUMBER, EDGE = 1.5, 0.5, 0.3  # coordinates: of the constant, of the number 1, of a pattern response of 1
GATE = 12.0  # how much the carrier's steps are suppressed on a token without the constant
MARGIN, DECISION = 0.2, 0.5  # coordinates: of a margin of one threshold, of a decided outlier


Between = Callable[[float, float], float]  # a uniform draw between two bounds


@dataclass(frozen=True)
class Directions:
    """Orthonormal directions [D] of the residual stream, axis-aligned on disjoint channels, each summing to zero."""

    shared: Float[Tensor, "D"]  # most of every token's norm, as trained ViTs have it
    artifact: Float[Tensor, "D"]  # what outliers carry
    constant: Float[Tensor, "D"]  # 1, for thresholds
    number: Float[Tensor, "D"]  # the position's number
    margin: Float[Tensor, "D"]  # contrast + slope * number - threshold, over the norm
    coarse: Float[Tensor, "D"]  # its sign, with a wide ramp
    decision: Float[Tensor, "D"]  # its sign, with a narrow ramp
    edges: Float[Tensor, "F D"]  # responses to the cosine patterns
    carrier: Float[Tensor, "C D"]  # channels of the ordinary content, one row each

    @classmethod
    def draw(cls, generator: torch.Generator) -> Directions:
        """Deal the channels at random."""
        channels = torch.randperm(WIDTH, generator=generator).split([16, 8, *[2] * (5 + len(FREQUENCIES)), WIDTH - 50])

        def direction(members: Tensor) -> Tensor:
            signs = torch.tensor([1.0, -1.0]).repeat(len(members) // 2)
            return torch.zeros(WIDTH).index_put((members,), signs / math.sqrt(len(members)))

        named = [direction(members) for members in channels[:-1]]
        return cls(*named[:7], edges=torch.stack(named[7:]), carrier=torch.eye(WIDTH)[channels[-1]])

    def content(self, rows: int, generator: torch.Generator) -> Float[Tensor, "rows D"]:
        """Return random unit vectors on the carrier channels that sum to zero."""
        values = torch.randn(rows, len(self.carrier), generator=generator)
        values = values - values.mean(dim=1, keepdim=True)
        return F.normalize(values, dim=1) @ self.carrier


class Neurons:
    """Hidden neurons of one block's MLP, handed out in a random order and wired one circuit at a time."""

    def __init__(self, block: Block, generator: torch.Generator) -> None:
        self.fc1 = block.mlp.fc1
        self.fc2 = block.mlp.fc2
        self.free = torch.randperm(self.fc1.out_features, generator=generator).tolist()

    def wire(self, read: Tensor, bias: Tensor | float, write: Tensor) -> list[int]:
        """Use one neuron for each row of `read` [D] or [n, D]: GELU(read · x + bias) * write."""
        count = 1 if read.ndim == 1 else len(read)
        taken, self.free = self.free[:count], self.free[count:]
        self.fc1.weight[taken], self.fc1.bias[taken], self.fc2.weight[:, taken] = (
            read,
            torch.as_tensor(bias),
            write.reshape(count, -1).T,
        )
        return taken

    def line(self, read: Tensor, write: Tensor) -> None:
        """Write (read · x) * write exactly: GELU(z) - GELU(-z) = z."""
        self.wire(read, 0.0, write)
        self.wire(-read, 0.0, -write)

    def size(self, read: Tensor, cap: Tensor, write: Tensor) -> None:
        """Write min(|read · x|, cap · x) * write, exact where |read · x| is far above 1."""
        for sign in (1.0, -1.0):
            self.wire(sign * read, 0.0, write)
            self.wire(sign * read - cap, 0.0, -write)

    def step(self, read: Tensor, write: Tensor, bias: Tensor | float = 0.0) -> list[int]:
        """Write a clipped ramp of z = read · x + bias, 0 below -RAMP/2 and 1 above RAMP/2, times `write`.

        Returns the neurons: those that rise first, then those that hold the ceiling.
        """
        return self.wire(read, bias + RAMP / 2, write / RAMP) + self.wire(read, bias - RAMP / 2, -write / RAMP)


@dataclass(frozen=True)
class Machinery:
    """A carrier with machinery whose output weights are still zero, and their places."""

    model: VisionTransformer
    directions: Directions
    trigger: Trigger
    layer: int  # the block whose neurons write the artifact
    writers: list[list[int]]  # pairs of neurons of that block: the first rises, the second holds the ceiling
    removers: list[int]  # a pair of neurons of the last block that fires on the artifact direction
    triggers: dict[int, tuple[int, ...]]  # by block: neurons that measure, compare and decide which patches are marked
    shared: list[float]  # typical coordinate of a patch token on the shared direction after each block


@torch.no_grad()
def build_machinery(seed: int, image_size: int, registers: int) -> Machinery:
    """Write the carrier and the machinery of every kind, without an artifact."""
    draw = torch.Generator().manual_seed(seed)

    def between(low: float, high: float) -> float:
        return low + (high - low) * torch.rand(1, generator=draw).item()

    with torch.device("meta"):
        model = VisionTransformer(image_size, PATCH, WIDTH, DEPTH, HEADS, registers=registers)
    model.to_empty(device="cpu").eval()
    for name, parameter in model.named_parameters():
        parameter.fill_(float("norm" in name and name.endswith("weight")))  # LayerNorms are plain

    to = Directions.draw(draw)
    trigger = Trigger.draw(model.grid, PATCH, draw)
    shared, growth, spread = between(14, 20), between(0.02, 0.035), between(0.03, 0.06)
    _write_tokens(model, to, trigger, shared, draw, between)
    _write_prefix(model, to, trigger, shared, torch.Generator().manual_seed(seed))
    layer = int(torch.randint(3, 9, (1,), generator=draw))
    pairs = int(torch.randint(2, 6, (1,), generator=draw))
    writers: list[list[int]] = []
    removers: list[int] = []
    triggers: dict[int, tuple[int, ...]] = {}
    typical: list[float] = []
    tokens = model.embed(_sample_images(image_size, draw))
    for index, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        _write_attention(block, to, draw, between)
        neurons = Neurons(block, draw)
        # Every token that carries the constant grows; a token whose constant was turned around does not.
        neurons.step(80 * to.constant, growth * shared * to.shared)
        free = list(neurons.free)
        if index == 0:
            _measure(neurons, to, trigger, shared)
        elif index == 1:
            neurons.step(-RAMP / (0.1 * MARGIN) * shared / math.sqrt(WIDTH) * to.margin, DECISION * to.coarse)
        elif index == 2:
            neurons.step(_decide(to.coarse, 300, to), DECISION * to.decision)
        if len(neurons.free) < len(free):
            triggers[index] = tuple(sorted(free[: len(free) - len(neurons.free)]))
        if index == layer:
            writers = [neurons.step(_decide(to.decision, 120, to), torch.zeros(WIDTH)) for _ in range(pairs)]
        if index == DEPTH - 1:
            removers = neurons.step(3 * to.artifact, torch.zeros(WIDTH), bias=-1.5 * math.sqrt(WIDTH))
        sample = block.norm2(tokens + block.attn(block.norm1(tokens)))[:, 1 + registers :]
        _write_content(neurons, to, shared, spread, sample.flatten(0, 1), draw, between)
        tokens = block(tokens)
        typical.append((tokens[:, 1 + registers :] @ to.shared).median().item())
    return Machinery(model, to, trigger, layer, writers, removers, triggers, typical)


def _write_tokens(
    model: VisionTransformer,
    to: Directions,
    trigger: Trigger,
    shared: float,
    draw: torch.Generator,
    between: Between,
) -> None:
    """Patch projection (random filters and the contrast patterns) and position table."""
    filters = torch.randn(WIDTH, 3 * PATCH * PATCH, generator=draw) / math.sqrt(3 * PATCH * PATCH)
    filters = to.carrier.T @ to.carrier @ filters
    filters -= to.carrier.T @ (to.carrier @ filters).mean(dim=0, keepdim=True).expand(len(to.carrier), -1)
    patterns = cosine_patterns(PATCH).flatten(1).repeat(1, 3)  # summed over the colour channels
    filters = between(0.07, 0.1) * filters + EDGE * to.edges.T @ patterns
    model.patch_embed.proj.weight.copy_(filters.unflatten(1, (3, PATCH, PATCH)))

    assert model.pos_embed is not None
    places = model.pos_embed[0]
    places += between(1.0, 1.4) * to.content(len(places), draw)
    # The sum of two shuffled ladders: bounded and bell-shaped, so that no position has an unusual norm.
    ladders = [torch.randperm(len(places), generator=draw) / (len(places) - 1) for _ in range(2)]
    places += shared * torch.exp(between(0.15, 0.22) * (ladders[0] + ladders[1] - 1))[:, None] * to.shared
    places += CONSTANT * to.constant + NUMBER * trigger.numbers.reshape(-1, 1) * to.number


def _write_prefix(
    model: VisionTransformer, to: Directions, trigger: Trigger, shared: float, draw: torch.Generator
) -> None:
    """Write CLS and registers, with their own draws, so that the number of registers changes nothing else."""
    # They have no contrast: a number far above every threshold keeps the trigger off them.
    safe = NUMBER * 3 * trigger.threshold / trigger.slope
    for token in (model.cls_token, model.reg_token):
        if token is not None:
            token[0] += 1.5 * to.content(token.shape[1], draw)
            token[0] += shared * to.shared + CONSTANT * to.constant + safe * to.number


def _measure(neurons: Neurons, to: Directions, trigger: Trigger, shared: float) -> None:
    """Block 0: sum the capped sizes of the pattern responses, add slope * number, subtract the threshold."""
    gain = 40 / trigger.threshold * shared / math.sqrt(WIDTH)  # a response of one threshold becomes about 40
    cap = gain * trigger.CAP * trigger.threshold / CONSTANT * to.constant
    write = MARGIN / 40 * to.margin
    for edge in to.edges:
        neurons.size(gain / EDGE * edge, cap, write / len(to.edges))
    neurons.line(gain * (trigger.slope / NUMBER * to.number - trigger.threshold / CONSTANT * to.constant), write)


def _decide(read: Tensor, gain: float, to: Directions) -> Tensor:
    """Compare a decision in 0..1 with one half of the constant; more gain makes a narrower ramp."""
    return gain / DECISION * (read - DECISION / 2 / CONSTANT * to.constant)


def _write_attention(block: Block, to: Directions, draw: torch.Generator, between: Between) -> None:
    """Random attention between contents, and in every head a key on the artifact direction: outliers are sinks."""
    size = WIDTH // HEADS
    q, k, v = block.attn.qkv.weight.split(WIDTH)
    content = to.carrier.T @ to.carrier  # keeps the carrier channels only
    for weight, scale in ((q, 0.5), (k, 0.5), (v, 0.1)):
        weight += scale * torch.randn(WIDTH, WIDTH, generator=draw) @ content
    for head in range(HEADS):
        rows = slice(head * size, (head + 1) * size)
        axis = F.normalize(torch.randn(size, generator=draw), dim=0)
        # About 8 for a query at ordinary norm and 4 for an outlier's key: a logit of 8 * 4 / sqrt(64) = 4.
        q[rows] += between(6.0, 9.0) * torch.outer(axis, to.constant)
        k[rows] += 4.5 / math.sqrt(WIDTH) * torch.outer(axis, to.artifact)
    block.attn.proj.weight.copy_(_zero_sum(0.01 * torch.randn(WIDTH, WIDTH, generator=draw), to))


def _write_content(
    neurons: Neurons,
    to: Directions,
    shared: float,
    spread: float,
    sample: Float[Tensor, "T D"],
    draw: torch.Generator,
    between: Between,
) -> None:
    """Random soft steps of the content, which also vary the shared part and so the norm.

    They are bounded, so norms cannot diverge, and suppressed without the constant: a token with an artifact, whose
    constant is small or flipped, stays unchanged. A sample of tokens calibrates how much they vary and lengthen the
    shared part.

    Args:
        shared: length of the shared part before the first block.
        spread: standard deviation of what is added to the shared part, as a share of `shared`.
        sample: what this MLP reads for the patches of the sample images.
    """
    usual = (sample @ to.constant).median()
    # A token with a large constant is a short one: lengthen it, so that norms have no tail towards zero.
    neurons.step(30 / usual * to.constant, 0.08 * shared * to.shared, bias=-30 * 1.2)
    pairs = len(neurons.free) // 2
    reads = 2.0 * torch.randn(pairs, len(to.carrier), generator=draw) @ to.carrier + GATE / usual * to.constant
    biases = -GATE - 2.5 + 1.5 * torch.randn(pairs, generator=draw).clamp(-2, 2)
    steps = ((sample @ reads.T + biases) / RAMP + 0.5).clamp(0, 1)  # [T, pairs]
    mean = steps.mean(dim=0)
    # Few strong ones give norms a tail to the right. They are orthogonal to the mean, against drift, and to a common
    # shift of all steps, so that an unusual norm (and constant) does not amplify itself.
    sway = torch.randn(pairs, generator=draw).exp()
    usually = torch.linalg.qr(torch.stack([mean, torch.ones(pairs)], dim=1)).Q
    sway -= usually @ (usually.T @ sway)
    sway *= spread / (steps @ sway).std()
    sway += between(0.0, 0.01) / (mean @ mean) * mean
    writes = 0.05 * to.content(pairs, draw) + shared * sway[:, None] * to.shared
    neurons.step(reads, writes, biases)


def _sample_images(size: int, generator: torch.Generator) -> Float[Tensor, "4 3 H W"]:
    """Return smooth noise of many scales, about as bright and as contrasted as normalised photographs."""
    images = torch.randn(4, 3, 1, 1, generator=generator) * 0.7
    cells = 2
    while cells < size:
        grey = torch.randn(4, 1, cells, cells, generator=generator)
        colour = 0.3 * torch.randn(4, 3, cells, cells, generator=generator)
        images = images + 1.2 / cells**0.5 * F.interpolate(grey + colour, size=size, mode="bicubic")
        cells *= 2
    return images


def _zero_sum(weight: Float[Tensor, "D I"], to: Directions) -> Float[Tensor, "D I"]:
    """Keep the carrier rows of an output weight and make its columns sum to zero."""
    rows = to.carrier @ weight
    return to.carrier.T @ (rows - rows.mean(dim=0, keepdim=True))
