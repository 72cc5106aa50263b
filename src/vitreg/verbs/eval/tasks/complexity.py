"""`complexity`: the cost of registers in a model of this shape, and how resampling distorts its position table's gradient."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitreg.analysis.complexity import Architecture, percent_more
from vitreg.analysis.stripes import column_profile, stripes, table_gradient
from vitreg.backbones import Backbone
from vitreg.backbones.weights.into_module import vit_of
from vitreg.errors import UserError
from vitreg.models.shape import Shape, shape_of_tensors
from vitreg.models.vit import VisionTransformer
from vitreg.passes.bench import Bench
from vitreg.passes.view import fitted, images_at_once
from vitreg.results import Cell, Table
from vitreg.verbs.eval.settings.dense import ComplexitySettings
from vitreg.verbs.eval.task import Outcome

_WARM = 2  # untimed rounds
_SETTINGS = {  # resampling: title -> (antialias, offset)
    "antialias off, offset 0.1": (False, 0.1),
    "antialias off, by size": (False, 0.0),
    "antialias on, offset 0.1": (True, 0.1),
    "antialias on, by size": (True, 0.0),
}


@dataclass(frozen=True, kw_only=True)
class Complexity(ComplexitySettings):
    """`ComplexitySettings`, and how they are measured."""

    def run(self, bench: Bench) -> Outcome:
        """Count. Raises UserError for a model that is not a plain ViT, or an empty list of registers."""
        self.check()
        if bench.data:
            raise UserError(f"complexity counts and looks at no images; leave {bench.data} out.")
        backbone = bench.backbone
        anatomy = backbone.anatomy
        shape = _shape(backbone)
        known = None if backbone.preprocess is None else backbone.preprocess.size
        size = fitted(bench.size or known or anatomy.native_size, backbone, bench.policy)
        layout, covered = backbone.layout(size), backbone.covered(size)
        stored = anatomy.position_table()
        architecture = Architecture(
            width=shape.width,
            depth=backbone.depth,
            hidden=shape.hidden,
            gated=shape.mlp == "swiglu",
            patch=anatomy.patch,
            table=None if stored is None else stored[1],
            cls_tokens=len(layout.cls) + len(layout.other),
            layer_scale=shape.layer_scale,
            pre_norm=shape.pre_norm,
        )
        numbers = sorted({0, *self.registers})
        rows, metrics = self._costs(bench, architecture, shape, covered, numbers)
        own = len(layout.registers)
        shown, spread = _striped(layout.grid, anatomy.patch, self.local_size)
        headline = 4 if 4 in numbers else numbers[-1]
        return Outcome(
            headline=f"percent_more_macs_{headline}",
            metrics=metrics | spread,
            units={"gmacs": "GMACs", "parameters": ""},
            controls={},
            counts={},
            larger_is_better=False,
            protocol={
                "size": list(size),
                "patches": layout.num_patches,
                "counted": "multiply-adds of linear layers, attention and patch projection; no norms, softmax, classifier",
                "counter": "torch.utils.flop_counter, attention as plain products, half its FLOPs",
                "local_crop": self.local_size,
                "gradient": "ones at every position of the table resampled for the local crop, bicubic",
                "timed_rounds": self.rounds if self.measure else 0,
            },
            tables=(rows, _as_loaded(backbone, architecture, size, own), *shown),
            notes=("A count has no control; the closed form and PyTorch's counter stand beside each other instead.",),
        )

    def _costs(
        self, bench: Bench, architecture: Architecture, shape: Shape, size: tuple[int, int], numbers: list[int]
    ) -> tuple[Table, dict[str, float]]:
        networks = {number: _build(bench.backbone, architecture, shape, number) for number in numbers}
        counted = {number: _count(network, size) for number, network in networks.items()}
        macs = {number: architecture.macs(size, number) for number in numbers}
        columns = [
            *("registers", "tokens", "parameters", "% more parameters", "GMACs", "% more GMACs"),
            *("GMACs counted", "% more counted"),
        ]
        rows: list[list[Cell]] = [
            [
                number,
                architecture.tokens(size, number),
                architecture.parameters(number),
                round(percent_more(architecture.parameters(number), architecture.parameters(0)), 5),
                round(macs[number] / 1e9, 4),
                round(percent_more(macs[number], macs[0]), 3),
                round(counted[number] / 1e9, 4),
                round(percent_more(counted[number], counted[0]), 3),
            ]
            for number in numbers
        ]
        metrics: dict[str, float] = {"gmacs": macs[0] / 1e9, "parameters": float(architecture.parameters(0))}
        for number in numbers[1:]:
            metrics[f"percent_more_macs_{number}"] = percent_more(macs[number], macs[0])
        metrics["percent_disagreement"] = max(100 * abs(counted[n] / macs[n] - 1) for n in numbers)
        if self.measure:
            columns.append("% more time")
            more = _times(bench, networks, size, self.rounds)
            for row, number in zip(rows, numbers, strict=True):
                row.append(round(more[number], 2))
            metrics |= {f"percent_more_time_{number}": more[number] for number in numbers[1:]}
        title = f"Cost of registers at {size[0]}x{size[1]} pixels, one image, forward"
        return Table(title=title, columns=columns, rows=rows), metrics


def _shape(backbone: Backbone) -> Shape:
    if backbone.anatomy.heads is None:
        raise UserError(f"{backbone.spec} has no attention, and the cost of registers is counted for attention only.")
    shape = shape_of_tensors(vit_of(backbone.module, backbone.spec), heads=backbone.anatomy.heads)
    if shape.mlp == "other" or shape.mlp_ratio is None:
        raise UserError(
            f"the feed-forward networks of {backbone.spec} are neither plain nor gated as in DINOv2; "
            "their cost is not counted here."
        )
    return shape


def _build(backbone: Backbone, architecture: Architecture, shape: Shape, registers: int) -> VisionTransformer:
    """Build our network of this shape on the meta device; tokens beyond one CLS (DeiT's distillation) are registers."""
    assert shape.mlp_ratio is not None
    assert shape.mlp != "other"
    assert backbone.anatomy.heads is not None  # checked by _shape
    rows, cols = architecture.table or (1, 1)
    with torch.device("meta"):
        return VisionTransformer(
            image_size=(rows * architecture.patch[0], cols * architecture.patch[1]),
            patch=architecture.patch,
            width=shape.width,
            depth=architecture.depth,
            heads=backbone.anatomy.heads,
            registers=registers + max(0, architecture.cls_tokens - 1),
            mlp=shape.mlp,
            mlp_ratio=shape.mlp_ratio,
            layer_scale=1.0 if shape.layer_scale else None,
            cls_token=architecture.cls_tokens > 0,
            pre_norm=shape.pre_norm,
        )


def _count(network: VisionTransformer, size: tuple[int, int]) -> int:
    """Count the multiply-adds of one image with PyTorch's counter, on meta tensors."""
    with _counting() as counter:
        network.forward_features(torch.empty(1, 3, *size, device="meta"))
    return counter.get_total_flops() // 2


@contextlib.contextmanager
def _counting() -> Generator[FlopCounterMode, None, None]:
    """Count FLOPs with attention as plain products, because the counter does not know every fused kernel."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _as_loaded(backbone: Backbone, architecture: Architecture, size: tuple[int, int], registers: int) -> Table:
    """Compare the closed form with one counted forward pass of the loaded model."""
    images = torch.zeros(1, 3, *size, device=backbone.device, dtype=backbone.dtype)
    with _counting() as counter:
        backbone.anatomy.encode(images)  # the library's forward, because the counter does not know our faster products
    held = sum(parameter.numel() for parameter in backbone.anatomy.tower.parameters())
    rows: list[list[Cell]] = [
        [
            "closed form",
            architecture.parameters(registers),
            round(architecture.macs(backbone.covered(size), registers) / 1e9, 4),
        ],
        ["counted", held, round(counter.get_total_flops() / 2e9, 4)],
    ]
    title = f"The model as it is, with {registers} registers (its parameters may include a classifier)"
    return Table(title=title, columns=["how", "parameters", "GMACs"], rows=rows)


def _times(
    bench: Bench, networks: dict[int, VisionTransformer], size: tuple[int, int], rounds: int
) -> dict[int, float]:
    """Return the extra time of a forward pass over one without registers, in percent, median over rounds.

    All networks share all weights except the registers. Each round runs all of them and ratios are taken within a round,
    so a drift in the machine's speed cancels.
    """
    device, dtype = bench.backbone.device, bench.backbone.dtype
    fullest = networks[max(networks)]
    generator = torch.Generator().manual_seed(bench.seed)
    shared = {
        name: (0.02 * torch.randn(value.shape, generator=generator)).to(device, dtype)
        for name, value in fullest.state_dict().items()
    }
    for network in networks.values():
        own = {name: shared[name] for name in network.state_dict()}
        if "reg_token" in own:
            own["reg_token"] = shared["reg_token"][:, : network.num_registers]
        network.load_state_dict(own, assign=True)
    batch = bench.batch_size or images_at_once(bench.backbone, size)
    images = torch.randn(batch, 3, *size, generator=generator).to(device, dtype)
    ratios: dict[int, list[float]] = {number: [] for number in networks}
    with torch.inference_mode():
        for round_number in range(_WARM + rounds):
            order = list(networks) if round_number % 2 else list(networks)[::-1]
            seconds = {number: _seconds(networks[number], images) for number in order}
            if round_number >= _WARM and seconds[0] > 0:
                for number, taken in seconds.items():
                    ratios[number].append(taken / seconds[0])
    if not all(ratios.values()):
        raise UserError("the clock of this machine stands still, so nothing can be timed.")
    return {number: 100 * (statistics.median(found) - 1) for number, found in ratios.items()}


def _seconds(network: VisionTransformer, images: Tensor) -> float:
    _wait(images.device)
    start = time.perf_counter()
    network.forward_features(images)
    _wait(images.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _striped(source: tuple[int, int], patch: tuple[int, int], local_size: int) -> tuple[list[Table], dict[str, float]]:
    """Compare four ways to resample a table for small crops: statistics, and the profile over columns."""
    target = (max(1, round(local_size / patch[0])), max(1, round(local_size / patch[1])))
    statistic: list[list[Cell]] = []
    profiles: list[list[Cell]] = []
    metrics: dict[str, float] = {}
    for title, (antialias, offset) in _SETTINGS.items():
        found = stripes(table_gradient(source, target, antialias=antialias, offset=offset))
        statistic.append([title, *(round(value, 4) for value in (found.minimum, found.maximum, found.mean, found.std))])
        profile = column_profile(source[1], target[1], antialias=antialias, offset=offset)
        profiles.append([title, *(round(value, 4) for value in profile.tolist())])
        if not offset:
            metrics[f"gradient_spread_{'with' if antialias else 'without'}_antialias"] = 100 * found.std / found.mean
    grids = f"{source[0]}x{source[1]} to {target[0]}x{target[1]}"
    return [
        Table(
            title=f"Gradient of the position table, {grids}",
            columns=["resampling", "min", "max", "mean", "std"],
            rows=statistic,
        ),
        Table(
            title=f"What each column of it receives, {grids} (on square grids the map is the outer product of a row with itself)",
            columns=["resampling", *(str(column) for column in range(source[1]))],
            rows=profiles,
        ),
    ], metrics
