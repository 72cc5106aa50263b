"""What repairs without training cost, as ratios measured in one run: a ViT-B/16 with random weights.

    python benchmarks/repairs.py [--rounds 7] [--images 100 500] [--write benchmarks/results]

    forward   the repaired model over the bare one, batch 8; target <= 1.05
    scan      the pass of a scan with kinds of sinks over one without; target <= 1.05. Untrained heads have no sinks; where
              every head has one, docs/verbs/scan.md says what it costs.
    fit       for each number of images, in a process of its own: one pass that scores neurons over a bare forward, target
              <= 1.5; the whole fit, with the search and the held-out check, over bare forwards of all its images, target <= 6
              for 500; and the most memory the fit takes, which must not grow with the images

Random weights have no outliers. For the fit, one neuron of block 6 gets weights that write some. Forwards alternate in
one process, in processor time of one thread, which a busy machine hardly changes; a ratio is the median of those of
neighbours. Prepared images lie in a mapped file, whose pages the system may take back, so memory is that of the process
itself (RssAnon), read twenty times a second.

How many minutes it will take is printed first: about half an hour where an image takes 0.4 seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from vitreg.backbones import Backbone
from vitreg.data.views.transforms import IMAGENET
from vitreg.machine.runtime import choose_device, provenance
from vitreg.repair.fitting import fit_subject, subject_of
from vitreg.repair.methods import attention_bias, method_named, test_time
from vitreg.repair.neurons.scores import Neuron, candidates, scores
from vitreg.repair.settings import FitOptions, TestTimeSettings
from vitreg.repair.subject import Part
from vitreg.verbs.scan.measure import Measure

BATCH, NEURONS, BLOCKS = 8, 48, range(3, 11)  # as many neurons as published for DINOv2-L, over eight blocks
PARTS: tuple[Part, ...] = ("fit", "tune", "held_out")
SCORED = 8  # batches on which the pass that scores is timed
FORWARDS = 4.5  # of every image, for a fit and what it is compared with; with few images the search takes more


def seconds(work: Callable[[], object]) -> float:
    """Processor time of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def ratios(bare: Callable[[], object], repaired: Callable[[], object], rounds: int) -> list[float]:
    """Run both in turn, each first in every second round."""
    found = []
    for number in range(rounds + 1):
        order = (bare, repaired) if number % 2 else (repaired, bare)
        times = {work: seconds(work) for work in order}
        found.append(times[repaired] / times[bare])
    return found[1:]  # the first round warms up


def repaired_models(backbone: Backbone) -> dict[str, Backbone]:
    """The model with neurons drawn by lot: which ones costs the same."""
    draw = torch.Generator().manual_seed(0)
    units = torch.randperm(3072, generator=draw)[:NEURONS].tolist()
    order: list[Neuron] = [(BLOCKS[index % len(BLOCKS)], unit) for index, unit in enumerate(units)]
    keys = {
        block: (torch.randn(12, 1, 64, generator=draw), torch.randn(12, 1, 64, generator=draw)) for block in range(12)
    }
    return {
        "test-time": test_time.repaired(backbone, test_time.fitted(order, torch.zeros(1, 768))),
        "attention-bias": backbone.edited(attention_bias.edits(attention_bias.fitted(order, keys)), "attention-bias"),
    }


def forwards(backbone: Backbone, images: Tensor, rounds: int) -> dict[str, dict[str, float]]:
    """The repaired model over the bare one."""
    result = {}
    for name, model in repaired_models(backbone).items():
        found = ratios(lambda: backbone(images), lambda m=model: m(images), rounds)
        result[name] = {"ratio": median(found), "smallest": min(found), "largest": max(found)}
    return result


@torch.no_grad()
def write_outliers(module: nn.Module) -> None:
    """Neuron 7 of block 6 fires on a few patches, far above 0, and writes a large vector."""
    mlp = module.get_submodule("blocks.6.mlp")
    assert isinstance(mlp.fc1, nn.Linear)
    assert isinstance(mlp.fc2, nn.Linear)
    mlp.fc1.weight[7] *= 20 / mlp.fc1.weight[7].norm()
    mlp.fc1.bias[7] = -42.0
    mlp.fc2.weight[:, 7] = torch.randn(768)


class WithoutSinks(Measure):
    """The pass of a scan as it would be without kinds of sinks."""

    def __init__(self, backbone: Backbone, size: tuple[int, int]) -> None:
        super().__init__(backbone, size)
        self._like: tuple[Tensor, Tensor, Tensor] | None = None
        self(torch.arange(2), ("", ""), torch.zeros(2, 3, *size))  # finds the shapes
        self.capture = replace(self.capture, read=None)

    def _sinks(self, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
        if self._like is None:
            self._like = super()._sinks(*given)
        return self._like


def scanning(backbone: Backbone, images: Tensor, rounds: int) -> dict[str, float]:
    """The pass of a scan with kinds of sinks over one without."""
    size = (images.shape[-2], images.shape[-1])
    both, without = Measure(backbone, size), WithoutSinks(backbone, size)
    numbers, names = torch.arange(len(images)), tuple(map(str, range(len(images))))
    found = ratios(lambda: without(numbers, names, images), lambda: both(numbers, names, images), rounds)
    return {"ratio": median(found), "smallest": min(found), "largest": max(found)}


@contextmanager
def watched() -> Generator[list[int], None, None]:
    """Yield a list that holds the most memory this process has had since, in MiB, once the block ends."""
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while True:
            line = next(each for each in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in each)
            peak[0] = max(peak[0], int(line.split()[1]) // 1024)
            if ended.wait(0.05):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def fitting(backbone: Backbone, folder: Path) -> dict[str, float]:
    """Scoring and the whole fit, over bare forwards, and its memory."""
    count = len(list(folder.iterdir()))
    with subject_of(backbone, folder, FitOptions(limit=count, batch_size=BATCH)) as subject:
        outliers = subject.outliers
        blocks = candidates(outliers, backbone.depth)

        def forward() -> None:
            for pixels in islice(subject.batches(), SCORED):
                backbone(pixels)

        def bare() -> None:
            for part in PARTS:
                for pixels in subject.batches(part):
                    backbone(pixels)

        def score() -> None:
            scores(backbone, islice(subject.batches(), SCORED), outliers, blocks, "contrast")

        scoring = ratios(forward, score, 2)
        subject.__dict__.pop("outliers")  # looked for anew: that is a part of the fit
        with watched() as peak:
            whole = seconds(lambda: fit_subject(subject, method_named("test-time"), TestTimeSettings()))
        return {
            "images": len(subject.images), "scoring": median(scoring), "blocks scored": len(blocks),
            "fit": whole / seconds(bare), "peak MiB": peak[0],
        }  # fmt: skip


def in_a_process(count: int) -> dict[str, float]:
    """Fit to drawn images in a new process, whose memory holds nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        draw = np.random.default_rng(0)
        for number in range(count):
            pixels = draw.integers(0, 256, (224, 224, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(folder) / f"{number:04}.png", compress_level=1)
        words = [sys.executable, __file__, "--folder", folder]
        return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


def model() -> Backbone:
    """A ViT-B/16 of one seed, on one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return Backbone(
        timm.create_model("vit_base_patch16_224", pretrained=False, num_classes=0).eval(), preprocess=IMAGENET
    )


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, nargs="*", default=[100, 500])
    parser.add_argument("--write", type=Path)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # fit to these images only
    options = parser.parse_args()
    started, cpu, backbone = datetime.now(UTC), choose_device("cpu"), model()
    if options.folder:
        write_outliers(backbone.original)
        print(json.dumps(fitting(backbone, options.folder)))
        return
    images = torch.randn(BATCH, 3, 224, 224)
    backbone(images)
    each = seconds(lambda: backbone(images)) / BATCH
    runs = 6 * BATCH * (options.rounds + 1) + FORWARDS * sum(options.images)
    print(f"about {max(1, round(each * runs / 60))} minutes", flush=True)
    result: dict[str, object] = {"forward": forwards(backbone, images, options.rounds)}
    result["scan"] = scanning(backbone, images, options.rounds)
    print(json.dumps(result, indent=1), flush=True)
    fits: list[dict[str, float]] = []
    for count in options.images:
        fits.append(in_a_process(count))
        print(json.dumps(fits[-1], indent=1), flush=True)
    result["fitting"] = fits
    result["provenance"] = provenance(started=started, device=cpu, precision="float32", processes=1).model_dump()
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        (options.write / "repairs-cpu.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
