"""A value of the wrong type is one sentence that names the keyword, what was given, and what is valid."""

from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import pytest
import torch

import vitreg
from vitreg.errors import UserError
from vitreg.passes.options import ModelOptions
from vitreg.presets import preset
from vitreg.training.settings import changed
from vitreg.verbs.demo.options import DemoOptions
from vitreg.verbs.discover.options import DiscoverOptions
from vitreg.verbs.discover.setting import Sweep
from vitreg.verbs.eval.options import EvalOptions
from vitreg.verbs.eval.registry import TASKS
from vitreg.verbs.eval.tasks.knn import Knn
from vitreg.verbs.export.options import ExportOptions
from vitreg.verbs.extract.options import ExtractOptions
from vitreg.verbs.maps.options import MapsOptions
from vitreg.verbs.scan.options import ScanOptions

KINDS = [
    ScanOptions, MapsOptions, DiscoverOptions, EvalOptions, ExtractOptions, DemoOptions, ExportOptions, ModelOptions,
    *TASKS.values(),
]  # fmt: skip
NEEDED = {"to": "timm"}


@pytest.mark.parametrize(
    ("kind", "name"),
    [pytest.param(kind, each.name, id=f"{kind.__name__}.{each.name}") for kind in KINDS for each in fields(kind)],
)
def test_every_option_refuses_what_is_of_no_type(kind, name):
    needed = {
        each.name: NEEDED[each.name]
        for each in fields(kind)
        if each.default is MISSING and each.default_factory is MISSING
    }
    with pytest.raises(UserError, match=rf"^{name} takes .*, not <object object"):
        kind(**needed | {name: object()})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: vitreg.scan(m, [], limit="abc"), "limit takes a whole number or None, not 'abc'"),
        (lambda m: vitreg.scan(m, [], limit=2.5), "limit takes a whole number or None, not 2.5"),
        (lambda m: vitreg.scan(m, [], limit=True), "limit takes a whole number or None, not True"),
        (lambda m: vitreg.scan(m, [], detector=None), "detector takes a word, not None"),
        (lambda m: vitreg.scan(m, [], size="518"), "size takes an image size such as 518 or (384, 512) or None, not '518'"),
        (lambda m: vitreg.scan(m, [], size=(1, 2, 3)), "size takes an image size such as 518 or (384, 512) or None, not (1, 2, 3)"),
        (lambda m: vitreg.scan(m, [], fit="padd"), "no fit 'padd'. Did you mean 'pad'?"),
        (lambda m: vitreg.scan(m, [], out=5), "out takes a path or None, not 5"),
        (lambda m: vitreg.scan("planted:clean", [], device=5), "device takes a word or None, not 5"),
        (lambda m: vitreg.maps(m, [], layer="last"), "layer takes a whole number, a list of whole numbers or 'all', not 'last'"),
        (lambda m: vitreg.maps(m, [], pca_per_image="yes"), "pca_per_image takes True or False, not 'yes'"),
        (lambda m: vitreg.evaluate(m, "knn", "x", k="abc"), "k takes a list of whole numbers, not 'abc'"),
        (lambda m: vitreg.evaluate(m, "knn", "x", token="clss"), "no token 'clss'. Did you mean 'cls'?"),
        (lambda m: vitreg.evaluate(m, None, "x"), "a task is a name such as 'knn'"),
        (lambda m: vitreg.evaluate_all([m], ["knn"], "x", out=3), "out takes a path, not 3"),
        (lambda m: vitreg.extract(m, [], out=None), "out takes a path, not None"),
        (lambda m: vitreg.doctor(m, trust="no"), "trust takes True or False, not 'no'"),
        (lambda m: vitreg.curves([5]), "runs takes a path, a list of paths or a dict of words to paths, not [5]"),
        (lambda m: vitreg.curves({"mine": 5}), "runs takes a path, a list of paths or a dict of words to paths, not {'mine': 5}"),
        (lambda m: vitreg.compare([1, 2], out="x.html"), "scans takes a list of paths, not [1, 2]"),
        (lambda m: vitreg.draw("x", oot="y"), "no keyword 'oot' in vitreg.draw. Did you mean 'out'?"),
        (lambda m: vitreg.export("x", 3, "y"), "to takes a word, not 3"),
        (lambda m: vitreg.demo(4), "out takes a path, not 4"),
        (lambda m: vitreg.train("deit3-smoke", "x", resume="no"), "resume takes True or False, not 'no'"),
        (lambda m: vitreg.train(5, "x"), "config takes a TrainConfig or the name of a preset, not 5"),
        (lambda m: vitreg.train("deit3-smoke", "x", lr=1e-3), "it is a setting of optim; give optim={'lr': ...}"),
        (lambda m: vitreg.train("deit3-smoke", "x", modl={}), "no keyword 'modl' in vitreg.train. Did you mean 'model'?"),
        (lambda m: vitreg.train("deit3-smoke", "x", optim=3), "optim takes a table of settings such as {"),
        (lambda m: vitreg.train("deit3-smoke", "x", optim={"lrr": 1}), "no setting 'optim.lrr'. Did you mean 'optim.lr'"),
        (lambda m: vitreg.train("deit3-smoke", "x", optim={"lr": "a"}), "optim.lr: should be a valid number"),
        (lambda m: vitreg.train("deit3-smoke", "x", recipe={"kind": "dino2"}), "no recipe.kind 'dino2'. Did you mean 'dinov2' or 'dino'"),
    ],
)  # fmt: skip
def test_a_verb_names_the_keyword_the_value_and_what_is_valid(call, words):
    with pytest.raises(UserError) as error:
        call(vitreg.load("planted:clean", device="cpu"))
    assert words in str(error.value)


def test_what_can_be_converted_is_taken():
    assert ScanOptions(limit=np.int64(3), seed=np.uint8(1), size=[32, 48], power=np.bool_(False)) == ScanOptions(
        limit=3, seed=1, size=(32, 48), power=False
    )
    assert ScanOptions(limit=1e2).limit == 100
    assert ScanOptions(size=np.array([32, 48])).size == (32, 48)
    assert type(ScanOptions(limit=torch.tensor(4)).limit) is int
    assert ModelOptions(device=torch.device("cuda:1")).device == "cuda:1"
    assert EvalOptions(features="somewhere").features == Path("somewhere")
    assert Knn(k=5).k == Knn(k=[5]).k == Knn(k=range(5, 6)).k == (5,)
    assert ExtractOptions(cls=-1, patches=[0, 1]).patches == (0, 1)
    assert MapsOptions(what="norm,pca").what == ("norm", "pca")
    assert DiscoverOptions(method="lost", layer=3, bias=0.5).layer == "3"
    assert DiscoverOptions(sweep=Sweep()).grid == Sweep()
    assert TASKS["segmentation"](masks=Path("masks")).masks == "masks"


def test_settings_of_a_run_are_given_by_their_table():
    base = preset("deit3-smoke")
    run = changed(base, {"optim": {"lr": np.float64(0.5)}, "data": {"root": Path("images")}, "model": {"registers": 3}})
    assert (run.optim.lr, run.data.root, run.model.registers) == (0.5, "images", 3)
    assert run.recipe == base.recipe
    assert changed(base, {}) is base
    assert changed(base, {"optim": base.optim}) == base
    assert changed(base, {"recipe": {"kind": "mae"}}).recipe.kind == "mae"


def test_the_values_reach_the_verb(tmp_path):
    with pytest.raises(UserError, match="no file or folder"):
        vitreg.train("deit3-smoke", tmp_path / "run", data={"root": tmp_path / "absent"})
