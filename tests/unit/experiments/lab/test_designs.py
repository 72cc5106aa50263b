"""Designs: what a file asks for, what it is refused for, and which runs follow."""

import itertools

import pytest

from vitreg.errors import UserError
from vitreg.experiments.lab.born import born_design
from vitreg.experiments.lab.options import LabOptions
from vitreg.experiments.lab.reading import design_named, design_of, shipped

FACTORS = {"registers": [0, 4]}


def design(**over):
    return design_of({"seeds": 2, "block": [{"factors": FACTORS}], **over}, "mine", "mine.toml")


def names(found):
    return [run.name for run in found.runs]


def test_levels_are_crossed_the_bases_own_is_always_there_and_seeds_go_side_by_side():
    found = design(block=[{"factors": {"registers": [4], "attention": ["off-by-one"]}}])
    cells = ["0 registers", "0 registers, attention off-by-one", "4 registers", "4 registers, attention off-by-one"]
    assert names(found) == [f"{cell}, seed {seed}" for seed in (0, 1) for cell in cells]
    configs = [run.config for run in found.runs[:4]]
    assert [(each.model.registers, each.model.attention) for each in configs] == [
        *itertools.product((0, 4), ("softmax", "off-by-one"))
    ]


def test_a_cell_of_two_blocks_is_run_once_and_takes_the_seeds_of_both():
    blocks = [{"factors": FACTORS, "seeds": 3}, {"factors": {"registers": [0, 4], "gate": [True]}, "seeds": [0, 7]}]
    found = design(block=blocks)
    assert len(found.runs) == len({run.job.key for run in found.runs}) == 2 * 3 + 2 + 2 * 2
    assert {cell.name: seeds for cell, seeds in found.cells.values()} == {
        "0 registers": (0, 1, 2, 7), "4 registers": (0, 1, 2, 7), "0 registers, gate on": (0, 7), "4 registers, gate on": (0, 7),
    }  # fmt: skip


def test_factors_are_settings_or_parameters_by_their_last_name_or_their_whole():
    found = design(
        seeds=[5],
        base={"batch": 8, "retrieval.kinds": 4},
        block=[
            {
                "factors": {
                    "optim.weight_decay": [0.3],
                    "background": [0.24],
                    "rate": {"x 3": {"lr": 0.01, "min_lr": 0.02}},
                }
            }
        ],
    )
    run = found.runs[-1]
    assert run.name == "optim.weight_decay 0.3, background 0.24, rate x 3, seed 5"
    assert run.config.data.root == "synthetic:retrieval@5:160000,kinds=4,background=0.24"
    assert (run.config.run.batch, run.config.optim.weight_decay) == (8, 0.3)
    assert (run.config.optim.lr, run.config.optim.min_lr) == (0.01, 0.02)
    assert run.config.run.until == "val_asked < 0.01"


def test_tiles_of_another_shape_bring_the_model_along():
    run = design(block=[{"factors": {"code": [4], "grid": [6]}}]).runs[-1]  # 4 + 2 * 6 + 1 numbers: 3 x 3 pixels
    assert (run.config.model.patch, run.config.model.image_size) == (3, 18)
    assert (run.config.recipe.channels, run.config.recipe.own) == (12, 4)


def test_images_are_never_repeated_however_long_the_runs_are():
    run = design(steps=20_000).runs[0]
    assert run.config.data.root == f"synthetic:retrieval@0:{20_000 * 16}"


def test_a_design_says_how_long_runs_go_on_after_their_task_is_solved():
    assert {run.config.run.until_more for run in design().runs} == {"1000 steps"}
    assert {run.config.run.until_more for run in design(steps_after_solved=1500).runs} == {"1500 steps"}


def test_born_is_a_design_and_its_jobs_are_those_of_a_design():
    born = born_design(LabOptions(registers=(0, 4), seeds=2))
    assert [run.job.key for run in born.runs] == [run.job.key for run in design().runs]


REFUSED = {
    "registrs": ({"block": [{"factors": {"registrs": [0]}}]}, "no factor 'registrs' in block .*Did you mean 'registers'"),
    "sofmax": ({"block": [{"factors": {"attention": ["sofmax"]}}]}, "level sofmax in block .*attention is 'sofmax'; it must be softmax"),
    "rop": ({"block": [{"factors": {"positions": ["rop"]}}]}, "model.positions: should be 'learned', 'rope' or 'none', not 'rop'"),
    "all background": ({"block": [{"factors": {"background": [1]}}]}, "background=1 of synthetic:retrieval is a share of the tiles"),
    "more marked": ({"block": [{"factors": {"marked": [2]}}]}, "marked=2 of synthetic:retrieval would be more tiles than there are"),
    "in the base": ({"base": {"background": 1.0}}, "background=1 of synthetic:retrieval is a share"),
    "no seeds": ({"seeds": 0}, "block 'registers' of mine.toml has no seeds; say how many"),
    "seeds of no number": ({"seeds": "four"}, "seeds of block 'registers' of mine.toml are a number from 1 to 1000 or a list"),
    "a key": ({"stps": 3}, "no key 'stps' in mine.toml. Did you mean 'steps'"),
    "a key of a block": ({"block": [{"factor": FACTORS}]}, "no key 'factor' in block 1 of mine.toml. Did you mean 'factors'"),
    "no blocks": ({"block": []}, r"mine.toml has no \[\[block\]\]"),
    "no list": ({"block": [{"factors": {"registers": 4}}]}, r"takes a list of levels, as in registers = \[0\]"),
    "a truth": ({"block": [{"factors": {"depth": [True]}}]}, "model.depth: should be a number, not True"),
    "a number below": ({"block": [{"factors": {"registers": [-1]}}]}, "model.registers is -1; it must be 0 or more"),
    "what the lab sets": ({"block": [{"factors": {"seed": [1]}}]}, "no factor 'seed' in block 'seed' of mine.toml"),
    "together only": ({"base": {"width": 60}, "block": [{"factors": {"heads": [4, 8]}}]}, "a width of 60 cannot be shared by 8 heads"),
    "steps": ({"steps": 0}, "steps of mine.toml is a whole number from 1 to 1,000,000, not 0"),
    "steps after": ({"steps_after_solved": -1}, "steps_after_solved of mine.toml is a whole number from 1 to 1,000,000, not -1"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_design_that_cannot_be_run_is_one_sentence(name, tmp_path):
    changes, said = REFUSED[name]
    path = tmp_path / "mine.toml"
    path.write_text(_toml({"seeds": 2, "block": [{"factors": FACTORS}], **changes}))
    with pytest.raises(UserError, match=said.replace("mine.toml", ".*mine.toml")) as error:
        design_named(str(path))
    assert error.value.sentence.count("\n") == 0


def _toml(data):
    """Write a design as TOML: top level, then tables."""

    def value(each):
        if isinstance(each, dict):
            return f"{{ {', '.join(f'{key} = {value(own)}' for key, own in each.items())} }}"
        if isinstance(each, list):
            return f"[{', '.join(map(value, each))}]"
        return {True: "true", False: "false"}[each] if isinstance(each, bool) else repr(each)

    return "\n".join(f"{key} = {value(each)}" for key, each in data.items())


def test_a_file_that_is_none():
    with pytest.raises(UserError, match=r"no file or shipped design 'frist' in vitreg lab run. Did you mean 'first'"):
        design_named("frist")
    with pytest.raises(UserError, match="no design named; give a TOML file, or one of bridge, dissolve, first"):
        design_named("")


def test_the_first_design_asks_what_it_should():
    """At least 8 seeds for registers, and redundancy x loss; 4 for the others, each with 0 and 4 registers."""
    found = design_named("first")
    seeds = {cell.name: len(own) for cell, own in found.cells.values()}
    eight = [
        "0 registers",
        "1 register",
        "2 registers",
        "4 registers",
        "8 registers",
        "loss on the background",
        "codes independent",
        "codes independent, loss on the background",
    ]
    assert all(seeds[name] >= 8 for name in eight)
    others = (
        "attention off-by-one", "gate on", "network GELU", "norm layernorm", "positions learned", "positions rope", "embedding trained",
        "cls_token on", "weight_decay 0", "weight_decay 0.3", "rate x 0.3", "rate x 3", "background 0", "background 0.04",
        "background 0.16", "background 0.24", "depth 2", "depth 8", "layer_scale 1", "layer_scale 0.0001", "precision bf16",
    )  # fmt: skip
    later = [f"{n} registers, going on from 0 registers" for n in (0, 4)]
    assert [seeds.pop(name) for name in later] == [8, 8]
    assert {name for name in seeds if name not in eight} == {
        f"{n} registers, {each}" for n in (0, 4) for each in others
    }
    assert {seeds[name] for name in seeds if name not in eight} == {4}
    assert len(found.runs) == 248
    assert [each.name for each in found.blocks][:2] == ["registers", "redundant or free of loss"]
    assert "tiny" in shipped()
