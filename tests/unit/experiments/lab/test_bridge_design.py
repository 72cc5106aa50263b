"""Designs on photographs: whose they are, what is left out without masks, blocks of their own, and hours that end a search."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.unit.experiments.lab import made_runs

import vitreg
from vitreg.errors import UserError
from vitreg.experiments.lab.hours import plan_of
from vitreg.experiments.lab.reading import data_named, design_in, design_named, design_of
from vitreg.experiments.lab.running import lines


@pytest.fixture
def voc(tmp_path):
    for folder, name in (("JPEGImages", "a.jpg"), ("SegmentationClass", "a.png")):
        (tmp_path / "voc" / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "voc" / folder / name)
    return tmp_path / "voc"


def test_the_bridge_begins_with_the_neighbours_of_what_is_known():
    found = design_named("bridge")
    names = list(dict.fromkeys(run.cell.name.removeprefix("0 registers, ") for run in found.runs if not run.registers))
    assert names[:3] == ["0 registers", "tiles drawn", "tiles before a uniform background"]
    assert names[3:8] == [
        "tags kept by the background", "tags by content", "tags not given", "tags by content, kept by the background",
        "tags by content, not given",
    ]  # fmt: skip
    assert not any("segments" in name for name in names)
    assert {run.registers for run in found.runs} == {0, 4}
    assert all(2 <= len(seeds) <= 3 for _, seeds in found.cells.values())
    of = {run.cell.name: found.parameters(run.cell) for run in found.runs}
    last = of["photographs as they are, 14 x 14, 0 registers"]
    assert (last.extras, last.side, last.answer, last.grid) == (0, 16, "image", 14)
    assert (of["0 registers, tiles drawn"].photos, of["0 registers"].photos) == ("", "scikit-image")


def test_a_folder_takes_the_place_of_the_photographs_and_its_masks_bring_a_block(voc):
    data, left_out = data_named("bridge", str(voc))
    assert left_out == []
    assert data["base"]["photos"] == str(voc)
    found = design_named("bridge", str(voc))
    segments = [run for run in found.runs if "segments not given" in run.cell.name]
    assert {run.registers for run in segments} == {0, 4}
    assert f"tags=1,shown=none,photos={voc},flat=1,tagged=segments" in segments[0].config.data.root
    _, left_out = data_named("bridge", str(voc / "JPEGImages"))
    assert left_out[0].startswith("Block 'one tag, of segments' is left out: the photographs of ")
    assert "scikit-image have no masks" in data_named("bridge")[1][0]


@pytest.mark.parametrize(
    ("name", "photos", "said"),
    [
        ("first", "scikit-image", "first says nothing of photographs in its base, so --photos changes nothing"),
        ("bridge", "nowhere", "--photos is scikit-image or a folder of photographs; there is no folder 'nowhere'"),
    ],
)
def test_photographs_that_cannot_be(name, photos, said):
    with pytest.raises(UserError) as error:
        design_named(name, photos)
    assert said in error.value.sentence


def test_absent_photographs_of_a_design_are_refused_before_anything_is_trained(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"seeds": 1, "base": {"photos": "nowhere"}, "block": [{}]}))
    with pytest.raises(
        UserError, match=r"base of .*mine\.json: photos of synthetic:retrieval is scikit-image or a folder"
    ):
        design_named(str(path))


def test_what_a_block_differs_in_stands_before_its_factors_and_they_may_undo_it():
    found = design_of(
        {
            "seeds": 1,
            "base": {"depth": 3},
            "block": [
                {"factors": {"registers": [4]}},
                {"name": "wide", "base": {"width": 96, "registers": 4}, "factors": {"registers": [0, 2], "depth": [5]}},
            ],
        },
        "mine",
        "mine.toml",
    )
    assert [run.cell.name for run in found.runs] == [
        "0 registers", "4 registers", "wide, 4 registers", "wide, 4 registers, depth 5", "wide, 0 registers",
        "wide, 0 registers, depth 5", "wide, 2 registers", "wide, 2 registers, depth 5",
    ]  # fmt: skip
    models = [run.config.model for run in found.runs]
    assert [each.registers for each in models] == [0, 4, 4, 4, 0, 0, 2, 2]
    assert [each.width for each in models] == [64, 64] + 6 * [96]
    assert [each.depth for each in models] == [3, 3, 3, 5, 3, 5, 3, 5]


OTHER = {
    "seeds": 1,
    "steps": 50,
    "block": [
        {
            "name": "MAE",
            "preset": "mae-smoke",
            "base": {"root": "synthetic:scenes:64"},
            "factors": {"registers": [0, 4]},
        }
    ],
}


def test_a_block_may_start_from_another_preset():
    found = design_of(OTHER, "mine", "mine.toml")
    assert [run.name for run in found.runs] == ["MAE, 4 registers, seed 0", "MAE, 0 registers, seed 0"]
    config = found.runs[1].config
    assert (config.recipe.kind, config.model.registers, config.run.until, config.data.root) == (
        "mae", 0, None, "synthetic:scenes:64",
    )  # fmt: skip
    assert (config.run.duration, config.run.device, config.optim.warmup, config.data.workers) == (
        "50 steps", "cpu", "25 steps", 0,
    )  # fmt: skip
    assert len({run.job.key for run in found.runs}) == 2
    said = list(lines(found, plan_of(found, lambda job: None, lambda config: 1.0), 1))
    assert said[0].startswith("MAE, 4 registers: seed 0, ")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"preset": "mae-smok"}, "no preset 'mae-smok'. Did you mean 'mae-smoke'"),
        ({"preset": 3}, "preset of block 'MAE' of .* is the name of a preset, not 3"),
        ({"base": {"background": 0.2}}, "no factor 'background' in block 'MAE'"),
        ({"base": {}}, "has no data for mae-smoke; name them, as in root = "),
        ({"base": {"roott": "x"}}, "no factor 'roott' in block 'MAE' of .*Did you mean 'root'"),
    ],
)
def test_blocks_of_other_presets_that_cannot_be(changes, said, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**OTHER, "block": [{**OTHER["block"][0], **changes}]}))
    with pytest.raises(UserError, match=said):
        design_named(str(path))


def test_hours_of_a_design_are_a_number():
    for wrong in (0, -1, "many", True):
        with pytest.raises(UserError, match=r"hours of mine\.toml is a number above 0"):
            design_of({**OTHER, "hours": wrong}, "mine", "mine.toml")


def test_no_run_begins_once_the_hours_are_spent_and_what_ended_is_reported(monkeypatch, tmp_path):
    path, ran, told = tmp_path / "design.json", tmp_path / "ran", []
    data = {"seeds": 3, "hours": 1e-9, "block": [{"factors": {"registers": [0]}}]}
    path.write_text(json.dumps(data))
    made_runs.in_this_process(
        monkeypatch, lambda config, folder: made_runs.write(folder, config, **made_runs.planted(config)), ran
    )
    for _ in range(2):
        found = vitreg.lab("run", path, out=tmp_path / "out", told=told.append)
        assert (found.asked, found.ended) == (3, 1)
    assert "No run begins once the runs took 1e-09 hours of a core." in told[0]
    assert len(ran.read_text().splitlines()) == 1
    assert design_in(tmp_path / "out").hours == 1e-9
    path.write_text(json.dumps({**data, "hours": 5}))
    assert vitreg.lab("run", path, out=tmp_path / "out").ended == 3
