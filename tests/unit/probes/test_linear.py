import pytest
import torch
from torch import nn

from vitreg.errors import UserError
from vitreg.probes.linear import RATES, LinearHeads, inputs, orders


def drawn(n=60, width=20, classes=3):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    return torch.randn(n, width, generator=generator) + labels[:, None], labels


def test_the_grid_of_inputs_and_rates():
    kinds = inputs(4, (1, 4), mean=True)
    row = torch.tensor(
        [-4] * 4 + [-3] * 4 + [-2] * 4 + [-1] * 4 + [0] * 4
    )  # the block of each class token, 0: the mean
    read = {(kind.blocks, kind.mean): row[kind.columns].unique().tolist() for kind in kinds}
    assert read == {(1, False): [-1], (1, True): [-1, 0], (4, False): [-4, -3, -2, -1], (4, True): [-4, -3, -2, -1, 0]}
    assert len(LinearHeads(kinds, 3, batch=8, steps=1)) == 52
    assert len(RATES) == 13
    assert [kind.columns for kind in inputs(4, (1, 2), mean=False)] == [slice(4, 8), slice(0, 8)]


def test_every_head_trains_as_it_would_alone_with_torchs_sgd():
    x, labels = drawn()
    kinds, steps, batch = inputs(4, (1, 4), mean=True), 12, 16
    heads = LinearHeads(kinds, 3, rates=(1e-3, 0.1), batch=batch, steps=steps, seed=7)
    start = [(w.clone(), b.clone()) for w, b in zip(heads._weights, heads._biases, strict=True)]
    heads.fit(x, labels, batch=batch, seed=5)
    found = heads.logits(x)
    for h, (kind, rate) in enumerate(heads):
        i, r = divmod(h, 2)
        alone = nn.Linear(start[i][0].shape[1], 3)
        with torch.no_grad():
            alone.weight.copy_(start[i][0][3 * r : 3 * r + 3])
            alone.bias.copy_(start[i][1][3 * r : 3 * r + 3])
        optimiser = torch.optim.SGD(alone.parameters(), rate * batch / 256, momentum=0.9, weight_decay=0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=0)
        for index in orders(len(x), batch, steps, 5):
            optimiser.zero_grad()
            nn.functional.cross_entropy(alone(x[index][:, kind.columns]), labels[index]).backward()
            optimiser.step()
            schedule.step()
        torch.testing.assert_close(found[h], alone(x[:, kind.columns]).detach(), rtol=1e-4, atol=1e-5)


def test_weights_begin_small_and_biases_at_zero():
    heads = LinearHeads(inputs(64, (1,), mean=False), 50, batch=8, steps=1)
    assert heads._weights[0].std() == pytest.approx(0.01, rel=0.05)
    assert not heads._biases[0].any()


def test_what_can_be_learned_is_learned():
    x, labels = drawn(n=300)
    x = x + labels[:, None]  # two deviations between the means of neighbours, in each of 20 numbers
    heads = LinearHeads(inputs(4, (1, 4), mean=True), 3, batch=256, steps=60).fit(x, labels, batch=256)
    right = (heads.predict(x) == labels).float().mean(1)
    assert right.max() > 0.9
    shuffled = labels[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    control = LinearHeads(inputs(4, (1, 4), mean=True), 3, batch=256, steps=60).fit(x, shuffled, batch=256)
    assert (control.predict(x) == labels).float().mean(1).max() < 0.6


def test_every_image_is_seen_equally_often_even_where_a_batch_holds_more():
    for batch, steps in ((4, 25), (25, 4)):
        seen = torch.cat(list(orders(10, batch, steps, seed=0)))
        assert seen.bincount().tolist() == [10] * 10
    assert not torch.equal(seen[:10], seen[10:20])


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (torch.eye(1, 4), [0], "1 training image "),
        (torch.eye(3, 4), [1, 1, 1], "one class"),
        (torch.eye(3, 4), [0, 1, 7], "label 7 lies outside"),
        (torch.eye(3, 4) * float("nan"), [0, 1, 2], "not finite"),
    ],
)
def test_bad_data(x, y, sentence):
    with pytest.raises(UserError, match=sentence):
        LinearHeads(inputs(4, (1,), mean=False), 3, batch=2, steps=2).fit(x, torch.tensor(y), batch=2)
