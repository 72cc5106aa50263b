"""What is fastest is measured once per machine: kept, agreed on by processes that measure at the same time, never in the way."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from tests.apart import meeting, on_two
from tests.patience import PATIENCE

from vitreg.machine import measured


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(measured, "_known", {})
    return tmp_path / "vitreg" / "measured"


def forget(monkeypatch) -> None:
    """As another run on this machine begins."""
    monkeypatch.setattr(measured, "_known", {})


def two(runs: list[str] | None = None):
    """Two candidates that note that they ran."""
    noted = [] if runs is None else runs
    square = torch.ones(64, 64)

    def work(name):
        noted.append(name)
        return square @ square

    return lambda: {name: lambda name=name: work(name) for name in ("one", "other")}


def never():
    raise AssertionError("measured again")


def test_a_machine_measures_once_and_gives_the_same_times_ever_after(cache, monkeypatch):
    runs: list[str] = []
    first = measured.times("a product", two(runs))
    assert set(first) == {"one", "other"}
    assert min(first.values()) > 0
    assert runs == ["one", "other"] * (measured.ROUNDS + 1)  # interleaved
    forget(monkeypatch)
    more: list[str] = []
    assert measured.times("a product", two(more)) == first
    assert not more
    assert measured.times("a product", never) == first


def test_the_number_of_threads_is_put_back(cache):
    before = torch.get_num_threads()
    measured.times("a product", two())
    assert torch.get_num_threads() == before


def test_other_versions_and_processors_measure_anew(cache, monkeypatch):
    measured.times("a product", two())
    for change in (("ONEDNN_MAX_CPU_ISA", "AVX2"), None):
        forget(monkeypatch)
        if change:
            monkeypatch.setenv(*change)
        else:
            monkeypatch.setattr(torch, "__version__", "9.9")
        runs: list[str] = []
        measured.times("a product", two(runs))
        assert runs
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"what": "x", "milliseconds": {"one": 1, "other": 2}}',
        b"9" * 5000,
        b"[" * 100_000,
    ]
    + [json.dumps({"milliseconds": {"one": value, "other": 1}}).encode() for value in (0, -1, float("nan"), "fast")],
)
def test_a_damaged_record_is_measured_anew_and_replaced(cache, monkeypatch, content):
    measured.times("a product", two())
    (file,) = cache.iterdir()
    file.write_bytes(content)
    forget(monkeypatch)
    runs: list[str] = []
    found = measured.times("a product", two(runs))
    assert runs
    forget(monkeypatch)
    assert measured.times("a product", two()) == found
    assert [each.name for each in cache.iterdir()] == [file.name]


def test_a_folder_that_cannot_be_written_is_no_mistake(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(measured, "_known", {})
    first = measured.times("a product", two())
    assert measured.times("a product", never) == first  # this process goes by it to its end
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", classmethod(lambda _cls: (_ for _ in ()).throw(RuntimeError("no home"))))
    monkeypatch.setattr(measured, "_known", {})
    assert measured.times("a product", two())


def test_a_clock_that_stands_still_is_not_kept(cache, monkeypatch):
    monkeypatch.setattr(measured.time, "thread_time", lambda: 1.0)
    assert measured.times("a product", two()) == {"one": 0, "other": 0}
    assert not cache.exists()


def test_processes_that_measure_at_the_same_time_agree(cache):
    context = multiprocessing.get_context("fork")
    queue, x = context.Queue(), torch.ones(96, 96)
    candidates = {"one": lambda: x @ x, "other": lambda: x + x}
    started = [
        context.Process(target=lambda: queue.put(measured.times("a product", lambda: candidates))) for _ in range(3)
    ]
    for process in started:
        process.start()
    said = [queue.get(timeout=PATIENCE) for _ in started]
    assert said[0].keys() == candidates.keys()
    assert said == 3 * said[:1]


def _member(rank: int, env: dict[str, str], folder: Path) -> None:
    os.environ |= {**env, "RANK": str(rank)}
    os.environ["XDG_CACHE_HOME"] = str(folder / str(rank))  # as on two machines
    from vitreg.machine import measured, precision
    from vitreg.machine.runtime import processes

    fast = {"fp32": 9.0, "bf16": 3.0} if rank == 0 else {"fp32": 3.0, "bf16": 9.0}
    measured._known, measured._measure = {}, lambda _candidates: fast
    torch.cpu._is_avx512_bf16_supported = lambda: True
    with processes():
        dtype, _ = precision.choose_precision("auto", torch.device("cpu"))
    torch.save("bf16" if dtype == torch.bfloat16 else "fp32", folder / f"{rank}.pt")


def test_the_processes_of_a_run_go_by_what_the_first_one_measured(tmp_path):
    with meeting() as env:
        on_two(_member, env, tmp_path)
    assert [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)] == ["bf16", "bf16"]
