"""Long work says how far it is, also where no terminal shows a bar."""

from vitreg.passes import progress as module


def run(capsys, monkeypatch, seconds, **options):
    clock = iter(seconds)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with module.progress("training", 100, unit="steps", **options) as advance:
        for _ in seconds[1:]:
            advance(5, "loss 2.5")
    return capsys.readouterr()


def test_a_log_gets_a_line_a_minute(capsys, monkeypatch):
    found = run(capsys, monkeypatch, [0.0, 10.0, 61.0, 70.0, 122.0], show=True, done=20)
    assert found.out == ""
    assert found.err.splitlines() == [
        "training: 30 of 100 steps, loss 2.5, 0.164/s, 0:07:07 left",
        "training: 40 of 100 steps, loss 2.5, 0.164/s, 0:06:06 left",
    ]


def test_quiet_work_says_nothing(capsys):
    with module.progress("training", 100, unit="steps", show=False) as advance:
        advance(100)
    assert capsys.readouterr().err == ""


def test_a_clock_that_stands_still_gives_no_rate_and_no_error(capsys, monkeypatch):
    found = run(capsys, monkeypatch, [5.0, 5.0, 5.0], show=True, every=0.0)
    assert found.err.splitlines() == ["training: 5 of 100 steps, loss 2.5", "training: 10 of 100 steps, loss 2.5"]
