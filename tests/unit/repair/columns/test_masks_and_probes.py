"""mIoU and the probes of place and pixels: against loops, the sums of the dense probes, and what is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.repair.causal.reading_sinks import network
from torch import Tensor

import vitreg
from vitreg.analysis.paired import Sums
from vitreg.backbones import Backbone
from vitreg.data.views.transforms import IMAGENET
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer
from vitreg.passes.view import view_of
from vitreg.probes.dense.scores import Overlaps
from vitreg.probes.spatial import PixelProbe, PositionProbe, patchify
from vitreg.repair.columns import int8
from vitreg.repair.columns.data import HeldOut, Masks
from vitreg.repair.columns.masks import masks_on, miou, overlaps, seen_classes, shares
from vitreg.repair.columns.probes import choosing, known
from vitreg.repair.columns.reading import Reader
from vitreg.repair.fitting import subject_of
from vitreg.repair.settings import FitOptions
from vitreg.repair.subject import Subject

PATCH = 8


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny(**more: int) -> Backbone:
    torch.manual_seed(0)
    return Backbone(VisionTransformer(32, PATCH, 24, 2, 3, **more).eval(), preprocess=IMAGENET.with_size((32, 32)))


@pytest.fixture
def subject() -> Iterator[Subject]:
    grey = draw(48, 1, 4, 4).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)  # each patch of one brightness
    with subject_of(tiny(), grey + 0.3 * draw(48, 3, 32, 32), FitOptions()) as made:
        yield made


def test_the_shares_of_a_patch_are_those_of_its_labelled_pixels() -> None:
    labels = torch.randint(0, 3, (2, 8, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels[0, :4, :4] = 255
    labels[1, 0, 0] = 255
    found = shares(labels, (2, 3), 3)
    for image in range(2):
        for patch in range(6):
            top, left = 4 * (patch // 3), 4 * (patch % 3)
            inside = labels[image, top : top + 4, left : left + 4].flatten().tolist()
            counted = [label for label in inside if label != 255]
            wanted = [counted.count(label) / max(len(counted), 1) for label in range(3)]
            assert found[image, patch].tolist() == pytest.approx(wanted)
    assert found[0, 0].tolist() == [0, 0, 0]


def test_overlaps_summed_over_images_are_those_of_the_dense_probes() -> None:
    generator = torch.Generator().manual_seed(0)
    true, found = (torch.randint(0, 4, (5, 6, 6), generator=generator) for _ in range(2))
    true[true == 3] = 255  # the last class is found, and never true
    both, either = overlaps(found, true, 5)
    wanted = Overlaps(5)
    wanted.add(found, true)
    sums = Sums(both.numpy(), either.numpy())
    assert 100 * sums.value == pytest.approx(wanted.scores()["miou"])
    weights = np.array([[2, 0, 1, 1, 1]])
    again = Overlaps(5)
    for image, times in enumerate(weights[0]):
        for _ in range(times):
            again.add(found[image], true[image])
    assert 100 * float(sums.over(weights)[0]) == pytest.approx(again.scores()["miou"])


def test_a_mask_goes_where_its_picture_goes() -> None:
    backbone = tiny()
    view = view_of(backbone)
    labels = np.zeros((90, 150), np.uint8)
    labels[20:60, 40:100] = 7
    labels[:, 140:] = 255
    picture = Image.fromarray((labels == 7).astype(np.uint8) * 255).convert("RGB")
    seen = view.shown(view.fit(view.pictures(picture)[None]))[0][..., 0]
    found = seen_classes(view, labels)
    assert set(np.unique(found).tolist()) <= {0, 7, 255}
    assert ((found == 7) == (seen > 0.6 * 255)).mean() > 0.99  # shown is rounded
    assert (found == 7).sum() > 50


def write(folder: Path, name: str, values: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    Image.fromarray(values).save(folder / name)


def test_masks_are_found_by_stem_and_mistakes_are_one_sentence(tmp_path: Path) -> None:
    view, folder = view_of(tiny()), tmp_path / "masks"
    photograph = tmp_path / "a.jpg"
    Image.new("RGB", (40, 32)).save(photograph)
    write(folder, "a.png", np.full((32, 40), 3, np.uint8))
    write(folder, "b.png", np.full((32, 40), 5, np.uint8))
    found = masks_on(view, [str(photograph), "c.jpg"], ["x/b.jpg"], folder)
    assert found.classes == 6
    assert found.fit[0].unique().tolist() == [3]
    assert found.fit[1].unique().tolist() == [255]
    with pytest.raises(UserError, match="no masks for these images; it has some for a, for instance"):
        masks_on(view, ["a.jpg"], ["c.jpg"], folder)
    with pytest.raises(UserError, match="no masks for these images"):
        masks_on(view, ["a.jpg"], ["b.jpg"], folder, ignore=3)
    write(folder, "a.png", np.full((32, 41), 3, np.uint8))
    with pytest.raises(UserError, match=r"has 32x41 pixels \(height x width\) and its image 32x40"):
        masks_on(view, [str(photograph)], ["b.jpg"], folder)
    write(folder, "a.png", np.full((32, 40, 3), 3, np.uint8))
    with pytest.raises(UserError, match="is no mask"):
        masks_on(view, [str(photograph)], ["b.jpg"], folder)
    (folder / "a.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        masks_on(view, [str(photograph)], ["b.jpg"], folder)
    write(folder / "more", "b.png", np.full((32, 40), 5, np.uint8))
    with pytest.raises(UserError, match="are both masks of b; keep one"):
        masks_on(view, ["a.jpg"], ["b.jpg"], folder)


def test_classes_that_the_patches_show_are_told_and_others_are_not(subject: Subject) -> None:
    """Masks by the brightness of each patch are easy for tokens of an untrained model; the same masks of other images not."""

    def masks(part: str) -> Tensor:
        images = torch.cat(list(subject.batches(part)))  # type: ignore[arg-type]
        bright = patchify(images, (PATCH, PATCH)).mean(-1) > 0
        return bright.unflatten(1, (4, 4)).repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2).byte()

    fit, held_out = masks("fit"), masks("held_out")
    names = subject.images.names_of("held_out")
    right = Reader(subject.backbone, subject, None, HeldOut(names, masks=Masks(fit, held_out, 2)))
    wrong = Reader(subject.backbone, subject, None, HeldOut(names, masks=Masks(fit.roll(1, 0), held_out, 2)))
    values = [Sums(*(side.numpy() for side in miou(each))).value for each in (right, wrong)]
    assert values[0] > values[1] + 0.1


def test_the_probes_are_those_of_all_images_at_once(subject: Subject) -> None:
    backbone, reader = subject.backbone, Reader(subject.backbone, subject, None, HeldOut([]))
    fit, held_out = (torch.cat(list(subject.batches(part))) for part in ("fit", "held_out"))
    position, pixels = PositionProbe((4, 4)), PixelProbe((PATCH, PATCH))
    position.partial_fit(backbone(fit).patches, choosing(0, len(fit))).finish()
    pixels.partial_fit(backbone(fit).patches, fit, choosing(0, len(fit))).finish()
    patches = backbone(held_out).patches
    found = known(reader)
    hits = (position.predict(patches) == torch.arange(16)).sum(1)
    assert found.position[0].tolist() == hits.tolist()
    assert found.position[1].tolist() == [16.0] * len(held_out)
    error, control = pixels.errors(patches, held_out).square(), pixels.control_errors(held_out).square()
    above, below = found.pixels
    assert float(above.sum() / below.sum()) == pytest.approx(float(1 - error.sum() / control.sum()), rel=1e-4)


def test_accuracy_lost_in_eight_bits_counts_both_ways(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.tensor([0, 1, 2, 3, -1])
    reader = Reader(subject.backbone, subject, None, HeldOut(["a"] * 5, labels))
    answers = (torch.tensor([0, 1, 0, 0, 0]), torch.tensor([0, 0, 2, 1, 1]))
    monkeypatch.setattr(int8, "both", lambda _reader: int8.Eight(draw(5, 2), draw(5, 2), answers))
    lost, counted = int8.accuracy_lost(reader)
    assert lost.tolist() == [0, 1, -1, 0, 0]
    assert counted.tolist() == [1, 1, 1, 1, 0]


def test_passes_that_columns_share_are_made_once(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone(network())
    made: list[object] = []
    monkeypatch.setattr(int8, "both", lambda reader: made.append(reader) or int8.Eight(draw(5, 2), draw(5, 2), None))
    reader = Reader(backbone, subject, None, HeldOut([]))
    int8.loss(reader)
    int8.loss(reader)
    assert made == [reader]


def test_masks_and_labels_give_their_columns_and_what_is_missing_is_said(voc: Path, tmp_path: Path) -> None:
    images = sorted((voc / "JPEGImages").iterdir())
    words = {"methods": ("none", "substitute:where=output"), "controls": False, "size": 96, "force": True}
    found = vitreg.repairs("planted:high-norm", images, masks=voc / "SegmentationClass", **words)
    before, after = found.rows
    assert [row.method for row in found.rows] == ["none", "substitute:where=output"]
    assert 0 <= before.cells["miou"].value <= 100
    assert after.cells["miou"].change_low is not None
    assert {"position_probe", "pixel_probe"} <= set(after.cells)
    assert "top1" not in before.cells
    assert "top1" not in before.lacking  # no labels were given: that is no lack of the model
    assert before.lacking["head_agreement"] == "the model's own module gives no classes for these images"
    assert any(note.startswith("Not measured without --labels: ") for note in found.notes)
    with pytest.raises(UserError, match="no masks for these images"):
        vitreg.repairs("planted:high-norm", images, masks=tmp_path, **words)
