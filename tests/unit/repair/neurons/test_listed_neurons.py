"""Neurons that a repair edits are kept as a list, and moved again without a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import vitreg
from vitreg.cli import run as command
from vitreg.errors import UserError
from vitreg.models import planted
from vitreg.repair.fitting import fit_repair
from vitreg.repair.repair import Repair

pytestmark = pytest.mark.usefixtures("planted_once", "undrawn")
SPEC = "planted:high-norm"


@pytest.fixture(scope="module")
def repair(photographs: list[Path]) -> Repair:
    return fit_repair(SPEC, photographs[-12:], "test-time", neurons=6, device="cpu")


@pytest.fixture
def listed(repair: Repair, tmp_path: Path) -> Path:
    return repair.save(tmp_path / "first") / "neurons.json"


def changed(file: Path, **fields: Any) -> Path:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return file


def test_a_list_holds_the_neurons_and_whose_they_are(repair: Repair, listed: Path) -> None:
    held = json.loads(listed.read_text())
    assert held["schema"] == "vitreg.neurons/1"
    assert (held["source"], held["model"], held["score"]) == ("ours", SPEC, "contrast")
    assert held["weights_sha256"] == repair.record.base.weights_sha256
    ((block, units),) = planted.build("high-norm", 0)[1].neurons.items()
    assert {tuple(each) for each in held["order"]} == {(block, unit) for unit in units}


@pytest.mark.parametrize("method", ["test-time", "attention-bias"])
def test_the_neurons_of_a_list_are_moved_without_a_search(
    method: str, repair: Repair, listed: Path, photographs: list[Path]
) -> None:
    wanted = repair.record.details["order"]
    changed(listed, order=wanted[::-1])  # as listed, not as ranked
    again = fit_repair(SPEC, photographs[-12:], method, neurons_from=listed, device="cpu")
    assert again.record.details["order"] == wanted[::-1]
    assert again.record.details["rounds"] == [{"neurons": 6, "listed": "ours", "model": SPEC}]
    assert again.record.settings["neurons_from"] == str(listed)
    assert again.record.held_out is not None
    assert again.record.held_out.worst_share == 0
    assert again.record.notes == []


def test_a_control_takes_as_many_others_of_the_same_blocks(
    repair: Repair, listed: Path, photographs: list[Path], tmp_path: Path
) -> None:
    control = fit_repair(SPEC, photographs[-12:], neurons_from=listed, control=True, device="cpu")
    ours, theirs = ({tuple(each) for each in found.record.details["order"]} for found in (repair, control))
    assert len(theirs) == 6
    assert not ours & theirs
    assert {block for block, _ in ours} == {block for block, _ in theirs}
    assert not (control.save(tmp_path / "control") / "neurons.json").exists()


def test_a_list_of_other_weights_is_noted_and_of_another_shape_refused(listed: Path, photographs: list[Path]) -> None:
    other = fit_repair("planted:high-norm@1", photographs[-12:], neurons_from=listed, device="cpu")
    assert other.record.notes == [f"The neurons are those of {SPEC} with other weights than these."]
    wrong = {
        r"lists neurons of planted:high-norm, which has 7 blocks": {"blocks": 7},
        r"neuron 100000 of block 3, and .* has no such neuron": {"order": [[3, 100000]]},
        r"is no list of neurons .* but of the kind \"vitreg.repair/1\"": {"schema": "vitreg.repair/1"},
        r"is damaged: source": {"source": "theirs"},
    }
    held = listed.read_text()
    for said, fields in wrong.items():
        listed.write_text(held)
        with pytest.raises(UserError, match=said):
            fit_repair(SPEC, photographs[-12:], neurons_from=changed(listed, **fields), device="cpu")
    with pytest.raises(UserError, match="says which neurons are moved"):
        fit_repair(SPEC, photographs[-12:], neurons_from=listed, neurons=3)


def test_the_command_line_takes_a_list_and_never_writes_over_it(
    listed: Path, photographs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in photographs[-12:]:
        (folder / path.name).write_bytes(path.read_bytes())
    words = ["fix", "test-time", SPEC, str(folder), "--device", "cpu"]
    out = tmp_path / "with spaces"
    assert command([*words, "--neurons-from", str(listed), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"vitreg scan 'fixed:{out}' IMAGES" in said
    assert vitreg.load_repair(out).record.details["rounds"][0]["listed"] == "ours"
    for given in (out / "neurons.json", tmp_path / "none.json"):
        with pytest.raises(UserError, match=r"would replace|no file or folder"):
            command([*words, "--neurons-from", str(given), "--out", str(out)])
