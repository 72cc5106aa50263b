import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitreg.probes.dense.heads import BinsDepth, LinearSegmenter, classified


def tokens(batch=2, patches=6, width=5, seed=0):
    return torch.randn(batch, patches, width, generator=torch.Generator().manual_seed(seed))


def test_segmenter_is_batch_norm_and_a_one_by_one_convolution_on_the_grid():
    head, x = LinearSegmenter(5, 3, seed=1), tokens()
    conv = nn.Conv2d(5, 3, 1)
    with torch.no_grad():
        conv.weight.copy_(head.linear.weight[:, :, None, None])
        conv.bias.copy_(head.linear.bias)
    maps = x.transpose(1, 2).reshape(2, 5, 2, 3)
    torch.testing.assert_close(head(x, (2, 3)), conv(nn.BatchNorm2d(5)(maps)))


def test_segmenter_puts_the_logits_of_a_patch_where_the_patch_is():
    head, x = LinearSegmenter(5, 3).eval(), tokens()
    assert torch.equal(head(x, (2, 3))[1, :, 1, 0], head(x, (6, 1))[1, :, 3, 0])  # row 1, column 0 of 3 columns
    fine = head.at(x, (2, 3), (10, 15))
    torch.testing.assert_close(fine[:, :, 2::5, 2::5], head(x, (2, 3)))  # pixels in the middle of a patch


def test_weights_start_small_and_follow_from_the_seed():
    first, again, other = (LinearSegmenter(400, 50, seed=seed).linear.weight for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.std().item() == pytest.approx(0.01, rel=0.05)
    a, b = BinsDepth([8], seed=1), BinsDepth([8], seed=1)
    assert torch.equal(a.linear.weight, b.linear.weight)


def naive_depth(head, patches, cls, grid):
    """The order of the official code: concat, upsample by 4, convolve, weigh the bins."""
    maps = []
    for x, c in zip(patches, cls, strict=True):
        x = x.transpose(1, 2).reshape(len(x), -1, *grid)
        x = torch.cat([x, c[:, :, None, None].expand_as(x)], dim=1)
        maps.append(F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False))
    weight, bias = head.linear.weight[:, :, None, None], head.linear.bias
    logit = torch.relu(F.conv2d(torch.cat(maps, dim=1), weight, bias)) + 0.1
    bins = torch.linspace(0.001, 10, 256)
    out = torch.zeros(len(logit), *logit.shape[-2:])
    for b in range(len(logit)):
        for i in range(logit.shape[2]):
            for j in range(logit.shape[3]):
                share = logit[b, :, i, j] / logit[b, :, i, j].sum()
                out[b, i, j] = (share * bins).sum()
    return out


@pytest.mark.parametrize("blocks", [1, 4])
def test_depth_is_that_of_the_official_order_of_operations(blocks):
    head = BinsDepth([10] * blocks)
    patches = [3 * tokens(seed=k) for k in range(blocks)]
    cls = [tokens(patches=1, seed=9 + k)[:, 0] for k in range(blocks)]
    torch.testing.assert_close(
        head(patches, cls, (2, 3)), naive_depth(head, patches, cls, (2, 3)), rtol=1e-5, atol=1e-5
    )


def test_depth_without_class_token_and_with_a_missing_one():
    head = BinsDepth([5, 5])
    assert head([tokens(), tokens(seed=1)], [], (2, 3)).shape == (2, 8, 12)
    with pytest.raises(ValueError, match="class tokens of 1 blocks"):
        head([tokens(), tokens(seed=1)], [tokens()[:, 0]], (2, 3))


def test_classes_found_a_few_at_a_time_are_those_of_one_argmax():
    logits = torch.randn(2, 7, 3, 4, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(logits, (11, 13), mode="bilinear", align_corners=False).argmax(1)
    assert torch.equal(classified(logits, (11, 13), at_once=3), expected)
