"""Every position of a run has its sample: epochs are permutations, repeats stand together, nothing is remembered."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from vitreg.data.batches.order import Order


def indices(order: Order, epoch: int) -> list[int]:
    return [order.at(epoch * order.epoch_length + i).index for i in range(order.epoch_length)]


@pytest.mark.parametrize("length", [1, 7, 300])
def test_every_epoch_holds_each_sample_once_in_an_order_of_its_own(length):
    order = Order(length, seed=3)
    epochs = [indices(order, epoch) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    assert length == 1 or len({tuple(epoch) for epoch in epochs}) == 3
    assert length == 1 or indices(Order(length, seed=4), 0) != epochs[0]


def test_a_position_does_not_depend_on_which_were_asked_before():
    straight = Order(50, seed=1)
    expected = [straight.at(position) for position in range(500)]
    jumping = Order(50, seed=1)
    for position in np.random.default_rng(0).permutation(500):
        assert jumping.at(int(position)) == expected[position]


def test_the_permutation_is_this_one_on_every_machine_and_version():
    # Computed once from numpy's documented streams: a new numpy must not reorder a run that is resumed.
    keys = np.random.Philox(np.random.SeedSequence([5, 2])).random_raw(8)
    assert indices(Order(8, seed=5), 2) == sorted(range(8), key=lambda i: keys[i])
    assert indices(Order(8, seed=5), 2) == [4, 2, 6, 7, 5, 0, 1, 3]


def ra_sampler(length: int, world: int, epoch_permutation: list[int], repeats: int = 3) -> list[list[int]]:
    """DeiT's sampler, from its description: repeat, pad, deal out to the processes, keep len // 256 * 256 / world."""
    repeated = [i for i in epoch_permutation for _ in range(repeats)]
    per_process = -(-length * repeats // world)
    repeated += repeated[: per_process * world - len(repeated)]
    kept = length // 256 * 256 // world
    return [repeated[rank::world][:kept] for rank in range(world)]


@pytest.mark.parametrize(("length", "world", "per_process"), [(1000, 4, 32), (515, 2, 64), (256, 8, 8)])
def test_repeated_augmentation_shows_in_each_step_what_deits_processes_see_together(length, world, per_process):
    order = Order(length, seed=0, repeats=3)
    full = Order(length, seed=0)
    for epoch in range(2):
        processes = ra_sampler(length, world, indices(full, epoch))
        ours = indices(order, epoch)
        assert len(ours) == sum(map(len, processes)) == length // 256 * 256
        batch = world * per_process
        for step in range(len(ours) // batch):
            theirs = [i for dealt in processes for i in dealt[step * per_process : (step + 1) * per_process]]
            assert Counter(ours[step * batch : (step + 1) * batch]) == Counter(theirs)


def test_copies_stand_together_and_are_numbered():
    order = Order(600, seed=0, repeats=3)
    places = [order.at(position) for position in range(order.epoch_length, order.epoch_length + 12)]
    assert [place.draw for place in places] == [0, 1, 2] * 4
    assert len({place.index for place in places}) == 4
    assert all(place.epoch == 1 for place in places)


def test_a_set_too_small_for_deits_rounding_keeps_its_length():
    assert Order(255, seed=0, repeats=3).epoch_length == 255
    assert Order(255, seed=0).epoch_length == 255
    assert Order(1000, seed=0).epoch_length == 1000


def test_without_shuffling_the_set_is_walked_through():
    order = Order(4, seed=0, shuffle=False)
    assert [order.at(position).index for position in range(9)] == [0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="before the run"):
        Order(4, seed=0).at(-1)
    with pytest.raises(ValueError, match="length 0"):
        Order(0, seed=0)
