"""A run that is killed, stopped, or finds its disk full goes on where it was, bit for bit."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end import tiny_run
from tests.patience import PATIENCE, until

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("interrupted.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
STEPS = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_run.pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def settings(data, tmp_path_factory):
    return tiny_run.settings_file(
        tmp_path_factory.mktemp("settings") / "tiny.json", data, run={"duration": f"{STEPS} steps"}
    )


@pytest.fixture(scope="module")
def undisturbed(settings, tmp_path_factory):
    """A run that nothing happens to, and how many events each of its doings has."""
    folder = tmp_path_factory.mktemp("undisturbed")
    [end] = lived([{"words": ["--config", str(settings), "--out", str(folder / "run")]}], folder)
    assert end["code"] == 0, end["said"]
    return folder / "run", end["events"]


def lived(lives, folder):
    """Let lives happen one after the other, and return their ends."""
    lives = [{"log": str(folder / f"life{number}.log"), **life} for number, life in enumerate(lives)]
    done = subprocess.run(
        [sys.executable, PROGRAM], input=json.dumps(lives), capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def moments(events, count, seed, longest=1.5):
    """Draw moments: of a step, a look, a save, or between two accesses to the disk, at most `longest` of it away."""
    draw = random.Random(seed)
    times = {"step": STEPS, "look": STEPS // 4 + STEPS // 5, "save": STEPS // 3 + STEPS // 4}
    times["disk"] = times["save"]
    for number in range(count):
        doing = ("step", "save", "look", "disk")[number % 4]
        yield {"doing": doing, "event": 1 + int(draw.random() * longest * events[doing] / times[doing])}


def begin_or_go_on(number, settings, run):
    """The words of a life: the first begins the run; every third has a worker process."""
    words = ["--config", str(settings), "--out", str(run)] if number == 0 else ["--resume", str(run)]
    return [*words, "--data.workers", "1"] if number % 3 == 2 else words


def test_kill_9_at_20_moments(settings, undisturbed, tmp_path):
    reference, events = undisturbed
    run = tmp_path / "run"
    lives = [
        {**moment, "signal": "SIGKILL", "words": begin_or_go_on(number, settings, run)}
        for number, moment in enumerate(moments(events, 20, seed=1))
    ]
    *killed, last = lived([*lives, {"words": ["--resume", str(run)]}], tmp_path)
    assert [end["code"] for end in killed] == [-9] * 20, killed
    assert last["code"] == 0, last["said"]
    tiny_run.assert_same_run(run, reference)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_being_told_to_stop_at_20_moments(name, code, settings, undisturbed, tmp_path):
    reference, events = undisturbed
    run = tmp_path / "run"
    lives = [
        {**moment, "signal": name, "words": begin_or_go_on(number, settings, run)}
        for number, moment in enumerate(moments(events, 20, seed=2, longest=0.9))
    ]
    *stopped, last = lived([*lives, {"words": ["--resume", str(run)]}], tmp_path)
    for end in stopped:
        assert end["code"] == code, end
        assert end["said"].splitlines()[-1].startswith("Stopped after step ")
        assert end["said"].splitlines()[-1].endswith(f"; go on with: vitreg train --resume {run}")
    assert last["code"] == 0, last["said"]
    tiny_run.assert_same_run(run, reference)


def test_a_truncated_newest_checkpoint_is_passed_over(settings, undisturbed, tmp_path):
    reference, events = undisturbed
    run = tmp_path / "run"
    stop = {"doing": "step", "event": events["step"] * 10 // STEPS, "signal": "SIGTERM"}
    [end] = lived([{**stop, "words": ["--config", str(settings), "--out", str(run)]}], tmp_path)
    assert end["code"] == 143
    newest = tiny_run.checkpoints(run)[-1]
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        file = newest / name
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) * 2 // 3])
        stop = {"doing": "step", "event": 10, "signal": "SIGKILL"}  # before anything is saved
        [end] = lived([{**stop, "words": ["--resume", str(run)]}], tmp_path)
        assert f"checkpoint {newest.name} is damaged" in end["said"]
        assert f"went on from {tiny_run.checkpoints(run)[-2].name}" in end["said"]
        file.write_bytes(whole)
    (newest / "model.safetensors").write_bytes(b"")
    [end] = lived([{"words": ["--resume", str(run)]}], tmp_path)
    assert end["code"] == 0, end["said"]
    tiny_run.assert_same_run(run, reference)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own that the test can fill."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a full disk needs a small file system, and mount says: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_during_saves(settings, undisturbed, small_disk, tmp_path):
    reference, events = undisturbed
    run, filler = small_disk / "run", str(small_disk / "filler")
    full = [
        {**moment, "filler": filler, "emptied": filler, "words": begin_or_go_on(number, settings, run)}
        for number, moment in enumerate(moments({**events, "disk": events["disk"] * 2}, 12, seed=3))
    ]
    *ended, last = lived([*full, {"emptied": filler, "words": ["--resume", str(run)]}], tmp_path)
    for end in ended:
        said = end["said"].strip().splitlines()
        assert end["code"] == 2, end
        assert all(line.startswith("vitreg: ") for line in said), said
        assert said[-1].startswith("vitreg: cannot write ")
        assert "No space left on device" in said[-1]
    assert last["code"] == 0, last["said"]
    tiny_run.assert_same_run(run, reference)


def torchrun(processes, life, folder):
    """One life on several processes; returns torchrun's exit code and what all of them said."""
    file = folder / "life.json"
    file.write_text(json.dumps({"log": str(folder / "life"), **life}))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [*command, PROGRAM, file], capture_output=True, text=True, env=ENVIRONMENT, timeout=400, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_then_one_then_two(parallel, data, tmp_path):
    settings = tiny_run.settings_file(tmp_path / "s.json", data, run={"duration": "12 steps", "parallel": parallel})
    whole, run = tmp_path / "whole", tmp_path / "run"
    [end] = lived([{"words": ["--config", str(settings), "--out", str(whole)]}], tmp_path)
    assert end["code"] == 0, end["said"]
    step = end["events"]["step"] // 12
    stop = {"doing": "step", "event": 3 * step, "signal": "SIGTERM"}  # in the third step or near it
    code, said = torchrun(2, {**stop, "words": ["--config", str(settings), "--out", str(run)]}, tmp_path)
    assert code != 0, said
    assert said.count("go on with: vitreg train --resume") == 1, said
    assert said.count("exitcode  : 143") == 2, said  # both left by themselves
    first = tiny_run.checkpoints(run)[-1]
    [end] = lived([{**stop, "words": ["--resume", str(run)]}], tmp_path)
    assert end["code"] == 143, end["said"]
    assert tiny_run.checkpoints(run)[-1].name > first.name
    code, said = torchrun(2, {"words": ["--resume", str(run)]}, tmp_path)
    assert code == 0, said
    assert tiny_run.difference(run / "model.safetensors", whole / "model.safetensors") < 1e-5
    ours, theirs = tiny_run.records(run), tiny_run.records(whole)
    assert [(line["kind"], line["step"]) for line in ours] == [(line["kind"], line["step"]) for line in theirs]
    for one, other in zip(ours, theirs, strict=True):
        if one["kind"] == "train":
            assert {**one, "kind": 0} == pytest.approx({**other, "kind": 0}, rel=1e-4)


def test_torchrun_told_to_stop_saves_once_and_leaves_nobody_behind(settings, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vitreg"]
    words = ["train", "--config", settings, "--out", run, "--run.duration", "9000 steps", "--run.log-every", "1"]
    with log.open("w") as file:
        process = subprocess.Popen([*command, *words], stdout=file, stderr=subprocess.STDOUT, env=ENVIRONMENT)
        try:
            until(lambda: list((run / "checkpoints").glob("step-*")), process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=PATIENCE) != 0
        finally:
            process.kill()
    stopped = re.findall(r"Stopped after step (\d+); go on with: vitreg train --resume", log.read_text())
    assert len(stopped) == 1, log.read_text()
    assert tiny_run.checkpoints(run)[-1].name == f"step-{int(stopped[0]):08d}"
    assert tiny_run.records(run)[-1]["step"] == int(stopped[0])
    until(
        lambda: subprocess.run(["pgrep", "-f", str(run)], capture_output=True, check=False).returncode
    )  # all are gone


def test_a_terminal_shows_how_far_the_run_is_and_how_long_it_takes(settings, tmp_path):
    if shutil.which("script") is None:
        pytest.skip("a terminal needs the program script")
    words = f"{sys.executable} -m vitreg train --config {settings} --out {tmp_path / 'run'} --run.log-every 1"
    seen = tmp_path / "seen"
    done = subprocess.run(
        ["script", "-qec", words, str(seen)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=ENVIRONMENT,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.read_text(errors="replace"))
    bars = re.findall(
        rf"training, loss [\d.]+ .* +(\d+)/{STEPS} steps +[\d.]+/s (\d+:\d\d:\d\d) (\d+:\d\d:\d\d)", plain
    )
    assert bars, plain[-2000:]
    assert int(bars[-1][0]) == STEPS
    assert any(0 < int(step) < STEPS for step, *_ in bars)
