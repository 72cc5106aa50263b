import pytest
import torch

from vitreg.errors import UserError
from vitreg.models.block import Block
from vitreg.models.depth import DepthPlan, draw_depth
from vitreg.recipes.recipe import Progress


def progress(step: int = 0, first: int = 0) -> Progress:
    return Progress(step=step, total=100, epoch_steps=10, seed=5, first=first)


def factors(plan: DepthPlan, samples: int) -> torch.Tensor:
    """Write a plan of either mode as what every sample's branch is multiplied with: [L, 2, B]."""
    if plan.weight is None:
        return plan.draws
    dense = torch.zeros(*plan.draws.shape[:2], samples)
    return dense.scatter(2, plan.draws, plan.weight)


@pytest.mark.parametrize("mode", ["sample", "subset"])
def test_on_average_every_sample_gets_the_full_residual(mode):
    total = torch.zeros(2, 2, 10)
    for step in range(400):
        total += factors(draw_depth(0.3, 2, 10, mode, 10, progress(step)), 10)
    torch.testing.assert_close(total / 400, torch.ones(2, 2, 10), atol=0.15, rtol=0)  # standard error 0.033


@pytest.mark.parametrize("mode", ["sample", "subset"])
def test_the_mean_output_of_a_block_branch_is_that_without_dropping(mode):
    """Of one branch: through both the mean is not exact, since the MLP reads what the attention added."""
    torch.manual_seed(0)
    block = Block(16, 2).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        block.mlp.fc2.weight.zero_(), block.mlp.fc2.bias.zero_()  # leaves the attention branch
        x = torch.randn(8, 5, 16).double()
        whole = block(x) - x
        mean = torch.zeros_like(x)
        for step in range(400):
            plan = draw_depth(0.4, 1, 8, mode, 4, progress(step))
            mean += (block(x, plan.of(0)) - x) / 400
    torch.testing.assert_close(mean, whole, atol=0.25 * whole.abs().max().item(), rtol=0)
    assert (mean - whole).norm() < 0.1 * whole.norm()


@pytest.mark.parametrize(
    ("group", "rate", "kept"), [(2, 0.4, 1), (10, 0.3, 7), (4, 0.9, 1), (8, 0.5, 4), (1, 0.4, 1), (32, 0.4, 19)]
)
def test_a_subset_keeps_as_many_of_every_group_as_dinov2_does(group, rate, kept):
    plan = draw_depth(rate, 3, 3 * group, "subset", group, progress())
    assert plan.draws.shape == (3, 2, 3 * kept)
    assert plan.weight == pytest.approx(group / kept)
    for row in plan.draws.flatten(0, 1).tolist():
        assert len(set(row)) == 3 * kept
        assert [sum(index // group == g for index in row) for g in range(3)] == [kept] * 3


@pytest.mark.parametrize("mode", ["sample", "subset"])
def test_a_draw_depends_on_place_and_purpose_but_not_on_how_the_batch_is_shared_out(mode):
    whole = factors(draw_depth(0.5, 4, 16, mode, 4, progress()), 16)
    parts = [factors(draw_depth(0.5, 4, 8, mode, 4, progress(first=first)), 8) for first in (0, 8)]
    assert torch.equal(torch.cat(parts, dim=2), whole)
    assert torch.equal(factors(draw_depth(0.5, 4, 16, mode, 4, progress()), 16), whole)
    for other in (
        draw_depth(0.5, 4, 16, mode, 4, progress(step=1)),
        draw_depth(0.5, 4, 16, mode, 4, progress(), purpose="depth of local crops"),
    ):
        assert not torch.equal(factors(other, 16), whole)


@pytest.mark.parametrize("mode", ["sample", "subset"])
def test_blocks_branches_groups_and_crops_draw_independently(mode):
    dense = factors(draw_depth(0.5, 8, 32, mode, 32, progress(), views=3), 96) > 0  # [8, 2, 96]
    rows = torch.cat(dense.unflatten(2, (3, 32)).flatten(0, 2).split(1))  # one row for each block, branch and crop
    assert len(rows.unique(dim=0)) == 48
    agreement = (rows[:, None] == rows[None]).float().mean(dim=2)[~torch.eye(48, dtype=torch.bool)]
    assert agreement.mean().item() == pytest.approx(0.5, abs=0.03)
    groups = factors(draw_depth(0.5, 8, 32, mode, 16, progress()), 32).unflatten(2, (2, 16))
    assert not torch.equal(groups[:, :, 0], groups[:, :, 1])


def test_crops_are_stacked_crop_by_crop_and_each_keeps_its_share_of_every_group():
    plan = draw_depth(0.5, 2, 8, "subset", 4, progress(), views=3)
    for row in plan.draws.flatten(0, 1).tolist():
        assert [sum(index // 4 == part for index in row) for part in range(6)] == [2] * 6  # 3 crops of 2 groups


@pytest.mark.parametrize("mode", ["sample", "subset"])
def test_draws_for_crops_do_not_depend_on_how_the_batch_is_shared_out(mode):
    halves = [draw_depth(0.5, 2, 4, mode, 4, progress(first=first), views=3) for first in (0, 4)]
    whole = factors(draw_depth(0.5, 2, 8, mode, 4, progress(), views=3), 24).unflatten(2, (3, 8))
    parts = [factors(half, 12).unflatten(2, (3, 4)) for half in halves]
    assert torch.equal(torch.cat(parts, dim=3), whole)


def test_a_subset_computes_only_what_it_keeps_and_weights_it():
    torch.manual_seed(0)
    block, x = Block(16, 2, layer_scale=0.5), torch.randn(6, 5, 16)
    plan = DepthPlan(torch.tensor([[[1, 4], [0, 4]]]), 3.0)
    with torch.no_grad():
        wanted = x.clone()
        for sample in (1, 4):
            wanted[sample] += 3 * block.ls1(block.attn(block.norm1(x[sample : sample + 1])))[0]
        middle = wanted.clone()
        for sample in (0, 4):
            wanted[sample] += 3 * block.ls2(block.mlp(block.norm2(middle[sample : sample + 1])))[0]
        seen = []
        block.attn.register_forward_hook(lambda _m, given, _o: seen.append(len(given[0])))
        torch.testing.assert_close(block(x, plan.of(0)), wanted)
    assert seen == [2]


def test_a_skipped_sample_stays_as_it_was():
    block, x = Block(16, 2), torch.randn(3, 5, 16)
    plan = DepthPlan(torch.tensor([[[0.0, 2.0, 0.0], [0.0, 2.0, 2.0]]]))
    with torch.no_grad():
        out = block(x, plan.of(0))
    assert torch.equal(out[0], x[0])
    assert not torch.equal(out[1], x[1])


def test_no_rate_no_plan():
    assert draw_depth(0.0, 4, 8, "subset", 4, progress()) is None


@pytest.mark.parametrize(
    ("wrong", "words"), [({"rate": 1.0}, "below 1, not 1"), ({"rate": -0.1}, "0 to"), ({"mode": "subsets"}, "'subset'")]
)
def test_impossible_settings_are_refused(wrong, words):
    arguments = {"rate": 0.5, "blocks": 2, "samples": 8, "mode": "subset", "group": 4, "progress": progress(), **wrong}
    with pytest.raises(UserError, match=words):
        draw_depth(**arguments)


def test_a_batch_of_broken_groups_is_refused():
    with pytest.raises(ValueError, match="whole groups"):
        draw_depth(0.5, 2, 6, "subset", 4, progress())
