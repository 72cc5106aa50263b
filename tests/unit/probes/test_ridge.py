import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as Reference

from vitreg.probes.ridge import Moments, Ridge, SplitMoments


def samples(n=300, d=7, k=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g) * torch.logspace(-1, 2, d) + 1000  # badly scaled, far from zero
    return x, (x / torch.logspace(-1, 2, d)) @ torch.randn(d, k, generator=g) + torch.randn(n, k, generator=g)


def moments_of(x, y, batch):
    return sum((Moments.of(x[i : i + batch], y[i : i + batch]) for i in range(0, len(x), batch)), Moments.zero(7, 3))


@pytest.mark.parametrize("strength", [1e-6, 1e-2, 1.0])
def test_it_is_the_ridge_of_scikit_learn(strength):
    x, y = samples()
    moments = moments_of(x, y, 17)
    alpha = strength * float(moments.xx.trace()) / 7
    truth = Reference(alpha=alpha, solver="svd").fit(x.double().numpy(), y.double().numpy())
    fitted = Ridge([strength]).fit(moments).map_
    np.testing.assert_allclose(fitted.weight.T.numpy(), truth.coef_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(fitted(x.double()).numpy(), truth.predict(x.double().numpy()), rtol=1e-7)


def test_moments_do_not_depend_on_the_batches_and_merge():
    x, y = samples()
    whole = Moments.of(x, y)
    for batch in (1, 64):
        parts = moments_of(x, y, batch)
        assert parts.count == 300
        for name in ("mean_x", "mean_y", "xx", "xy", "yy"):
            torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-9, atol=1e-6)
    torch.testing.assert_close(whole.xx, torch.cov(x.double().T) * 299)


def test_the_error_from_moments_is_the_error_from_samples():
    x, y = samples()
    fitted = Ridge([0.1]).fit(Moments.of(x[:100], y[:100])).map_
    held = Moments.of(x[100:], y[100:])
    direct = (fitted(x[100:].double()) - y[100:].double()).square().sum()
    assert fitted.squared_error(held) == pytest.approx(direct.item(), rel=1e-9)


def test_the_strength_is_the_best_on_held_out_samples():
    x, y = samples(n=40)
    strengths = (1e-8, 1e-3, 1e-1, 10.0)
    fit, held = Moments.of(x[:12], y[:12]), Moments.of(x[12:], y[12:])
    errors = [(Ridge([s]).fit(fit).map_(x[12:].double()) - y[12:]).square().sum().item() for s in strengths]
    chosen = Ridge(strengths).fit(fit, held)
    assert chosen.strength_ == strengths[int(np.argmin(errors))]
    again = Ridge([chosen.strength_]).fit(Moments.of(x, y)).map_
    torch.testing.assert_close(chosen.map_.weight, again.weight)


def test_constant_inputs_give_the_mean():
    x, y = torch.ones(5, 2), torch.arange(5.0)[:, None]
    assert Ridge([1e-8]).fit(Moments.of(x, y)).map_(torch.ones(1, 2)).item() == pytest.approx(2)


def test_images_go_to_one_side_each_and_processes_merge():
    x, y = samples(n=60)
    x, y = x.view(6, 10, 7), y.view(6, 10, 3)
    own = torch.tensor([False, True, False, False, True, False])
    whole, first, second = SplitMoments(), SplitMoments(), SplitMoments()
    whole.add(x, y, own)
    first.add(x[:3], y[:3], own[:3])
    second.add(x[3:], y[3:], own[3:])
    first.merge(lambda value: [value, None, (second.fit, second.held_out)])
    assert (whole.fit.count, whole.held_out.count) == (40, 20)
    torch.testing.assert_close(first.both()[0].xy, whole.fit.xy)
    torch.testing.assert_close(first.both()[1].xx, whole.held_out.xx)


def test_what_cannot_be_fitted_is_refused():
    x, y = samples(n=3)
    with pytest.raises(ValueError, match="held-out"):
        Ridge().fit(Moments.of(x, y))
    with pytest.raises(ValueError, match="no samples"):
        Ridge([1.0]).fit(Moments.zero(2, 1))
    with pytest.raises(ValueError, match="positive"):
        Ridge([0.0])
    only = SplitMoments()
    only.add(x[None], y[None], torch.tensor([False]))
    with pytest.raises(ValueError, match="both needed"):
        only.both()
