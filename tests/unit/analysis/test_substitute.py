import pytest
import torch

from vitreg.analysis.substitute import KINDS, TokenBank, replacing
from vitreg.backbones import Backbone, Capture
from vitreg.models.vit import VisionTransformer

L, D = 3, 5


def bank(images=40, slots=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randn(L, images * slots, D, generator=g) * torch.arange(1, D + 1) + 7
    slot = torch.arange(slots).repeat(images)
    image = torch.arange(images).repeat_interleave(slots)
    found = TokenBank(slots)
    for start in range(0, images * slots, 6 * slots):
        part = slice(start, start + 6 * slots)
        found.partial_fit(tokens[:, part], slot[part], image[part])
    return found, tokens, slot


def test_moments_are_those_of_all_tokens_of_a_slot():
    found, tokens, slot = bank()
    for s in range(2):
        own = tokens[:, slot == s]
        torch.testing.assert_close(found.mean_[:, s], own.mean(1))
        torch.testing.assert_close(found.deviation_[:, s], own.std(1, unbiased=False))


def test_processes_together_are_as_one():
    whole, tokens, slot = bank()
    image = torch.arange(40).repeat_interleave(2)
    parts = [TokenBank(2), TokenBank(2), TokenBank(2)]
    parts[0].partial_fit(tokens[:, :30], slot[:30], image[:30])
    parts[2].partial_fit(tokens[:, 30:], slot[30:], image[30:])
    merged = parts[0].over(lambda _: [(p.count, p._mean, p._square, p._pool) for p in parts])
    torch.testing.assert_close(merged.mean_, whole.mean_)
    torch.testing.assert_close(merged.deviation_, whole.deviation_)
    new = torch.tensor([0, 1]), torch.tensor([100, 100])
    torch.testing.assert_close(merged.values("shuffle", *new), whole.values("shuffle", *new))


def test_zero_mean_and_noise_have_the_moments_they_promise():
    found, _, _ = bank()
    slots, images = torch.zeros(4000, dtype=torch.long), torch.arange(4000) // 2 + 1000
    assert not found.values("zero", slots, images).any()
    assert torch.equal(found.values("mean", slots, images), found.mean_[:, slots])
    noise = found.values("noise", slots, images)
    torch.testing.assert_close(noise.mean(1), found.mean_[:, 0], atol=0.3, rtol=0.05)
    torch.testing.assert_close(noise.std(1), found.deviation_[:, 0], atol=0.1, rtol=0.05)
    assert not torch.equal(noise[:, 0], noise[:, 1])


def test_shuffled_tokens_are_tokens_of_one_other_image_at_all_blocks():
    found, tokens, _ = bank()
    slots, images = torch.tensor([0, 1, 0, 1, 0, 0]), torch.tensor([500, 500, 501, 501, 502, 502])
    values = found.values("shuffle", slots, images)
    whose = [[i for i in range(40) if torch.equal(values[:, t], tokens[:, 2 * i + int(slots[t])])] for t in range(6)]
    assert all(len(w) == 1 for w in whose)
    assert whose[0] == whose[1]  # both slots of an image from the same other image
    assert whose[2] == whose[3]
    assert whose[4] != whose[5]  # two tokens of one slot from two images
    assert whose[0] != whose[2]


@pytest.mark.parametrize("kind", KINDS)
def test_draws_do_not_depend_on_the_batch(kind):
    found, _, _ = bank()
    slots, images = torch.tensor([0, 1, 0, 1]), torch.tensor([7, 7, 9, 9])
    together = found.values(kind, slots, images, seed=3)
    torch.testing.assert_close(found.values(kind, slots[2:], images[2:], seed=3), together[:, 2:])


def test_edits_put_the_values_into_every_block_and_leave_the_others():
    torch.manual_seed(0)
    model = VisionTransformer(32, 16, 24, 3, 3, registers=2).eval()
    backbone, pixels = Backbone(model), torch.randn(2, 3, 32, 32)
    image, token = torch.tensor([0, 1, 1]), torch.tensor([1, 2, 5])
    values = torch.randn(3, 3, 24)
    plain = backbone.trace(pixels, Capture(hidden="all"))
    edited = backbone.trace(pixels, Capture(hidden="all"), replacing(image, token, values))
    for layer in range(3):
        torch.testing.assert_close(edited.hidden(layer)[image, token], values[layer])
    others = torch.ones(2, 7, dtype=torch.bool)
    others[image, token] = False
    torch.testing.assert_close(edited.hidden(0)[others], plain.hidden(0)[others])
    assert not torch.allclose(edited.hidden(2)[others], plain.hidden(2)[others])
    again = backbone.trace(pixels, Capture(hidden="all"))
    assert torch.equal(again.hidden(2), plain.hidden(2))  # nothing of the edit stays


def test_a_slot_of_which_nothing_is_known_is_refused():
    found = TokenBank(2).partial_fit(torch.ones(L, 1, D), torch.tensor([0]), torch.tensor([0]))
    with pytest.raises(ValueError, match="nothing can stand in"):
        found.values("mean", torch.tensor([1]), torch.tensor([5]))
    with pytest.raises(ValueError, match="no tokens seen"):
        TokenBank().values("zero", torch.tensor([0]), torch.tensor([0]))
