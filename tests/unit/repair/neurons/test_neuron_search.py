"""How many neurons are edited: the limit of damage holds, and who is to blame for it is said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch.nn.functional as F

from vitreg.errors import UserError
from vitreg.repair.effect import Effects
from vitreg.repair.methods.test_time import added_tokens, fitted, repaired
from vitreg.repair.neurons.scores import Neuron
from vitreg.repair.neurons.search import _Search, _stopped
from vitreg.repair.record import EffectRecord
from vitreg.repair.settings import TestTimeSettings
from vitreg.repair.table.on_planted import patient

WRITERS, BEFORE, APART = 6, 0.02, 10.0


class Counted:
    """Effects of a model of which only the number of edited neurons is known: six of them write the outliers."""

    def __init__(self, damage: Callable[[int], float], ratio: Callable[[int], float]) -> None:
        self._damage, self._ratio = damage, ratio

    def of(self, edited: int) -> EffectRecord:
        ratio = self._ratio(edited)
        share = 0.0 if ratio < 2 else BEFORE
        return EffectRecord(
            images=8, share=share, before=BEFORE, worst_share=share, ratio=ratio, cls_change=self._damage(edited)
        )  # fmt: skip


def until_gone(edited: int) -> float:
    return 1.0 if edited >= WRITERS else APART


def search(damage: Callable[[int], float], ratio: Callable[[int], float] = until_gone) -> _Search:
    order = [(3, unit) for unit in range(100)]
    effects = cast("Effects", Counted(damage, ratio))
    return _Search(0.02, APART, 0.001, 40, order, [1.0] * 6 + [0.01] * 94, [], cast("Any", len_of), effects)


def len_of(neurons: Sequence[Neuron]) -> int:
    return len(neurons)


def test_the_fewest_that_remove_the_outliers_are_taken() -> None:
    free = search(lambda edited: 0.001 * (edited > WRITERS))
    assert free.run() == WRITERS
    assert _stopped(free, WRITERS) == []


def test_what_more_neurons_take_from_ordinary_tokens_is_no_outlier_removed() -> None:
    """Norms that go on falling, .88 to .73 of the others', once kept half as many neurons again."""
    assert search(lambda _: 0.001, lambda edited: max(0.7, 1 - 0.02 * edited) * until_gone(edited)).run() == WRITERS


@pytest.mark.parametrize("again", [APART, 1 / APART])
def test_a_number_at_which_norms_only_pass_those_of_others_is_not_taken(again: float) -> None:
    """Some of the writers alone can leave a token of ordinary length that the next one makes stand out, on either side."""

    def passing(edited: int) -> float:
        return 1.2 if edited == 5 else again if edited < 14 else 1.0

    assert search(lambda _: 0.001, passing).run() == 14


@pytest.mark.parametrize(("damage", "most"), [(0.005, 4), (0.009, 2), (0.015, 1)])
def test_no_repair_does_more_damage_than_allowed(damage: float, most: int) -> None:
    held = search(lambda edited: damage * edited)
    k = held.run()
    assert 1 <= k <= most
    assert held.effect(k).cls_change <= held.max_damage
    (note,) = _stopped(held, k)
    assert f"{k} neuron" in note
    assert "stay outliers; more of them move the class token further than --max-damage 0.02" in note


def test_a_model_that_one_neuron_damages_too_much_is_refused() -> None:
    with pytest.raises(UserError, match=r"even one neuron moves the class token by 0.03.*max_damage 0.02"):
        search(lambda edited: 0.03).run()


def test_what_is_added_is_blamed_where_it_does_the_damage() -> None:
    held = search(lambda edited: 0.015 + 0.002 * edited)
    _, blamed = _stopped(held, held.run())
    assert blamed == "What is added moves it by 0.015 without any neuron; --token mean adds an ordinary token."


def test_an_empty_token_disturbs_a_model_that_averages_contents_and_a_mean_one_does_not(
    photographs: list[Path],
) -> None:
    """LayerNorm gives an empty token the length of any other, and `global` averages what tokens hold after it."""
    with patient("global", 1, photographs[:8]) as case:
        base, pixels = case.subject.backbone, next(case.subject.batches("fit"))
        moved = {}
        for token in ("zero", "mean"):
            added = added_tokens(case.subject, TestTimeSettings(token=token))
            cls = repaired(base, fitted([], added))(pixels).cls
            moved[token] = float(1 - F.cosine_similarity(cls, base(pixels).cls).mean())
        assert moved["mean"] < 0.001 < 0.005 < moved["zero"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["test-time", "attention-bias"])
@pytest.mark.parametrize("seed", range(4))
def test_with_a_mean_token_outliers_that_carry_the_image_are_restored(
    method: str, seed: int, photographs: list[Path]
) -> None:
    with patient("global", seed, photographs) as case:
        after = case.after(method, token="mean")
        assert case.neurons(after.repair) == (1, 1)
        assert after.effect.worst_share == 0
        assert after.effect.cls_change < 0.002
        assert after.normal >= 0.99
        assert after.outliers >= 0.9 > after.before
