"""A recipe is one file: the example of the documents and a toy defined here train, resume, are judged and exported."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from tests.end_to_end import tiny_run
from torch import nn

import vitreg
from vitreg import plugins
from vitreg.config import decode, encode, read_words
from vitreg.data.batches.batch import TrainBatch
from vitreg.data.views.augment import clip_view
from vitreg.errors import UserError
from vitreg.models.settings import ModelConfig
from vitreg.models.vit import VisionTransformer
from vitreg.plugins import plugin
from vitreg.recipes import registry
from vitreg.recipes.known import kinds
from vitreg.recipes.network import OneNetwork
from vitreg.recipes.recipe import StepOutput
from vitreg.recipes.registry import Judged, RecipeConfig, Supervision, recipe, registered
from vitreg.testing import check_recipe
from vitreg.training import checkpoint
from vitreg.training.settings import TrainConfig
from vitreg.verbs.export.verb import export
from vitreg.verbs.train.checks import check_settings, check_values
from vitreg.verbs.train.verb import train

DOCUMENT = Path(__file__).parents[3] / "docs" / "plugins.md"


@recipe("toy")
@dataclass(frozen=True, kw_only=True, slots=True)
class ToyConfig(RecipeConfig):
    """Say how bright the class of an image is."""

    kind: Literal["toy"] = "toy"
    group: int = 2
    brightest: float = 1.0

    needs: ClassVar[Supervision] = "label"
    judged_by: ClassVar[Judged] = Judged("loss", "val_loss", "min")

    def view(self, size):
        return clip_view(size)

    def build(self, model, classes):
        return Toy(model, classes, self)

    def check(self, model):
        return ["a toy has no registers to play with."] if not model.registers else ()


class Toy(OneNetwork):
    def __init__(self, model, classes, config):
        super().__init__(VisionTransformer(**model.arguments()), config.group)
        self.last = nn.Linear(self.network.width, 1)
        self.register_buffer("bright", torch.linspace(0, config.brightest, classes))

    def forward(self, batch, progress):
        tokens = self.network.forward_features(batch.views[0][0])
        said = self.last(self.network.pooled(tokens))[:, 0]
        loss = (said - self.bright[batch.targets]).square().mean()
        return StepOutput(loss, {"error": loss.detach().sqrt()}, len(batch))


@pytest.fixture(scope="module")
def example() -> types.ModuleType:
    """The recipe of the documents, imported as the file of somebody's package."""
    (block,) = re.findall(
        r"```python\n(.*?)```", DOCUMENT.read_text().partition("## A recipe\n")[2].partition("\n## ")[0], re.DOTALL
    )
    assert block.count("\n") < 40
    module = types.ModuleType("somebodys_rotation")
    sys.modules[module.__name__] = module
    exec(compile(block, str(DOCUMENT), "exec"), module.__dict__)
    return module  # and stays, as what is registered does


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_run.pictures(tmp_path_factory.mktemp("pictures"))


def settings_of(kind, data, **more):
    return {**tiny_run.SETTINGS, "data": {"root": str(data), "workers": 0}, "recipe": {"kind": kind, **more}}


@pytest.mark.parametrize("kind", [pytest.param("toy", marks=pytest.mark.slow), "rotation"])
def test_it_trains_resumes_is_judged_scanned_and_exported(kind, example, data, tmp_path, monkeypatch):
    assert kind in kinds()
    config = decode(TrainConfig, settings_of(kind, data, group=2))
    through, pieces = tmp_path / "through", tmp_path / "pieces"
    assert train(config, through).reason == "done"

    saved, saves = checkpoint.save, []

    def save_and_die(*arguments, **named):
        saves.append(saved(*arguments, **named))
        if len(saves) == 2:
            raise KeyboardInterrupt
        return saves[-1]

    monkeypatch.setattr(checkpoint, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train(config, pieces)
    monkeypatch.undo()
    assert checkpoint.load_newest(pieces).step < 12
    assert train(config, pieces, resume=True).step == 12
    tiny_run.assert_same_run(pieces, through)

    name = {"toy": "val_loss", "rotation": "knn"}[kind]
    judged = [line[name] for line in tiny_run.records(through) if line["kind"] == "evaluation"]
    assert len(judged) == 3
    best = checkpoint.best(through)
    assert best in tiny_run.checkpoints(through)
    evaluated = {line["step"]: line[name] for line in tiny_run.records(through) if line["kind"] == "evaluation"}
    wanted = min(judged) if kind == "toy" else max(judged)
    assert evaluated[int(best.name.removeprefix("step-"))] == wanted
    assert (through / "report.html").is_file()

    exported = export(through, "timm", tmp_path / "timm")
    assert exported.difference is not None
    assert exported.difference < 1e-4
    assert exported.notes == ()
    assert len(vitreg.scan(f"run:{through}", torch.rand(2, 3, 32, 32)).layers) == 2


def test_the_example_keeps_the_promises_of_a_recipe(example):
    config = kinds()["rotation"](group=2)
    model = ModelConfig(
        width=16, depth=1, heads=2, patch=8, image_size=32, registers=1, token_init=0.02, layer_scale=None
    )

    def batch(step):
        return TrainBatch((torch.randn(1, 4, 3, 32, 32, generator=torch.Generator().manual_seed(step)),))

    found = check_recipe(lambda: config.build(model, 0), batch)
    assert found["micro-batches"] == "held"


def test_the_command_line_knows_it(example, data):
    base = encode(decode(TrainConfig, settings_of("toy", data)))
    assert read_words(["--recipe.brightest", "3"], base) == {"recipe": {"brightest": "3"}}
    from vitreg.cli.verbs.train import overview

    assert re.search(r"^  rotation +Tell by how many quarter turns", overview(), re.MULTILINE)
    with pytest.raises(UserError, match=r"no setting 'recipe\.brightes'"):
        decode(TrainConfig, {"recipe": {"kind": "toy", "brightes": 1}})
    with pytest.raises(UserError, match=r"no setting 'recipe\.needs'"):
        decode(TrainConfig, {"recipe": {"kind": "toy", "needs": "label"}})


def test_its_settings_are_given_beside_its_name(data, monkeypatch, tmp_path):
    from vitreg.cli.verbs import train as command

    seen = []
    monkeypatch.setattr(command, "_run", lambda config, folder, resume: seen.append(config) or 0)
    words = ["mae-smoke", "--data.root", str(data), "--out", str(tmp_path / "run"), "--model.depth", "2"]
    assert command.run_train([*words, "--recipe.kind", "toy", "--recipe.brightest", "3", "--recipe.group", "4"]) == 0
    assert seen[0].recipe == ToyConfig(brightest=3.0, group=4)
    with pytest.raises(UserError, match="toyy"):
        command.run_train([*words, "--recipe.kind", "toyy"])
    with pytest.raises(UserError, match=r"no setting '--recipe\.brightest'"):
        command.run_train([*words, "--recipe.brightest", "3"])


def test_what_it_objects_to_is_said(data):
    settings = settings_of("toy", data)
    settings["model"] = {**settings["model"], "registers": 0}
    with pytest.raises(UserError, match="a toy has no registers"):
        check_settings(decode(TrainConfig, settings))


def test_a_base_that_it_does_not_build_is_refused_and_one_that_it_builds_is_trained(example, data, tmp_path):
    settings = settings_of("toy", data)
    settings["model"] = {"base": "timm:test_vit", "base_weights": "random", "image_size": 32}
    with pytest.raises(UserError, match=r"recipe\.kind toy builds vitreg's own ViT whatever"):
        train(decode(TrainConfig, settings), tmp_path / "toy")
    settings["recipe"] = {"kind": "rotation", "group": 2}
    settings["run"] = {**settings["run"], "duration": "2 steps", "watch_images": 0}
    assert train(decode(TrainConfig, settings), tmp_path / "rotation").reason == "done"
    assert vitreg.load(f"run:{tmp_path / 'rotation'}", device="cpu").depth == 6


def test_a_loss_is_not_judged_by_fewer_images_than_a_group(data, tmp_path):
    config = decode(
        TrainConfig, settings_of("toy", data, group=16) | {"run": {**tiny_run.SETTINGS["run"], "batch": 16}}
    )
    with pytest.raises(UserError, match="whole groups of 16 images, and the validation side has 12"):
        train(config, tmp_path / "run")


def test_settings_that_are_no_recipe_are_refused():
    with pytest.raises(ValueError, match="fields kind"):
        recipe("bare")(type("Bare", (RecipeConfig,), {}))
    with pytest.raises(ValueError, match="there is a recipe 'toy' already"):
        recipe("toy")(dataclass(frozen=True)(type("Other", (ToyConfig,), {"__annotations__": {}})))

    class Local:
        pass

    with pytest.raises(ValueError, match="must be names of its module"):

        @recipe("local")
        @dataclass(frozen=True)
        class LocalConfig(RecipeConfig):
            kind: Literal["local"] = "local"
            group: int = 1
            more: Local | None = None

    with pytest.raises(NotImplementedError, match="neither a method build"):
        RecipeConfig.build(object.__new__(ToyConfig), ModelConfig(), 0)
    assert registered()["toy"] is ToyConfig


def test_a_plug_in_is_a_recipe_too():
    @plugin("recipe", "plugged")
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Plugged(RecipeConfig):
        """Do nothing."""

        kind: Literal["plugged"] = "plugged"
        group: int = 1

    try:
        assert kinds()["plugged"] is Plugged
    finally:
        plugins._added["recipe"].pop("plugged")
        registry._registered.pop("plugged")


PACKAGE = """
from dataclasses import dataclass
from typing import Literal
from vitreg.recipes.registry import RecipeConfig, recipe

@recipe("theirs")
@dataclass(frozen=True, kw_only=True, slots=True)
class Theirs(RecipeConfig):
    '''Learn as they do.'''
    kind: Literal["theirs"] = "theirs"
    group: int = 1
"""


LISTED = """
from vitreg.__main__ import main
try:
    main()
finally:
    assert "torch" not in sys.modules
"""


def installed(folder, code):
    """Lay a package with an entry point into a folder, as pip does."""
    (folder / "their_recipe.py").write_text(code)
    meta = folder / "their_recipe-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: their-recipe\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text("[vitreg.recipes]\ntheirs = their_recipe\n")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (PACKAGE, "theirs Learn as they do."),
        ("import nothing_of_this_name", "the recipe 'theirs' of the package their-recipe cannot be imported"),
    ],
    ids=["sound", "broken"],
)
def test_a_package_brings_its_recipe(tmp_path, code, words):
    installed(tmp_path, code)
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['vitreg', 'train']\n{LISTED}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert words in " ".join((done.stdout + done.stderr).split())
    assert "AssertionError" not in done.stderr


def test_no_rung_of_a_ladder_is_left():
    """Nothing outside of recipes/ tells recipes apart: no settings of one are named but in presets, which choose one."""
    source = Path(vitreg.__file__).parent
    named = re.compile(r"\b(Clip|Mae|DinoV2|Dino)Config\b|isinstance\([^)]*SupervisedConfig")
    found = [
        path.relative_to(source)
        for path in source.rglob("*.py")
        if path.relative_to(source).parts[0] not in ("recipes", "presets") and named.search(path.read_text())
    ]
    assert not found


def test_the_settings_of_every_recipe_import_no_torch():
    script = "import sys; from vitreg.recipes.known import kinds; assert len(kinds()) >= 5; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_judge_that_does_not_exist_is_named(data, tmp_path, monkeypatch):
    monkeypatch.setattr(ToyConfig, "judged_by", Judged("top2", "top2"))
    config = decode(TrainConfig, settings_of("toy", data))
    check_values(config)
    with pytest.raises(UserError, match="no task to judge a run by 'top2'"):
        train(config, tmp_path / "run")
