import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from vitreg.analysis.maps import (
    attention_maps,
    attention_maps_per_head,
    first_component,
    fit_components,
    mass_mask,
    pca_rgb,
    received,
    whitened_components,
)
from vitreg.tokens import TokenLayout


def random_tokens(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def spread_tokens(images, patches, width=12, seed=0):
    """Tokens with well separated principal axes and a mean far from zero."""
    scales = torch.tensor([9.0, 5.0, 3.0] + [0.5] * (width - 3))
    turn = torch.linalg.qr(random_tokens(width, width, seed=seed + 100)).Q
    return (random_tokens(images, patches, width, seed=seed) * scales) @ turn + 20


# --- attention


def test_attention_maps_take_patches_by_layout_not_by_position():
    # Registers after the patches: index 1 is the first patch, the two last tokens are registers.
    layout = TokenLayout(cls=(0,), registers=(7, 8), other=(), patches=slice(1, 7), grid=(2, 3))
    rows = torch.softmax(random_tokens(2, 4, 3, 9), -1)
    maps = attention_maps(rows, layout)
    assert maps.shape == (2, 3, 2, 3)
    for r in range(2):
        for c in range(3):
            torch.testing.assert_close(maps[1, 2, r, c], sum(rows[1, h, 2, 1 + r * 3 + c] for h in range(4)) / 4)
    torch.testing.assert_close(attention_maps_per_head(rows, layout).mean(1), maps)


def test_attention_maps_refuse_another_layout():
    with pytest.raises(ValueError, match="over 9 tokens do not fit a layout of 7"):
        attention_maps(torch.rand(1, 1, 1, 9), TokenLayout.prefixed((2, 3), cls_tokens=1))


def test_received_equals_the_loop_of_the_docstring():
    rows = torch.softmax(random_tokens(2, 3, 4, 6), -1)
    queries = (0, 3, 4, 5)
    expected = torch.empty(2, 6)
    for b in range(2):
        for key in range(6):
            others = [i for i, query in enumerate(queries) if query != key]
            expected[b, key] = torch.stack([rows[b, h, i, key] for h in range(3) for i in others]).mean()
    torch.testing.assert_close(received(rows, queries), expected)


def test_received_of_uniform_attention_and_of_a_token_that_only_sees_itself():
    torch.testing.assert_close(received(torch.full((1, 2, 5, 5), 0.2), range(5)), torch.full((1, 5), 0.2))
    assert received(torch.eye(5).expand(1, 2, 5, 5), range(5)).tolist() == [[0.0] * 5]


def test_received_wants_a_query_per_row():
    with pytest.raises(ValueError, match="2 queries were named for 4"):
        received(torch.rand(1, 1, 4, 6), (0, 1))


def test_mass_mask_is_the_smallest_set_that_holds_the_mass():
    maps = torch.tensor([[[0.30, 0.10], [0.25, 0.35]], [[0.7, 0.1], [0.1, 0.1]]])
    assert mass_mask(maps, 0.6).tolist() == [[[True, False], [False, True]], [[True, False], [False, False]]]
    assert mass_mask(maps, 1.0).all()
    random = torch.rand(20, 6, 7, generator=torch.Generator().manual_seed(1))
    mask = mass_mask(random, 0.6)
    held = (random * mask).sum((1, 2)) / random.sum((1, 2))
    weakest = torch.where(mask, random, 9.0).amin((1, 2)) / random.sum((1, 2))
    assert (held >= 0.6 - 1e-5).all()
    assert (held - weakest < 0.6).all()


# --- norms


# --- components


def test_components_equal_sklearn_up_to_sign():
    tokens = spread_tokens(3, 40)
    flat = tokens.flatten(0, 1)
    theirs = PCA(3, whiten=True, svd_solver="full").fit(flat.double().numpy())
    ours = fit_components(flat, 3)
    np.testing.assert_allclose(ours.sigma, np.sqrt(theirs.explained_variance_), rtol=1e-4)
    np.testing.assert_allclose(ours.share, theirs.explained_variance_ratio_, rtol=1e-4)
    scores, expected = ours.scores(flat).numpy(), theirs.transform(flat.double().numpy())
    signs = np.sign((scores * expected).sum(0))
    np.testing.assert_allclose(scores, expected * signs, atol=2e-3)
    assert ours.fitted == ours.given == 120


def test_components_match_sklearn_at_the_scale_of_massive_activations():
    tokens = spread_tokens(1, 60)[0] * 3e4
    theirs = PCA(3, svd_solver="full").fit(tokens.double().numpy())
    np.testing.assert_allclose(fit_components(tokens, 3).sigma, np.sqrt(theirs.explained_variance_), rtol=1e-4)


def test_first_component_has_unit_variance_over_all_images_or_over_each():
    tokens = spread_tokens(4, 30)
    together = first_component(tokens, (5, 6))
    assert together.shape == (4, 5, 6)
    assert float(together.mean()) == pytest.approx(0, abs=1e-4)
    assert float(together.std()) == pytest.approx(1, abs=1e-4)
    apart = first_component(tokens, (5, 6), per_image=True)
    torch.testing.assert_close(apart.flatten(1).std(1), torch.ones(4), atol=1e-4, rtol=0)
    assert not torch.allclose(apart, together, atol=1e-2)


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_the_middle_is_positive_whatever_the_sign_of_the_features(flip):
    tokens = random_tokens(2, 25, 8) * 0.1
    tokens[:, [6, 7, 8, 11, 12, 13, 16, 17, 18], 0] += 5  # the inside of a 5x5 grid
    found = first_component(flip * tokens, (5, 5))
    assert (found[:, 1:4, 1:4] > 0).all()
    assert (found[:, 0] < 0).all()


def test_the_sign_is_fixed_where_border_and_inside_agree():
    tokens = random_tokens(1, 4, 3)  # a 2x2 grid is all border
    torch.testing.assert_close(first_component(tokens, (2, 2)), first_component(tokens.clone(), (2, 2)), rtol=0, atol=0)


def test_rgb_is_the_documented_normalisation():
    tokens = spread_tokens(2, 36)
    scores = whitened_components(tokens, (6, 6), 3)
    torch.testing.assert_close(pca_rgb(tokens, (6, 6), robust=False), (scores / 6 + 0.5).clamp(0, 1))


def test_a_few_outliers_do_not_wash_out_the_colours():
    clean = spread_tokens(2, 100)
    spoiled = clean.clone()
    spoiled[:, [3, 55]] += 3000  # a direction and size of their own
    ordinary = torch.ones(100, dtype=torch.bool)
    ordinary[[3, 55]] = False
    reference = pca_rgb(clean[:, ordinary], (7, 14), robust=False).flatten(1, 2)
    robust = pca_rgb(spoiled, (10, 10)).flatten(1, 2)
    # The fit is that of the ordinary tokens; only the sign may depend on which patches form the border.
    same = (robust[:, ordinary] - reference).abs().amax((0, 1))
    turned = (robust[:, ordinary] - (1 - reference)).abs().amax((0, 1))
    assert torch.minimum(same, turned).max() < 0.03
    assert set(robust[:, [3, 55]].flatten().tolist()) <= {0.0, 1.0}  # drawn, saturated
    plain = pca_rgb(spoiled, (10, 10), robust=False)[..., 0].flatten(1)
    assert plain[:, ordinary].std() < 0.05 < 0.1 < robust[:, ordinary][..., 0].std()


def test_constant_tokens_are_grey_and_not_noise():
    assert pca_rgb(torch.full((2, 9, 5), 7.3), (3, 3)).eq(0.5).all()


def test_more_components_than_the_tokens_span_are_flat():
    line = torch.linspace(-1, 1, 9)[None, :, None] * torch.ones(4)
    found = whitened_components(line, (3, 3), 3)
    assert found[..., 0].std() > 0.9
    assert found[..., 1:].abs().max() == 0
    assert whitened_components(torch.randn(1, 9, 2), (3, 3), 3)[..., 2].eq(0).all()


def test_components_refuse_what_they_cannot_fit():
    with pytest.raises(ValueError, match="finite"):
        fit_components(torch.tensor([[1.0, float("inf")], [0.0, 1.0]]), 1)
    with pytest.raises(ValueError, match="at least 2"):
        fit_components(torch.ones(1, 3), 1)
    with pytest.raises(ValueError, match="a 3x4 grid holds 12 patches, not 9"):
        pca_rgb(torch.randn(1, 9, 4), (3, 4))


@pytest.mark.parametrize("per_image", [False, True])
def test_components_without_some_patches_are_those_of_the_others_alone(per_image):
    tokens = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0))
    present = torch.tensor([i not in (0, 5, 11) for i in range(12)])
    emptied = tokens.masked_fill(~present[None, :, None], torch.nan)
    found = whitened_components(emptied, (3, 4), 3, per_image=per_image, present=present).flatten(1, 2)
    assert found[:, ~present].isnan().all()
    for image in range(2):
        set_ = tokens[image : image + 1] if per_image else tokens
        fitted = fit_components(set_[:, present].flatten(0, 1), 3)
        by_hand = fitted.scores(tokens[image, present])
        assert torch.allclose(found[image, present].abs(), by_hand.abs(), atol=1e-4)
    assert torch.equal(
        whitened_components(tokens, (3, 4), 3, present=torch.ones(12, dtype=torch.bool)),
        whitened_components(tokens, (3, 4), 3),
    )


def test_a_share_of_attention_is_that_of_the_patches_that_are_there():
    layout = TokenLayout(cls=(0,), registers=(3,), other=(), patches=(1, 2, -1, 4), grid=(2, 2))
    rows = torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1]).view(1, 1, 1, 5)
    found = attention_maps(rows, layout)[0, 0]
    assert torch.equal(found.isnan(), torch.tensor([[False, False], [True, False]]))
    assert mass_mask(found, 0.6).tolist() == [[True, True], [False, False]]  # 0.4 and 0.2 of 0.7
