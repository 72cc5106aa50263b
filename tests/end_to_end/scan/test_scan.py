"""`vitreg scan` as a user runs it, on real photographs."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.apart import on_two
from tests.end_to_end.conftest import one_sentence
from tests.end_to_end.made import QUICK
from tests.patience import PATIENCE, until
from vitreg import report
from vitreg.records import ScanResult
from vitreg.verbs.scan.verb import scan

pytestmark = pytest.mark.usefixtures("few_resamples", "coarse_figures")

UNDRAWN = str(Path(__file__).with_name("undrawn.py"))


@pytest.fixture(scope="module")
def photos(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for path in photographs[:8]:
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def planted(vitreg, photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("planted")
    done = vitreg("scan", "planted:high-norm", photos, "--out", out, "--tokens", "--precision", "fp32")
    assert done.returncode == 0, done.stderr
    return out, done


def read(out):
    return ScanResult.model_validate_json((out / "result.json").read_text())


def test_a_planted_model_is_recognised_and_everything_is_written(planted):
    out, done = planted
    result = read(out)
    assert result.verdict.kind == "high-norm"
    assert result.images.seen == 8
    assert not result.images.skipped
    assert result.verdict.sentence in done.stdout
    assert done.stdout.strip().splitlines()[-1] == f"Open {out / 'report.html'}"
    assert (out / "report.html").stat().st_size > 10_000
    assert list((out / "figures").glob("*.png"))
    assert {p.name for p in out.iterdir()} == {
        "result.json",
        "report.html",
        "figures",
        "examples.npz",
        "tokens.parquet",
        ".vitreg.json",
    }


def test_the_schema_is_the_documented_one(planted):
    document = json.loads((planted[0] / "result.json").read_text())
    assert document["schema"] == "vitreg.scan/1"
    assert set(document) >= {"model", "images", "layers", "verdict"}
    assert set(document["layers"][0]) >= {"index", "median", "p99", "max", "ratio", "threshold", "outlier_fraction"}
    assert set(document["verdict"]) >= {
        "kind",
        "strength",
        "confidence",
        "first_layer",
        "peak_layer",
        "outlier_fraction",
        "reason",
    }


def test_the_token_table_agrees_with_the_result(planted):
    result = read(planted[0])
    table = pq.read_table(planted[0] / "tokens.parquet").to_pydict()
    role, layer = np.array(table["role"]), np.array(table["layer"])
    norm, outlier = np.array(table["norm"]), np.array(table["outlier"])
    for record in result.layers:
        here = (role == "patch") & (layer == record.index)
        assert here.sum() == 8 * 196
        assert np.median(norm[here]) == pytest.approx(record.median, rel=0.01)
        assert outlier[here].mean() == pytest.approx(record.outlier_fraction, abs=1e-6)
    assert not outlier[role != "patch"].any()
    assert set(np.array(table["row"])[role == "cls"]) == {-1}


@pytest.mark.usefixtures("undrawn")
def test_a_clean_twin_is_not_accused(vitreg, photos, tmp_path):
    done = vitreg("scan", "planted:clean", photos, "--out", tmp_path / "out", "--fail-above", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert read(tmp_path / "out").verdict.kind == "none"


def on_its_share(rank, photos, out, meeting):
    """Scan as one of two processes, which a test forks."""
    torch.distributed.init_process_group("gloo", init_method=meeting.as_uri(), rank=rank, world_size=2)
    report.draw_scan = lambda *_: None
    scan("planted:high-norm", photos, out=out, precision="fp32")
    torch.distributed.destroy_process_group()


def under_torchrun(vitreg_process, photos, out):
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", UNDRAWN)
    words = ("scan", "planted:high-norm", photos, "--out", out, "--precision", "fp32")
    done = vitreg_process(*words, program=torchrun)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("started", ["forked", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_two_processes_say_what_one_says(vitreg_process, photos, planted, tmp_path, started):
    if started == "torchrun":
        under_torchrun(vitreg_process, photos, tmp_path / "out")
    else:
        on_two(on_its_share, photos, tmp_path / "out", tmp_path / "meeting")
    one, two = read(planted[0]), read(tmp_path / "out")
    assert two.provenance.processes == 2
    assert two.verdict.model_dump(exclude={"reason", "effects"}) == one.verdict.model_dump(
        exclude={"reason", "effects"}
    )
    assert two.per_image == one.per_image
    assert two.positions == one.positions
    for a, b in zip(one.layers, two.layers, strict=True):
        assert a.median == pytest.approx(b.median, rel=1e-5)
        assert a.histogram.counts == pytest.approx(b.histogram.counts, abs=2)
        assert (a.cls_attention or 0) == pytest.approx(b.cls_attention or 0, rel=1e-4)


@pytest.mark.usefixtures("undrawn")
def test_the_gate_exits_with_three(vitreg, photos, tmp_path):
    done = vitreg("scan", "planted:high-norm", photos, "--out", tmp_path / "out", "--fail-above", "0.001", *QUICK)
    assert done.returncode == 3
    assert "--fail-above" in done.stderr


@pytest.mark.usefixtures("undrawn")
def test_broken_images_are_listed_and_the_rest_is_scanned(vitreg, photos, tmp_path):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    good = sorted(photos.iterdir())
    for path in good[:4]:
        (mixed / path.name).write_bytes(path.read_bytes())
    (mixed / "truncated.jpg").write_bytes(good[4].read_bytes()[:3000])
    (mixed / "empty.png").write_bytes(b"")
    (mixed / "words.jpg").write_text("not an image")
    Image.new("RGB", (1, 1)).save(mixed / "dot.png")
    Image.new("RGB", (20000, 40), "teal").save(mixed / "wide.png")
    Image.open(good[5]).convert("CMYK").save(mixed / "cmyk.jpg")
    (mixed / "loop").symlink_to(mixed)
    done = vitreg("scan", "planted:high-norm", mixed, "--out", tmp_path / "out", *QUICK)
    assert done.returncode == 0, done.stderr
    images = read(tmp_path / "out").images
    assert images.seen == 6
    assert {s.name.rsplit("/", 1)[-1] for s in images.skipped} == {"truncated.jpg", "empty.png", "words.jpg", "dot.png"}
    assert all(s.reason for s in images.skipped)
    assert "4 images could not be read (listed in result.json); scanned 6." in done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_the_same_command_gives_the_same_result_in_another_process(vitreg, vitreg_process, photos, tmp_path):
    results = []
    for name, run in (("a", vitreg), ("b", partial(vitreg_process, program=(sys.executable, UNDRAWN)))):
        assert run("scan", "planted:low-norm", photos, "--out", tmp_path / name, "--limit", "4", *QUICK).returncode == 0
        results.append(read(tmp_path / name).model_dump(exclude={"provenance"}))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("scan", "timm:vit_tinny_patch16_224", "PHOTOS", "--random"), "vit_tiny_patch16_224"),
        (("scan", "planted:hi-norm", "PHOTOS"), "high-norm"),
        (("scan", "tim:vit_tiny_patch16_224", "PHOTOS"), "timm"),
        (("scan", "planted:high-norm"), "no images"),
        (("scan", "planted:high-norm", "nowhere/"), "nowhere"),
        (("scan", "planted:high-norm", "PHOTOS", "--detector", "percentile:98"), "percentile"),
        (("scan", "planted:high-norm", "PHOTOS", "--size", "big"), "--size"),
        (("scan", "planted:high-norm", "PHOTOS", "--fail-above", "2"), "--fail-above"),
        (("scan", "planted:high-norm", "PHOTOS", "--limit", "0"), "--limit"),
        (("scan", "planted:high-norm", "PHOTOS", "--device", "abacus"), "abacus"),
        (("scan", "timm:vit_tiny_patch16_224", "PHOTOS", "--weights", "missing.pth"), "missing.pth"),
        (("scan", "timm:vit_tiny_patch16_224", "PHOTOS", "--weights", "PICKLE"), "pickle"),
        (("scan", "timm:vit_tiny_patch16_224", "PHOTOS", "--weights", "OTHER"), "OTHER"),
        (("scan", "planted:high-norm", "PHOTOS", "--out", "FILE"), "is a file"),
        (("scan", "planted:high-norm", "PHOTOS", "--out", "/proc/nowhere"), "/proc/nowhere"),
        (("scan", "planted:high-norm", "EMPTY"), "EMPTY"),
        (("scan", "planted:high-norm", "BROKEN"), "could be read"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing_behind(vitreg, photos, tmp_path, monkeypatch, arguments, says):
    import torch

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'evil-ran'}",)

    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("x")
    (tmp_path / "BROKEN").mkdir()
    (tmp_path / "BROKEN" / "a.jpg").write_bytes(b"")
    torch.save({"model": Evil()}, tmp_path / "PICKLE")
    torch.save({"conv.weight": torch.zeros(3, 3)}, tmp_path / "OTHER")
    before = {p.name for p in tmp_path.iterdir()}
    places = {"PHOTOS": photos, **{name: tmp_path / name for name in ("EMPTY", "FILE", "BROKEN", "PICKLE", "OTHER")}}
    words = [places.get(a, a) for a in arguments]
    if "--out" not in words:
        words += ["--out", tmp_path / "out"]
    monkeypatch.chdir(tmp_path)
    sentence = one_sentence(vitreg(*words))
    assert says in sentence
    after = {p.name for p in tmp_path.iterdir()}
    assert after == before, "nothing may be half-written, and no pickled code may run"


def test_a_full_disk_is_one_sentence_and_leaves_the_record_but_no_half_of_anything(vitreg, photos, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=192k", "none", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount a small tmpfs here")
    try:
        sentence = one_sentence(vitreg("scan", "planted:high-norm", photos, "--out", small, *QUICK))
        assert "space" in sentence
        assert {p.name for p in small.rglob("*") if p.is_file()} == {"result.json", ".vitreg.json"}
        assert read(small).images.seen == 8
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_ctrl_c_keeps_what_was_scanned(photographs, tmp_path):
    command = [
        sys.executable,
        UNDRAWN,
        "scan",
        "planted:high-norm",
        *[str(photographs[0].parent)] * 30,
        "--out",
        str(tmp_path / "out"),
    ]
    command += ["--batch-size", "1", *QUICK]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def started():
        """The spill file is open but nameless; its growth in /proc shows that scanning has begun."""
        return any(size > 100_000 for path, size in _open_files(process.pid) if path.startswith(str(tmp_path)))

    until(started, process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, stderr
    result = read(tmp_path / "out")
    assert result.images.interrupted
    assert 0 < result.images.seen < result.images.planned == 30 * len(photographs)
    assert f"Stopped after {result.images.seen} of {result.images.planned} images" in stdout


def _open_files(pid):
    """Yield path and size of what a process holds open; what it closes meanwhile, or the process that has ended, is left out."""
    with suppress(FileNotFoundError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):
                held = f"/proc/{pid}/fd/{number}"
                yield os.path.realpath(held), os.stat(held).st_size


def test_black_images_at_a_small_size_have_a_result_with_all_its_figures(vitreg, tmp_path):
    (tmp_path / "black").mkdir()
    for number in range(4):
        Image.new("RGB", (64, 64)).save(tmp_path / "black" / f"{number}.png")
    done = vitreg(
        "scan", "timm:deit_tiny_patch16_224", tmp_path / "black", "--random", "--size", 64, "--out", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "out").undrawn == []
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_scan_whose_drawing_fails_keeps_its_numbers_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("vitreg.report.scan.charts.norms.svg", lambda *_: 1 / 0)
    monkeypatch.setattr("vitreg.verbs.scan.verb.build_examples", lambda *_, **__: 1 / 0)
    scan("planted:clean", torch.zeros(2, 3, 64, 64), out=tmp_path / "out")
    held = read(tmp_path / "out")
    assert [each.name for each in held.undrawn] == ["maps of the images", "chart of norms"]
    assert all("division by zero" in each.reason for each in held.undrawn)
    assert len(held.layers) == 12
    assert "chart of norms" in (tmp_path / "out" / "report.html").read_text()
