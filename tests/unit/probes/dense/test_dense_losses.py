import math

import pytest
import torch

from vitreg.probes.dense.losses import gradient_loss, pixel_cross_entropy, sig_loss


@pytest.fixture
def maps():
    draw = torch.Generator().manual_seed(0)
    depth = 0.5 + 4 * torch.rand(2, 14, 17, generator=draw, dtype=torch.float64)
    truth = 0.5 + 4 * torch.rand(2, 14, 17, generator=draw, dtype=torch.float64)
    truth[torch.rand(truth.shape, generator=draw) < 0.2] = 0
    return depth, truth


def logs(depth, truth):
    pairs = zip(depth.flatten().tolist(), truth.flatten().tolist(), strict=True)
    return [math.log(d + 1e-3) - math.log(t + 1e-3) for d, t in pairs if t > 0]


def test_sig_loss_is_the_naive_loop(maps):
    g = logs(*maps)
    mean = sum(g) / len(g)
    variance = sum((x - mean) ** 2 for x in g) / (len(g) - 1)
    assert sig_loss(*maps).item() == pytest.approx(math.sqrt(variance + 0.15 * mean**2), rel=1e-12)
    assert sig_loss(*maps, warming_up=True).item() == pytest.approx(math.sqrt(0.15 * mean**2), rel=1e-12)


def test_sig_loss_has_finite_slopes_where_nothing_is_wrong_and_where_nothing_is_known(maps):
    for truth in (maps[0], torch.zeros_like(maps[0])):
        for warming_up in (False, True):
            depth = maps[0].clone().requires_grad_()
            loss = sig_loss(depth, truth, warming_up=warming_up)
            loss.backward()
            assert loss.item() == pytest.approx(0, abs=1e-6)
            assert torch.isfinite(depth.grad).all()


def naive_gradient_loss(depth, truth):
    total = 0.0
    for s in (1, 2, 4, 6):
        slopes, count = 0.0, 0
        for b in range(len(depth)):
            d, t = depth[b, ::s, ::s].tolist(), truth[b, ::s, ::s].tolist()
            rows, cols = len(d), len(d[0])

            def g(i, j, d=d, t=t):
                return math.log(d[i][j] + 1e-3) - math.log(t[i][j] + 1e-3)

            for i in range(rows):
                for j in range(cols):
                    count += t[i][j] > 0
                    for di, dj in ((2, 0), (0, 2)):
                        if i + di < rows and j + dj < cols and t[i][j] > 0 and t[i + di][j + dj] > 0:
                            slopes += abs(g(i, j) - g(i + di, j + dj))
        total += slopes / count
    return total


def test_gradient_loss_is_the_naive_spatial_loop_also_for_two_images(maps):
    found = gradient_loss(*maps).item()
    assert found == pytest.approx(naive_gradient_loss(*maps), rel=1e-12)
    assert found > 0.1


def test_gradient_loss_of_one_image_does_not_depend_on_its_neighbour_in_the_batch(maps):
    # What is wrong in the official code: it compares images of the batch with each other.
    depth, truth = (m[:1].repeat(3, 1, 1) for m in maps)
    assert gradient_loss(depth, truth).item() == pytest.approx(gradient_loss(depth[:1], truth[:1]).item())
    assert gradient_loss(2 * depth.clamp_min(1), depth.clamp_min(1)).item() < 1e-2  # a common factor has no slope


def test_cross_entropy_averages_over_ignored_pixels_too():
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    labels[0, :2] = 255
    expected = 0.0
    for b in range(2):
        for i in range(4):
            for j in range(5):
                if labels[b, i, j] != 255:
                    expected -= logits[b, :, i, j].softmax(0)[labels[b, i, j]].log().item()
    assert pixel_cross_entropy(logits, labels).item() == pytest.approx(expected / 40, rel=1e-12)
    nothing = pixel_cross_entropy(logits, torch.full_like(labels, 255))
    assert nothing.item() == 0
