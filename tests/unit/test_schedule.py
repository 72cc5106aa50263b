"""Durations, and learning-rate curves against the formulas and the code of those who trained with them."""

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from vitreg.errors import UserError
from vitreg.schedule import Duration, cosine, linear, parse_duration, step_of_official_deit, warmup_cosine


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("5000 steps", 5000, "steps"),
        ("5000", 5000, "steps"),
        ("1 step", 1, "steps"),
        ("300k", 300_000, "steps"),
        ("1e4 steps", 10_000, "steps"),
        ("300 epochs", 300, "epochs"),
        ("90ep", 90, "epochs"),
        (" 0.5 Epochs ", Fraction(1, 2), "epochs"),
        (".5 epochs", Fraction(1, 2), "epochs"),
        ("1.28M examples", 1_280_000, "examples"),
        ("12.8b images", 12_800_000_000, "examples"),
        ("10%", 10, "percent"),
        ("2.5 %", Fraction(5, 2), "percent"),
        ("100 percent", 100, "percent"),
        ("0 steps", 0, "steps"),
    ],
)
def test_durations_are_read_as_people_write_them(text, amount, unit):
    assert parse_duration(text) == Duration(Fraction(amount), unit)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' is no duration"),
        ("soon", "'soon' is no duration"),
        ("nan epochs", "is no duration"),
        ("1,000 steps", "no unit of time ',000 steps'"),
        ("3 epcohs", "Did you mean 'epochs'"),
        ("1.28 M exmples", "Did you mean 'examples'"),
        ("-3 epochs", "cannot be negative"),
        ("1.5", "a unit may be missing, as in '1.5 epochs'"),
        ("120%", "longer than the run"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(text, sentence):
    with pytest.raises(UserError) as error:
        parse_duration(text)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("7 steps", 7),
        ("80 epochs", 100_000),
        ("1.1 epochs", 1375),
        ("0.0001 epochs", 1),
        ("1M examples", 489),  # 488.28 batches of 2048
        ("10%", 62_500),
        ("0 epochs", 0),
    ],
)
def test_durations_become_steps(text, steps):
    assert parse_duration(text).steps(epoch_steps=1250, batch=2048, total=625_000) == steps


def test_decimals_are_exact():
    # As floats 1.1 * 10 is 11.000000000000002.
    assert parse_duration("1.1 epochs").steps(epoch_steps=10, batch=1) == 11
    assert parse_duration("4.35K examples").steps(epoch_steps=10, batch=10) == 435


def test_a_share_of_nothing_is_refused():
    with pytest.raises(UserError, match="cannot be 10% of itself"):
        parse_duration("10%").steps(epoch_steps=10, batch=10)


def official_dinov2(base, final, total, warmup=0, start=0.0):
    """The table that DINOv2 looks its schedules up in."""
    count = np.arange(total - warmup)
    falling = final + 0.5 * (base - final) * (1 + np.cos(np.pi * count / len(count)))
    return np.concatenate([np.linspace(start, base, warmup), falling])


@pytest.mark.parametrize(("warmup", "start"), [(0, 0.0), (1, 0.0), (2, 1e-5), (80, 0.0), (100, 3e-6)])
def test_the_dinov2_curve_is_the_official_table(warmup, start):
    ours = [
        warmup_cosine(step, peak=3e-4, end=1e-6, warmup=warmup, total=500, warmup_start=start) for step in range(500)
    ]
    np.testing.assert_allclose(ours, official_dinov2(3e-4, 1e-6, 500, warmup, start), rtol=1e-12, atol=1e-18)


def test_golden_values_of_dinov2_vitl14():
    def lr(step):
        return warmup_cosine(
            step, peak=2e-4 * math.sqrt(3072 / 1024), end=1e-6, warmup=100_000, total=625_000, curve="dinov2"
        )

    assert lr(0) == 0
    assert lr(99_999) == lr(100_000) == pytest.approx(3.464e-4, abs=5e-8)
    assert lr(100_001) < lr(100_000)
    assert lr(624_999) == pytest.approx(1e-6, rel=1e-4)
    assert lr(625_000) == lr(700_000) == 1e-6
    temperature = [linear(step, 0.04, 0.07, 37_499) for step in (0, 18_750, 37_499, 100_000)]
    assert temperature == pytest.approx([0.04, 0.055, 0.07, 0.07], abs=1e-6)
    np.testing.assert_allclose(
        [linear(step, 0.04, 0.07, 37_499) for step in range(37_500)], np.linspace(0.04, 0.07, 37_500), rtol=1e-12
    )
    momentum = [cosine(step, 0.994, 1.0, 625_000) for step in (0, 312_500, 625_000)]
    assert momentum == pytest.approx([0.994, 0.997, 1.0], rel=1e-12)
    decay = [cosine(step, 0.04, 0.2, 625_000) for step in (0, 312_500, 625_000)]
    assert decay == pytest.approx([0.04, 0.12, 0.2], rel=1e-12)
    assert (momentum[0], decay[0]) == (0.994, 0.04)  # exactly: nothing has moved yet


def timm_scheduler(total, warmup):
    import torch
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    scheduler = CosineLRScheduler(optimizer, t_initial=total, lr_min=1e-5, warmup_t=warmup, warmup_lr_init=1e-6)
    return optimizer, scheduler


def test_the_deit_curve_is_timms_per_step():
    optimizer, scheduler = timm_scheduler(total=300, warmup=20)
    for step in range(310):
        scheduler.step(step)
        ours = warmup_cosine(step, peak=1e-3, end=1e-5, warmup=20, total=300, warmup_start=1e-6, curve="deit")
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12), step


def test_per_epoch_the_deit_curve_is_that_of_its_loop():
    optimizer, scheduler = timm_scheduler(total=240, warmup=5)
    epoch_steps, official, ours = 7, [], []
    for epoch in range(240):
        for step in range(epoch * epoch_steps, (epoch + 1) * epoch_steps):
            official.append(optimizer.param_groups[0]["lr"])
            ours.append(
                warmup_cosine(
                    step_of_official_deit(step, epoch_steps),
                    peak=1e-3,
                    end=1e-5,
                    warmup=5 * epoch_steps,
                    total=240 * epoch_steps,
                    warmup_start=1e-6,
                    curve="deit",
                )
            )
        scheduler.step(epoch)  # as DeiT's main.py calls it: after the epoch, with the number of the epoch that is over
    np.testing.assert_allclose(ours, official, rtol=1e-12)
    assert set(ours[: 2 * epoch_steps]) == {1e-6}
    assert ours[2 * epoch_steps] > 1e-6
    # timm's cosine does not wait for the warm-up, so the peak is never reached
    assert max(ours) == pytest.approx(1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + math.cos(math.pi * 5 / 240)))


def test_the_clip_curve_is_open_clips():
    scheduler = pytest.importorskip("open_clip_train.scheduler", reason="open_clip is not installed")

    class Optimizer:
        param_groups = ({},)

    adjust = scheduler.cosine_lr(Optimizer(), 5e-4, 20, 300)
    for step in range(300):
        ours = warmup_cosine(step, peak=5e-4, end=0.0, warmup=20, total=300, curve="clip")
        assert ours == pytest.approx(adjust(step), rel=1e-12, abs=1e-18), step
    assert warmup_cosine(0, peak=5e-4, end=0.0, warmup=20, total=300, curve="clip") == 5e-4 / 20


@pytest.mark.parametrize("curve", ["dinov2", "deit", "clip"])
def test_a_run_of_nothing_but_warmup_keeps_rising(curve):
    rates = [warmup_cosine(step, peak=1.0, end=0.5, warmup=10, total=10, curve=curve) for step in range(12)]
    assert rates[:10] == sorted(set(rates[:10]))
    assert rates[10:] == [0.5, 0.5]


def test_schedules_need_no_torch():
    code = "import sys, vitreg.schedule; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
