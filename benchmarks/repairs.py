"""What repairs without training cost, as ratios measured in one run: a ViT-B/16 with random weights.

    python benchmarks/repairs.py [--rounds 7] [--images 48] [--write benchmarks/results]

    forward   the repaired model over the bare one, batch 8; target <= 1.05
    scoring   one pass that scores neurons over a bare forward of the same images; target <= 1.5
    fit       the whole fit, with the search and the held-out check, over bare forwards of all its images; target <= 6,
              set for 500 images. With fewer, the search is a larger part: a sixth of the images are chosen with, 64 at most.

Random weights have no outliers. For the fit, one neuron of block 6 gets weights that write some. Forwards alternate in
one process, in processor time of one thread, which a busy machine hardly changes; a ratio is the median of those of
neighbours.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import timm
import torch
from torch import Tensor, nn

from vitreg.backbones import Backbone
from vitreg.data.views.transforms import IMAGENET
from vitreg.machine.runtime import choose_device, provenance
from vitreg.repair.fitting import fit_subject, subject_of
from vitreg.repair.methods import attention_bias, method_named, test_time
from vitreg.repair.neurons.scores import Neuron, candidates, scores
from vitreg.repair.settings import FitOptions, TestTimeSettings

BATCH, NEURONS, BLOCKS = 8, 48, range(3, 11)  # as many neurons as published for DINOv2-L, over eight blocks


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


def fitting(backbone: Backbone, images: Sequence[Tensor]) -> dict[str, float]:
    """Scoring and the whole fit, over bare forwards."""

    def bare() -> None:
        for start in range(0, len(images), BATCH):
            backbone(torch.stack(list(images[start : start + BATCH])))

    with subject_of(backbone, images, FitOptions(limit=len(images), batch_size=BATCH)) as subject:
        outliers = subject.outliers
        blocks = candidates(outliers, backbone.depth)

        def forward() -> None:
            for pixels in subject.batches():
                backbone(pixels)

        scoring = ratios(forward, lambda: scores(backbone, subject.batches(), outliers, blocks, "contrast"), 2)
        subject.__dict__.pop("outliers")  # looked for anew: that is a part of the fit
        whole = seconds(lambda: fit_subject(subject, method_named("test-time"), TestTimeSettings()))
        return {
            "scoring": median(scoring),
            "blocks scored": len(blocks),
            "fit": whole / seconds(bare),
            "images": len(images),
        }


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    started, cpu = datetime.now(UTC), choose_device("cpu")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = timm.create_model("vit_base_patch16_224", pretrained=False, num_classes=0).eval()
    backbone = Backbone(module, preprocess=IMAGENET)
    images = torch.randn(options.images, 3, 224, 224)
    result: dict[str, object] = {"forward": forwards(backbone, images[:BATCH], options.rounds)}
    print(json.dumps(result, indent=1), flush=True)
    if options.images:
        write_outliers(module)
        result["fitting"] = fitting(backbone, list(images))
        print(json.dumps(result["fitting"], indent=1))
    result["provenance"] = provenance(started=started, device=cpu, precision="float32", processes=1).model_dump()
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        (options.write / "repairs-cpu.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
