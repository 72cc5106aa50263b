import numpy as np
import pytest

from vitreg.analysis.norms import NormHistogram, decode, edge_index, edges
from vitreg.analysis.tally import BatchStatistics, Tally, group_histograms, look_again, origins
from vitreg.machine.runtime import Processes
from vitreg.tokens import TokenLayout

LAYERS, GRID = 2, (3, 5)
LAYOUT = TokenLayout.prefixed(GRID, cls_tokens=1, registers=2)


def random_batch(first, count, rng):
    norms = rng.lognormal(2, 0.2, (LAYERS, count, LAYOUT.length)).astype(np.float32)
    norms[:, :, LAYOUT.patches][rng.random((LAYERS, count, 15)) < 0.1] *= 10
    share = rng.random((LAYERS, count, 15)).astype(np.float32)
    return BatchStatistics(
        indices=np.arange(first, first + count),
        names=tuple(f"{i}.jpg" for i in range(first, first + count)),
        norms=norms,
        entering=rng.lognormal(1, 0.2, (count, LAYOUT.length)).astype(np.float32),
        cosine=rng.uniform(-1, 1, (count, 15)).astype(np.float32),
        cls_attention=share / share.sum(-1, keepdims=True),
        received=share / share.mean(-1, keepdims=True),
    )


@pytest.fixture
def batches():
    rng = np.random.default_rng(0)
    return [random_batch(0, 4, rng), random_batch(4, 3, rng), random_batch(7, 1, rng)]


def test_a_second_look_finds_exactly_the_tokens_above_the_threshold(batches, tmp_path):
    norms = np.concatenate([b.norms for b in batches], axis=1)[:, :, LAYOUT.patches]  # [L, n, P]
    cosine = np.concatenate([b.cosine for b in batches])
    threshold = 30.0
    with Tally(LAYERS, LAYOUT, tmp_path) as tally:
        for batch in batches:
            tally.add(batch)
        look = look_again(tally, 1, edge_index(threshold), "high", Processes())
        attention = tally.sums.cls_attention[0]
    truth = norms[1] > threshold
    assert look.per_image.tolist() == truth.sum(1).tolist()
    assert look.positions.tolist() == truth.sum(0).tolist()
    assert look.images_with[0] == truth.any(1).sum()
    for layer in range(LAYERS):
        np.testing.assert_array_equal(look.followed[layer], NormHistogram.of(norms[layer][truth]).counts)
    lonely = 0
    for image in truth.reshape(-1, *GRID):
        padded = np.pad(image, 1)
        lonely += sum(
            image[r, c] and padded[r : r + 3, c : c + 3].sum() == 1 for r in range(GRID[0]) for c in range(GRID[1])
        )
    assert look.isolated[0] == lonely
    assert look.cosine[1].sum() == truth.sum()
    np.testing.assert_allclose(look.cosine[1].nonzero()[0].min(), (cosine[truth].min() + 1) * 125, atol=1)
    shares = np.concatenate([b.cls_attention for b in batches], axis=1)
    entering = norms[0] > threshold  # attention of block 1 reads what block 0 put out
    assert attention[edge_index(threshold) :].sum() == pytest.approx(shares[1][entering].sum(), rel=1e-6)


def test_tokens_come_back_in_order_whatever_the_chunk(batches, tmp_path):
    norms = np.concatenate([b.norms for b in batches], axis=1)
    with Tally(LAYERS, LAYOUT, tmp_path) as tally:
        for batch in batches:
            tally.add(batch)
        for chunk in (1, 3, 100):
            codes = np.concatenate([c for c, _ in tally.tokens(chunk)])  # [n, L, N]
            np.testing.assert_allclose(decode(codes), norms.transpose(1, 0, 2), rtol=3e-4)
        assert not list(tmp_path.iterdir()), "the spill file must not be visible in the output folder"


def test_two_shares_of_the_images_add_up_to_the_whole(batches):
    def sums(part):
        with Tally(LAYERS, LAYOUT) as tally:
            for batch in part:
                tally.add(batch)
            return tally.sums, group_histograms(tally, [0, 1], Processes())

    (whole, groups), (a, groups_a), (b, groups_b) = sums(batches), sums(batches[:1]), sums(batches[1:])
    for name, value in vars(whole).items():
        np.testing.assert_allclose(getattr(a, name) + getattr(b, name), value, rtol=1e-12, err_msg=name)
    assert (groups_a + groups_b == groups).all()
    assert (groups.sum(0) == whole.counts).all()


@pytest.mark.parametrize("side", ["high", "low"])
def test_what_is_not_there_is_counted_nowhere(batches, tmp_path, side):
    """Against each statistic written out over the patches that are there."""
    present = np.ones((LAYERS + 1, LAYOUT.length), bool)
    first = LAYOUT.patches.start
    present[2, [2, first + 1, first + 7, first + 14]] = False
    present[0, first + 3] = False
    for batch in batches:
        batch.norms[1][:, ~present[2]] = 0
        batch.entering[:, ~present[0]] = 0
    norms = np.concatenate([b.norms for b in batches], axis=1)[:, :, LAYOUT.patches]  # [L, n, P]
    entering = np.concatenate([b.entering for b in batches])[:, LAYOUT.patches]
    there = present[:, LAYOUT.patches]
    threshold = float(edges()[edge_index(30.0 if side == "high" else 6.5)])
    with Tally(LAYERS, LAYOUT, tmp_path, present=present) as tally:
        for batch in batches:
            tally.add(batch)
        look = look_again(tally, 1, edge_index(threshold), side, Processes())
        early = look_again(tally, 0, edge_index(threshold), side, Processes())
        (origin,) = origins(tally, [(1, side, edge_index(threshold))], Processes())
        groups = group_histograms(tally, [1], Processes())
        sums, extremes = tally.sums, tally.extremes
    assert (tally.patches_after(-1), tally.patches_after(0), tally.patches_after(1)) == (14, 15, 12)
    kept = norms[1][:, there[2]]
    np.testing.assert_array_equal(sums.counts[1], NormHistogram.of(kept).counts)
    np.testing.assert_array_equal(groups[:, 0].sum(0), sums.counts[1])
    assert (-extremes[0, 1], extremes[1, 1]) == pytest.approx((kept.min(), kept.max()))
    truth = ((norms[1] > threshold) if side == "high" else (norms[1] < threshold)) & there[2]
    assert truth.any()
    assert look.positions.tolist() == truth.sum(0).tolist()
    assert look.per_image.tolist() == truth.sum(1).tolist()
    assert look.cosine.sum() == 8 * 12
    assert look.cosine[1].sum() == truth.sum()
    median = np.median(kept, axis=1, keepdims=True)
    far = kept >= 2 * median if side == "high" else kept <= median / 2
    assert look.own.tolist() == np.bincount(far.sum(1), minlength=16).tolist()
    np.testing.assert_array_equal(look.followed[0], NormHistogram.of(norms[0][truth]).counts)
    later = ((norms[0] > threshold) if side == "high" else (norms[0] < threshold)) & there[2]
    np.testing.assert_array_equal(early.followed[1], NormHistogram.of(norms[1][later]).counts)
    outside, inside = entering[~truth & there[2] & there[0]], entering[truth & there[0]]
    ratio = np.median(inside) / np.median(outside)
    assert origin.entering_ratio == pytest.approx(ratio if side == "high" else 1 / ratio, rel=0.05)
    shares = np.concatenate([b.cls_attention for b in batches], axis=1)
    assert sums.cls_attention[0].sum() == pytest.approx(shares[1].sum())
