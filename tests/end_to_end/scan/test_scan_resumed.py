"""A scan that was killed goes on from its last saved sums, and says what the uninterrupted one says."""

import json
import os
import re
import signal
import tarfile
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch.multiprocessing import ProcessExitedException

import vitreg
from tests.apart import end_of, on_two
from tests.patience import until
from vitreg import report
from vitreg.analysis.tally import Tally
from vitreg.backbones import Edit
from vitreg.errors import UserError
from vitreg.passes import saved_pass
from vitreg.verbs.scan.verb import ScanOptions, scan

pytestmark = pytest.mark.usefixtures("undrawn")

MOMENTS = {"counting": (Tally, "add"), "saving": (os, "fsync"), "replacing": (np, "savez_compressed")}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("resumed"), np.random.default_rng(0)
    for number in range(7):
        small = rng.integers(0, 255, (rng.integers(4, 40), rng.integers(4, 40), 3)).astype(np.uint8)
        Image.fromarray(small).resize((260, 230), Image.Resampling.BICUBIC).save(folder / f"{number:02}.png")
    (folder / "03-broken.png").write_bytes(b"no image")
    return folder


OPTIONS = ScanOptions(batch_size=2, detector="mad")  # the quickest; all read the same sums
ONE_BY_ONE = ScanOptions(batch_size=1, detector="mad")


def facts(folder):
    record = json.loads((folder / "result.json").read_text())
    del record["provenance"]
    return record


@pytest.fixture(scope="module")
def uninterrupted(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    assert scan("planted:high-norm", photos, out=out, options=OPTIONS).verdict.kind == "high-norm"
    assert not (out / saved_pass.FOLDER).exists()
    return facts(out)


@pytest.mark.parametrize(("moment", "at"), [("counting", 4), ("saving", 2), ("replacing", 3)])
def test_a_scan_killed_at_any_moment_goes_on_and_says_the_same(moment, at, photos, uninterrupted, tmp_path, capsys):
    def killed():
        owner, name = MOMENTS[moment]
        before, calls = getattr(owner, name), []
        saved_pass.EVERY = 0.0  # every batch is saved

        def dies(*given, **named):
            calls.append(1)
            if len(calls) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return before(*given, **named)

        setattr(owner, name, dies)
        scan("planted:high-norm", photos, out=tmp_path, options=OPTIONS)

    assert end_of(killed) == -signal.SIGKILL
    assert not (tmp_path / "result.json").exists()
    scan("planted:high-norm", photos, out=tmp_path, options=OPTIONS)
    assert (
        f"resumed: {2 * {'counting': 3, 'saving': 1, 'replacing': 2}[moment]} of 8 images done"
        in capsys.readouterr().err
    )
    assert facts(tmp_path) == uninterrupted
    assert not (tmp_path / saved_pass.FOLDER).exists()


class Stopped(BaseException):
    pass


def stop(model, images, out, monkeypatch):
    """Let a scan end without a word after two batches, its sums saved."""
    monkeypatch.setattr(saved_pass, "EVERY", 0.0)
    add, calls = Tally.add, []

    def dies(self, batch):
        calls.append(1)
        if len(calls) == 3:
            raise Stopped
        add(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Tally, "add", dies)
        with pytest.raises(Stopped):
            scan(model, images, out=out, options=OPTIONS)


@pytest.fixture
def stopped(photos, tmp_path, monkeypatch):
    """The folder of a scan that ended without a word after two batches."""
    stop("planted:high-norm", photos, tmp_path, monkeypatch)
    assert list((tmp_path / saved_pass.FOLDER).iterdir())
    return tmp_path


def test_what_lies_behind_a_url_is_said_to_be_taken_for_the_same(photos, tmp_path, monkeypatch):
    """Of files size and time tell whether they changed; of a stream nothing does."""
    pytest.importorskip("webdataset")
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for path in sorted(photos.glob("*.png")):
            tar.add(path, path.name)
    url = f"pipe:cat {tmp_path / 'photos.tar'}"
    stop("planted:high-norm", url, tmp_path / "out", monkeypatch)
    result = scan("planted:high-norm", url, out=tmp_path / "out", options=OPTIONS)
    assert sum("behind URLs was taken" in note for note in result.model.notes) == 1
    assert result.images.seen == 7
    anew = scan("planted:high-norm", url, out=tmp_path / "anew", options=OPTIONS)
    assert not any("behind URLs" in note for note in anew.model.notes)


def test_other_settings_begin_anew(stopped, photos, capsys):
    result = scan("planted:clean", photos, out=stopped, options=OPTIONS)
    said = capsys.readouterr().err
    assert "resumed" not in said
    assert said.count("this scan begins anew") == 1
    assert (result.images.seen, result.verdict.kind) == (7, "none")
    assert not (stopped / saved_pass.FOLDER).exists()


@pytest.mark.slow
@dataclass(frozen=True)
class Scaled:
    by: float

    def __call__(self, hidden, _place):
        return hidden * self.by


def test_another_edit_or_other_weights_of_the_same_name_begin_anew(photos, tmp_path, capsys, monkeypatch):
    plain, few = vitreg.load("planted:clean", precision="fp32"), sorted(photos.iterdir())[:3]
    add, calls = Tally.add, []

    def dies(self, batch):
        calls.append(1)
        if len(calls) == 3:
            raise Stopped
        add(self, batch)

    def stop(backbone):
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(saved_pass, "EVERY", 0.0)
            patch.setattr(Tally, "add", dies)
            with pytest.raises(Stopped):
                scan(backbone, few, out=tmp_path / backbone.spec, options=ONE_BY_ONE)

    def goes_on(backbone):
        result = scan(backbone, few, out=tmp_path / backbone.spec, options=ONE_BY_ONE)
        assert result.layers == scan(backbone, few, options=ONE_BY_ONE).layers
        return "resumed" in capsys.readouterr().err

    edited = {by: plain.edited([Edit("block", 1, Scaled(by))], "scaled") for by in (0.5, 2.0)}
    for first, second, same in ((edited[0.5], edited[0.5], True), (edited[0.5], edited[2.0], False)):
        stop(first)
        assert goes_on(second) == same
    nameless = plain.edited([Edit("block", 1, lambda hidden, _: hidden)], "nameless")
    stop(nameless)
    assert not goes_on(nameless)
    stop(plain)
    with torch.no_grad():
        plain.module.blocks[0].attn.qkv.weight.mul_(2)
    assert not goes_on(plain)


def test_a_changed_image_begins_anew(stopped, photos, tmp_path_factory, capsys, uninterrupted):
    first = sorted(photos.iterdir())[0]
    before = first.stat()
    os.utime(first, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    scan("planted:high-norm", photos, out=stopped, options=OPTIONS)
    assert "resumed" not in capsys.readouterr().err
    assert facts(stopped) == uninterrupted


@pytest.mark.parametrize("damage", ["sums", "spill"])
def test_damaged_sums_begin_anew(damage, stopped, photos, capsys, uninterrupted):
    path = stopped / saved_pass.FOLDER / f"process-00000-of-00001.{damage}"
    path.write_bytes(path.read_bytes()[:100])
    scan("planted:high-norm", photos, out=stopped, options=OPTIONS)
    assert "resumed" not in capsys.readouterr().err
    assert facts(stopped) == uninterrupted


def test_what_is_not_ours_in_the_hidden_folder_stays(stopped, photos, uninterrupted):
    mine = stopped / saved_pass.FOLDER / "process-mine.txt"
    mine.write_text("keep")
    scan("planted:high-norm", photos, out=stopped, options=OPTIONS)
    assert [path.name for path in (stopped / saved_pass.FOLDER).iterdir()] == [mine.name]


OWN = "process-00000-of-00001"


@pytest.mark.parametrize("name", ["spill", "sums", "mark", "linked spill", "linked mark", "linked folder"])
def test_files_of_the_names_of_a_saved_pass_that_are_not_its_own_stay(name, photos, tmp_path, uninterrupted):
    ending, home = name.split()[-1], tmp_path / "out" / saved_pass.FOLDER
    (tmp_path / "mine").mkdir()
    for mine in ("spill", "mark"):
        (tmp_path / "mine" / f"{OWN}.{mine}").write_bytes(b"mine")
    if ending == "folder":
        home.parent.mkdir()
        home.symlink_to(tmp_path / "mine")
    else:
        home.mkdir(parents=True)
        place = home / f"{OWN}.{ending}"
        place.symlink_to(tmp_path / "mine" / place.name) if "linked" in name else place.write_bytes(b"mine")
    before = {path: path.read_bytes() for path in [*tmp_path.rglob("*")] if path.is_file()}
    scan("planted:high-norm", photos, out=tmp_path / "out", options=OPTIONS)
    assert facts(tmp_path / "out") == uninterrupted
    assert {path: path.read_bytes() for path in before} == before
    assert home.is_symlink() == (ending == "folder")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_spill_that_became_a_link_is_not_written_through(link, stopped, photos, tmp_path_factory, uninterrupted):
    mine, spill = tmp_path_factory.mktemp("mine") / "thesis", stopped / saved_pass.FOLDER / f"{OWN}.spill"
    mine.write_bytes(b"mine")
    spill.unlink()
    link(mine, spill)
    scan("planted:high-norm", photos, out=stopped, options=OPTIONS)
    assert mine.read_bytes() == b"mine"
    assert facts(stopped) == uninterrupted


@pytest.mark.parametrize("where", ["tally", "sums"])
def test_a_full_disk_keeps_the_pass_and_says_so(where, photos, uninterrupted, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(saved_pass, "EVERY", 0.0)
    owner, name = {"tally": (Tally, "add"), "sums": (os, "fsync")}[where]
    before, calls = getattr(owner, name), []

    def full(*given):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return before(*given)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        with pytest.raises(
            UserError, match=r"No space left on device; what was scanned is kept, .* once there is room"
        ):
            scan("planted:high-norm", photos, out=tmp_path, options=OPTIONS)
    scan("planted:high-norm", photos, out=tmp_path, options=OPTIONS)
    assert "resumed: 4 of 8" in capsys.readouterr().err
    assert facts(tmp_path) == uninterrupted


def test_an_interrupted_scan_keeps_its_sums_beside_its_result(photos, uninterrupted, tmp_path, monkeypatch, capsys):
    from vitreg.verbs.scan.measure import Measure

    measure, calls = Measure.__call__, []

    def interrupted(self, *given):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measure(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Measure, "__call__", interrupted)
        assert scan("planted:high-norm", photos, out=tmp_path, options=OPTIONS).images.interrupted
    assert scan("planted:high-norm", photos, out=tmp_path, options=OPTIONS).images.seen == 7
    assert "resumed: 6 of 8" in capsys.readouterr().err
    assert facts(tmp_path) == uninterrupted


@pytest.mark.parametrize("stage", ["readout", "drawing"])
def test_ctrl_c_when_all_images_were_seen_keeps_them(stage, photos, uninterrupted, tmp_path, monkeypatch, capsys):
    from vitreg.verbs.scan import verb

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(verb, "Readout" if stage == "readout" else "_draw", stopped)
        with pytest.raises(KeyboardInterrupt, match="what was scanned is kept"):
            scan("planted:high-norm", photos, out=tmp_path, options=OPTIONS)
    scan("planted:high-norm", photos, out=tmp_path, options=OPTIONS)
    assert "resumed: 7 of 8" in capsys.readouterr().err
    assert facts(tmp_path) == uninterrupted


def test_ctrl_c_before_the_first_image_leaves_nothing(photos, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(saved_pass.SavedPass, "restore", stopped)
    with pytest.raises(KeyboardInterrupt):
        scan("planted:high-norm", photos, out=tmp_path / "new", options=OPTIONS)
    assert not list(tmp_path.iterdir())


def on_its_share(rank, photos, out, meeting, dies_at):
    """Scan as one of two processes; dies_at says at which image each of them is killed, if at all."""
    torch.distributed.init_process_group("gloo", init_method=meeting.as_uri(), rank=rank, world_size=2)
    report.draw_scan = lambda *_: None
    if dies_at is not None:
        saved_pass.EVERY = 0.0
        add, calls = Tally.add, []

        def dies(self, batch):
            calls.append(1)
            if len(calls) == dies_at[rank]:
                until(
                    lambda: len(list((out / saved_pass.FOLDER).glob("*.sums"))) == 2
                )  # the other has something to keep
                os.kill(os.getpid(), signal.SIGKILL)
            add(self, batch)

        Tally.add = dies
    scan("planted:high-norm", photos, out=out, options=ONE_BY_ONE)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_a_scan_of_two_processes_goes_on_where_each_was_killed(photos, tmp_path, capfd):
    on_two(on_its_share, photos, tmp_path / "whole", tmp_path / "a", None)
    with pytest.raises(ProcessExitedException):
        on_two(on_its_share, photos, tmp_path / "out", tmp_path / "b", (4, 2))
    assert not (tmp_path / "out" / "result.json").exists()
    capfd.readouterr()
    on_two(on_its_share, photos, tmp_path / "out", tmp_path / "c", None)
    # The one that dies first takes the other with it, as under torchrun: 1 image and 1 to 3.
    assert re.findall(r"resumed: (\d) of 8 images done", capfd.readouterr().err) in (["2"], ["3"], ["4"])
    assert facts(tmp_path / "out") == facts(tmp_path / "whole")
    assert not (tmp_path / "out" / saved_pass.FOLDER).exists()


def test_a_mark_that_another_process_has_just_removed_is_not_made_again(tmp_path):
    """Two processes that end together remove each other's marks, and the folder with the last."""
    assert saved_pass._locked(tmp_path / "process-00001-of-00002.mark", new=False) is None
    assert saved_pass._locked(tmp_path / "gone" / "process-00001-of-00002.mark", new=False) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_sums_of_two_processes_are_not_those_of_one(photos, tmp_path, uninterrupted, capfd):
    with pytest.raises(ProcessExitedException):
        on_two(on_its_share, photos, tmp_path, tmp_path / "meeting", (3, 3))
    scan("planted:high-norm", photos, out=tmp_path, options=OPTIONS)
    assert "resumed" not in capfd.readouterr().err
    assert facts(tmp_path) == uninterrupted
    assert not (tmp_path / saved_pass.FOLDER).exists(), "what is of no use any more is removed with the rest"
