"""What a teacher wants, against its docstring's loop as code."""

import pytest
import torch
from tests.parity.loss_loops import loop_sinkhorn, randn, softmax

from vitreg.recipes.self_distill import targets

LOGITS = torch.tensor([[1.0, 2, 0], [0, 1, 3], [2, 0, 1], [1, 1, 1]])
SPREAD = torch.tensor(
    [
        [0.107309, 0.887361, 0.00533],
        [0.006357, 0.052563, 0.94108],
        [0.934438, 0.019153, 0.046409],
        [0.402238, 0.45015, 0.147613],
    ]
)


def test_sinkhorn_has_the_golden_value():
    torch.testing.assert_close(targets.sinkhorn(LOGITS, 0.5), SPREAD, rtol=0, atol=1e-6)


@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn_is_the_loop_and_leaves_its_input(iterations):
    logits = randn(7, 5)
    found = targets.sinkhorn(logits, 0.3, iterations)
    torch.testing.assert_close(found, loop_sinkhorn(logits, 0.3, iterations), rtol=1e-12, atol=1e-15)
    assert torch.equal(logits, randn(7, 5))


def test_sinkhorn_survives_what_overflows_and_what_vanishes():
    torch.testing.assert_close(targets.sinkhorn(LOGITS + 1e4, 0.5), SPREAD, rtol=0, atol=1e-5)
    far = LOGITS.double() / 0.5 + torch.tensor([0.0, 0.0, -300.0])  # exp(-300) is 0 in float32
    found = targets.sinkhorn(far.float(), 1.0)
    assert found.isfinite().all()
    torch.testing.assert_close(found.double(), loop_sinkhorn(far, 1.0), rtol=1e-4, atol=1e-6)


def test_sinkhorn_balances_when_it_may_go_on():
    found = targets.sinkhorn(randn(12, 4), 0.5, iterations=200)
    torch.testing.assert_close(found.sum(0), torch.full((4,), 3.0).double())
    torch.testing.assert_close(found.sum(1), torch.ones(12).double())


def test_sinkhorn_of_nothing_is_nothing():
    assert targets.sinkhorn(torch.empty(0, 5), 0.1).shape == (0, 5)


def test_softmax_centring_is_the_loop():
    logits, centre = randn(3, 5), randn(5, seed=1)
    loop = torch.stack([torch.stack(softmax((z - centre) / 0.2)) for z in logits])
    torch.testing.assert_close(targets.softmax_centring(logits, centre, 0.2), loop)


def test_the_centre_is_a_running_mean():
    centre = torch.zeros(3)
    for step in range(1, 4):
        centre = targets.update_centre(centre, LOGITS.sum(0), torch.tensor(4.0))
        torch.testing.assert_close(centre, (1 - 0.9**step) * LOGITS.mean(0))
    torch.testing.assert_close(targets.update_centre(centre, LOGITS.sum(0), torch.tensor(4.0), 0.0), LOGITS.mean(0))
    assert torch.equal(targets.update_centre(centre, torch.zeros(3), torch.tensor(0.0)), centre)
