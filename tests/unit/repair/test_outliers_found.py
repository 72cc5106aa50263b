"""The outliers that a repair is fitted to are those of a scan: the same block and threshold, without inherited norms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import vitreg
from vitreg.backbones import Backbone
from vitreg.models import planted
from vitreg.models.vit import VisionTransformer
from vitreg.repair.fitting import subject_of
from vitreg.repair.outliers import NothingToRepairError, find_outliers
from vitreg.repair.settings import FitOptions

pytestmark = pytest.mark.usefixtures("planted_once", "undrawn", "few_resamples")


@pytest.mark.parametrize("kind", ["high-norm", "low-norm", "last-block"])
def test_they_are_the_scans(kind: str, photographs: Sequence[Path], tmp_path: Path) -> None:
    model = planted.build(kind, 0)[0]
    paths = list(photographs)[-18:]
    with subject_of(vitreg.load(model), paths, FitOptions()) as subject:
        found = find_outliers(subject.backbone, (subject.images.take("fit", np.arange(6)),))
        names = subject.images.names_of("fit")
    verdict = vitreg.scan(model, [path for path in paths if str(path) in names]).verdict
    assert (found.record.onset, found.record.peak) == (verdict.first_layer, verdict.peak_layer)
    assert found.record.thresholds[found.record.peak] == pytest.approx(verdict.threshold)
    assert found.record.share == pytest.approx(verdict.outlier_fraction)
    assert found.record.ratio == pytest.approx(verdict.ratio)


def white(images: int) -> Tensor:
    """Grey noise with some patches of a far larger contrast, which an untrained network only carries on."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(images, 3, 64, 64, generator=draw)
    bright = (torch.rand(images, 1, 8, 8, generator=draw) < 0.03).float()
    return noise * (1 + 30 * bright.repeat_interleave(8, 2).repeat_interleave(8, 3))


def test_norms_that_were_there_before_the_first_block_are_no_outliers() -> None:
    torch.manual_seed(0)
    backbone, images = Backbone(VisionTransformer(64, 8, 32, 3, 2).eval()), white(8)
    with pytest.raises(NothingToRepairError, match="those that stand out had their norm before the first block"):
        find_outliers(backbone, [images])
    assert find_outliers(backbone, [images], force=True).record.forced
    trace = backbone.trace(images, vitreg.Capture(norms=[-1]))
    norms = trace.layout_after(-1).take(trace.norms(-1), -1)
    assert float(norms.max() / norms.median()) > 4  # they do stand out


def test_batches_and_devices_do_not_change_what_is_found(photographs: Sequence[Path]) -> None:
    model = vitreg.load(planted.build("high-norm", 0)[0])
    with subject_of(model, list(photographs)[-12:], FitOptions()) as subject:
        images = torch.cat(list(subject.batches("fit")))
        one, other = find_outliers(model, [images]), find_outliers(model, images.split(1))
    assert one.record == other.record
    assert one.largest == pytest.approx(other.largest)
