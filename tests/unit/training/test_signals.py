"""Being told to stop: once is a wish, twice is an order, and what some send twice is one."""

import os
import signal
import threading
import time

import pytest
from tests.patience import PATIENCE

from vitreg.training import signals
from vitreg.training.signals import Stop, stop_signals

TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("first", [TERM, INT])
@pytest.mark.parametrize("second", [TERM, INT])
def test_the_second_signal_interrupts_at_once_whichever_it_is(clock, first, second):
    stop = Stop()
    stop.ask(first)
    assert stop.signal == first
    clock[0] += 5
    with pytest.raises(KeyboardInterrupt):
        stop.ask(second)
    assert stop.signal == first


def test_two_sigterms_of_the_same_moment_are_one(clock):
    """`timeout` sends one to the process and one to its group."""
    stop = Stop()
    stop.ask(TERM)
    clock[0] += 0.1
    stop.ask(TERM)
    assert stop.signal == TERM


def test_of_several_processes_none_leaves_the_others_for_a_sigterm_passed_on(clock, monkeypatch):
    monkeypatch.setattr(signals.dist, "is_initialized", lambda: True)
    stop = Stop()
    stop.ask(TERM)
    clock[0] += 5
    stop.ask(TERM)
    with pytest.raises(KeyboardInterrupt):
        stop.ask(INT)


def test_a_run_that_hangs_is_not_deaf_to_a_second_sigterm(monkeypatch):
    monkeypatch.setattr(signals, "AT_ONCE", 0.2)

    over = threading.Event()

    def send():  # on a busy machine two may arrive as one
        while not over.wait(0.6):
            os.kill(os.getpid(), TERM)

    def hang():
        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        try:
            time.sleep(PATIENCE)
        finally:
            over.set()  # before the signal ends this process again
            sender.join()

    with pytest.raises(KeyboardInterrupt), stop_signals() as stop:
        hang()
    assert stop.signal == TERM
