"""Sinks of heads in a scan that was stopped, and in one of two processes, are those of one pass."""

import numpy as np
import pytest
import torch
from PIL import Image

import vitreg
from tests.apart import on_two
from tests.unit.verbs.scan.sinks_by_edit import with_sinks
from vitreg import report
from vitreg.analysis.tally import Tally
from vitreg.passes import saved_pass
from vitreg.records import ScanResult

pytestmark = pytest.mark.usefixtures("undrawn", "few_resamples")

SETTINGS = {"batch_size": 2, "power": False}


class Stopped(BaseException):
    pass


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(9):
        small = rng.integers(0, 255, (rng.integers(4, 40), rng.integers(4, 40), 3)).astype(np.uint8)
        Image.fromarray(small).resize((260, 230), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def model():
    """A planted model in whose blocks 5 and 8 two heads have sinks, in some of the images."""
    return with_sinks(vitreg.load("planted:high-norm", precision="fp32"), (5, 8), every=0)


@pytest.fixture(scope="module")
def whole(pictures):
    found = vitreg.scan(model(), pictures, **SETTINGS).head_sinks
    shares = [found.share(block, head) for block in (5, 8) for head in (0, 1)]
    assert any(0 < share < 1 for share in shares)  # or nothing could go wrong
    assert found.value_space
    return found


@pytest.mark.slow
def test_a_scan_that_was_stopped_says_the_same(pictures, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(saved_pass, "EVERY", 0.0)
    add, calls = Tally.add, []

    def dies(self, batch):
        calls.append(1)
        if len(calls) == 4:
            raise Stopped
        add(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Tally, "add", dies)
        with pytest.raises(Stopped):
            vitreg.scan(model(), pictures, out=tmp_path, **SETTINGS)
    assert vitreg.scan(model(), pictures, out=tmp_path, **SETTINGS).head_sinks == whole
    assert "resumed: 6 of 9 images done" in capsys.readouterr().err


def on_its_share(rank, pictures, out, meeting):
    """Scan as one of two processes, which a test forks."""
    torch.distributed.init_process_group("gloo", init_method=meeting.as_uri(), rank=rank, world_size=2)
    report.draw_scan = lambda *_: None
    vitreg.scan(model(), pictures, out=out, **SETTINGS)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_say_what_one_says(pictures, whole, tmp_path):
    on_two(on_its_share, pictures, tmp_path / "out", tmp_path / "meeting")
    text = (tmp_path / "out" / "result.json").read_text()
    found = ScanResult.model_validate_json(text)
    assert found.provenance.processes == 2
    assert found.head_sinks.model_copy(update={"value_space": whole.value_space}) == whole
    for one, two in zip(whole.value_space, found.head_sinks.value_space, strict=True):
        assert two.outliers == one.outliers
        assert two.length == pytest.approx(one.length, rel=1e-4)
        assert two.outside == pytest.approx(one.outside, abs=1e-5)
