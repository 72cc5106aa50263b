"""Every loss against its docstring's loop as code, in float64, value and gradient; and against timm and open_clip."""

import math

import pytest
import torch
from tests.parity.loss_loops import (
    distribution,
    entropy,
    loop_binary,
    loop_clip,
    loop_cls,
    loop_decorrelation,
    loop_koleo,
    loop_mae,
    randn,
    same,
    unit,
)

from vitreg.errors import UserError
from vitreg.recipes import losses
from vitreg.recipes.masking import masks_weight
from vitreg.recipes.self_distill import targets

# Losses with labels and texts.


def test_soft_cross_entropy_is_the_loop():
    wanted = distribution(5, 7, seed=1)
    same(
        lambda z: losses.soft_cross_entropy(z, wanted),
        lambda z: sum(entropy(wanted[b], z[b]) for b in range(5)) / 5,
        randn(5, 7),
    )


def test_binary_cross_entropy_is_the_loop():
    wanted = torch.tensor([[1.0, 0, 0, 0], [0, 1e-3, 0, 0.999], [0, 0, 0, 0]]).double()
    same(lambda z: losses.binary_cross_entropy(z, wanted), lambda z: loop_binary(z, wanted), 3 * randn(3, 4))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_losses_are_those_of_timm(smoothing):
    from timm.data.mixup import mixup_target
    from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy

    logits, labels = randn(6, 10).float(), torch.tensor([0, 3, 3, 9, 5, 1])
    mixed = mixup_target(labels, 10, lam=0.7, smoothing=smoothing)
    torch.testing.assert_close(losses.soft_cross_entropy(logits, mixed), SoftTargetCrossEntropy()(logits, mixed))
    binary = BinaryCrossEntropy(target_threshold=0.0)
    torch.testing.assert_close(losses.binary_cross_entropy(logits, mixed), binary(logits, mixed))


def test_clip_loss_is_the_loop_and_that_of_open_clip():
    from open_clip.loss import ClipLoss

    inputs = unit(randn(6, 8)), unit(randn(6, 8, seed=1)), torch.tensor([14.3]).double()
    same(lambda *x: losses.clip_loss(*x)[0], lambda i, t, s: loop_clip(i, t, s).sum(), *inputs)
    same(lambda *x: losses.clip_loss(*x)[0], ClipLoss(), *inputs)


def test_clip_loss_counts_the_images_whose_text_is_nearest():
    images = torch.eye(4)
    _, top1 = losses.clip_loss(images, images[[0, 2, 1, 3]], torch.tensor(5.0))
    assert top1 == 0.5


# Losses between crops.


@pytest.mark.parametrize(("crops", "taught"), [(5, 2), (2, 2), (6, 3), (3, 1)])
@pytest.mark.parametrize("part", [0, 1])
def test_cls_losses_are_the_loop(crops, taught, part):
    teacher = distribution(taught, 3, 6, seed=1)
    if (crops, taught, part) in ((2, 2, 0), (3, 1, 1)):
        assert losses.cls_losses(randn(crops, 3, 6), teacher, 0.1)[part] == 0, "no such pairs"
        return
    same(
        lambda s: losses.cls_losses(s, teacher, 0.1)[part],
        lambda s: loop_cls(s, teacher, 0.1)[part],
        randn(crops, 3, 6),
    )


def test_the_global_part_is_dinov2s_swap():
    student, teacher = randn(10, 4, 6), distribution(2, 4, 6, seed=1)
    swapped = torch.stack(
        [entropy(teacher.flip(0).flatten(0, 1)[i], student[:2].flatten(0, 1)[i], 0.1) for i in range(8)]
    )
    torch.testing.assert_close(losses.cls_losses(student, teacher, 0.1)[1], 2 / 18 * swapped.mean())


@pytest.mark.parametrize(("crops", "taught"), [(1, 1), (1, 2)])
def test_cls_losses_need_two_crops(crops, taught):
    with pytest.raises(ValueError, match="no pair"):
        losses.cls_losses(randn(crops, 3, 6), distribution(taught, 3, 6), 0.1)


def test_ibot_loss_is_the_loop():
    masks = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]).bool()
    teacher, weights = distribution(5, 6, seed=1), torch.tensor([1 / 3] * 3 + [1 / 2] * 2, dtype=torch.float64)
    torch.testing.assert_close(masks_weight(masks), weights.float())

    def loop(student):
        places, loss = masks.nonzero().tolist(), 0
        for m, (crop, _) in enumerate(places):
            loss += entropy(teacher[m], student[m], 0.1) / sum(1 for c, _ in places if c == crop)
        return loss / 4

    same(lambda s: losses.ibot_loss(s, teacher, 0.1, weights, 4), loop, randn(5, 6))


@pytest.mark.parametrize("group", [2, 3, 6])
def test_koleo_is_the_loop(group):
    same(lambda x: losses.koleo(x, group), lambda x: loop_koleo(x, group), randn(6, 4))


def test_koleo_without_groups_takes_all_rows():
    assert losses.koleo(randn(6, 4)) == losses.koleo(randn(6, 4), 6) != losses.koleo(randn(6, 4), 3)


def test_koleo_has_the_golden_value():
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.5]])
    assert losses.koleo(points).item() == pytest.approx(0.188005, abs=5e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_koleo_of_identical_rows_is_finite(dtype):
    x = torch.ones(4, 8, dtype=dtype, requires_grad=True)
    loss = losses.koleo(x)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-math.log(1e-8 * (1 + 8**0.5)), abs=1e-3)
    assert x.grad.isfinite().all()


def test_koleo_never_takes_a_row_for_its_own_neighbour():
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # -1 is the least similar that there is
    assert losses.koleo(opposite).item() == pytest.approx(-math.log(2), abs=1e-6)


def test_koleo_refuses_groups_without_neighbours():
    with pytest.raises(UserError, match="group 2 or more"):
        losses.koleo(randn(4, 3), 1)
    with pytest.raises(ValueError, match="whole groups of 3"):
        losses.koleo(randn(4, 3), 3)


@pytest.mark.parametrize("count", [2, 5])
def test_register_decorrelation_is_the_loop(count):
    same(losses.register_decorrelation, loop_decorrelation, randn(3, count, 4))


def test_register_decorrelation_from_none_to_all_equal():
    assert losses.register_decorrelation(randn(3, 1, 4)) == losses.register_decorrelation(randn(3, 0, 4)) == 0
    assert losses.register_decorrelation(torch.eye(4)[None]) == 0
    torch.testing.assert_close(
        losses.register_decorrelation(randn(2, 1, 4).expand(2, 3, 4)), torch.tensor(1.0).double()
    )


# Pixels.


@pytest.mark.parametrize("patch", [4, (2, 6)])
def test_patchify_takes_rows_then_columns_then_colours(patch):
    images = randn(2, 3, 8, 12)
    p, q = (patch, patch) if isinstance(patch, int) else patch
    found = losses.patchify(images, patch)
    assert found.shape == (2, 8 // p * (12 // q), p * q * 3)
    for r in range(8 // p):
        for c in range(12 // q):
            for y in range(p):
                for x in range(q):
                    wanted = images[:, :, r * p + y, c * q + x]  # [B, 3]
                    start = (y * q + x) * 3
                    assert torch.equal(found[:, r * (12 // q) + c, start : start + 3], wanted)


def test_patchify_refuses_a_remainder():
    with pytest.raises(ValueError, match="8x10 pixels are no whole 4x4 patches"):
        losses.patchify(randn(1, 3, 8, 10), 4)


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_mae_loss_is_the_loop(norm_pixels):
    pixels, hidden = randn(2, 5, 12, seed=1), torch.tensor([[1, 0, 0, 1, 1], [0, 1, 0, 1, 1]]).bool()
    same(
        lambda x: losses.mae_loss(x, pixels, hidden, norm_pixels=norm_pixels),
        lambda x: loop_mae(x, pixels, hidden, norm_pixels),
        randn(2, 5, 12),
    )


# Half precision.

CASES = {
    "soft_cross_entropy": lambda x, y: losses.soft_cross_entropy(x, torch.softmax(y.float(), -1)),
    "binary_cross_entropy": lambda x, y: losses.binary_cross_entropy(x, y),
    "clip_loss": lambda x, y: losses.clip_loss(x, y, torch.tensor(0.3))[0],
    "cls_losses": lambda x, y: sum(
        losses.cls_losses(torch.stack([x, y, x]), torch.softmax(torch.stack([y, x]).float(), -1), 0.5)
    ),
    "ibot_loss": lambda x, y: losses.ibot_loss(x, torch.softmax(y.float(), -1), 0.5, torch.ones(8) / 4, 2),
    "koleo": lambda x, y: losses.koleo(x, group=4),
    "register_decorrelation": lambda x, y: losses.register_decorrelation(x[None]),
    "mae_loss": lambda x, y: losses.mae_loss(x[None], y[None], torch.ones(1, 8).bool()),
    "sinkhorn": lambda x, y: targets.sinkhorn(x, 0.3),
}


@pytest.mark.parametrize("name", CASES)
def test_losses_are_computed_in_full_precision(name):
    x, y = (randn(8, 16, seed=seed).bfloat16() for seed in (0, 1))
    wanted = CASES[name](x.float(), y.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = CASES[name](x, y)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
