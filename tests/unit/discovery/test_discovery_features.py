import pytest
import torch

from vitreg.discovery.features import NORMALIZE, automatic_bias, prepare
from vitreg.discovery.lost import lost


def keys(images=3, patches=60, dim=24):
    """Features with a large common part, as keys of DINOv2 have, and a different scale for each image."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(images, patches, dim, generator=draw, dtype=torch.float64)
    return (x + 2 * torch.randn(dim, generator=draw)) * torch.arange(1, images + 1)[:, None, None]


def test_each_way_to_prepare_features_does_what_it_says():
    x = keys()
    assert torch.equal(prepare(x, "none"), x)
    torch.testing.assert_close(prepare(x, "l2"), x / x.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(prepare(x, "center").mean(1), torch.zeros(3, 24, dtype=torch.float64))
    torch.testing.assert_close(prepare(x, "center"), torch.stack([own - own.mean(0) for own in x]))
    torch.testing.assert_close(prepare(x, "center+l2"), prepare(prepare(x, "center"), "l2"))
    with pytest.raises(ValueError, match=r"'centre'; there are none, l2, center, center\+l2"):
        prepare(x, "centre")  # type: ignore[arg-type]


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_an_image_is_prepared_by_itself_and_in_float32_or_better(normalize):
    x = keys()
    for own, one in zip(prepare(x, normalize), x, strict=True):
        torch.testing.assert_close(prepare(one, normalize), own)
    assert prepare(x.bfloat16(), normalize).dtype == torch.float32
    assert not prepare(torch.zeros(2, 5, 4), normalize).any()


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_with_the_automatic_bias_the_median_patch_is_linked_to_half_of_the_others(normalize):
    x = prepare(keys(), normalize)
    for own, bias in zip(x, automatic_bias(x), strict=True):
        assert lost(own, (6, 10), bias=float(bias)).degree.median() in (29, 30)  # of 59
    if normalize == "none":  # and without it to nearly all: the test could not fail otherwise
        assert int(lost(x[0], (6, 10)).degree.median()) > 50


def test_the_automatic_bias_follows_the_scale_and_ignores_a_few_huge_tokens():
    x = keys(1)[0]
    bias = automatic_bias(x)
    assert bias < 0
    torch.testing.assert_close(automatic_bias(3 * x), 9 * bias)
    x[[5, 17]] *= 100
    torch.testing.assert_close(automatic_bias(x), bias, rtol=0.1, atol=0)
    assert automatic_bias(x[:1]) == 0


def test_one_bias_for_each_image_of_a_batch():
    x = keys()
    biases = automatic_bias(x.float())
    assert biases.shape == (3,)
    assert biases.tolist() == [automatic_bias(own).item() for own in x.float()]
