"""Recipes that learn from a class of every pixel, or from numbers of every patch, train as any other."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pytest
from PIL import Image
from tests.end_to_end import tiny_run
from torch import nn
from torch.nn.functional import cross_entropy

from vitreg.config import decode, encode
from vitreg.data.views.paired import paired_view
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer
from vitreg.recipes.network import OneNetwork
from vitreg.recipes.recipe import StepOutput
from vitreg.recipes.registry import Judged, RecipeConfig, Supervision, recipe
from vitreg.training import checkpoint
from vitreg.training.settings import TrainConfig
from vitreg.verbs.train.verb import train

GRID = (4, 4)  # of 32 pixels in patches of 8


@recipe("toy-mask")
@dataclass(frozen=True, kw_only=True, slots=True)
class MaskConfig(RecipeConfig):
    """Name the class in the middle of every patch."""

    kind: Literal["toy-mask"] = "toy-mask"
    group: int = 1
    needs: ClassVar[Supervision] = "mask"
    judged_by: ClassVar[Judged] = Judged("loss", "val_loss", "min")

    def view(self, size):
        return paired_view(size)

    def build(self, model, classes):
        return Patches(model, classes, self.group)


@recipe("toy-numbers")
@dataclass(frozen=True, kw_only=True, slots=True)
class NumbersConfig(RecipeConfig):
    """Predict the numbers of every patch."""

    kind: Literal["toy-numbers"] = "toy-numbers"
    group: int = 1
    needs: ClassVar[Supervision] = "numbers"
    judged_by: ClassVar[Judged] = Judged("loss", "val_loss", "min")

    def view(self, size):
        return paired_view(size, grid=GRID)

    def build(self, model, classes):
        return Patches(model, 2, self.group)


class Patches(OneNetwork):
    def __init__(self, model, outputs, group):
        super().__init__(VisionTransformer(**model.arguments()), group)
        self.last = nn.Linear(self.network.width, outputs)

    def forward(self, batch, progress):
        tokens = self.network.forward_features(batch.views[0][0])
        said = self.last(self.network.layout().take(tokens))  # [B, P, C]
        if batch.targets.is_floating_point():
            loss = (said - batch.targets.flatten(1, 2)).square().mean()
        else:
            middle = batch.targets[:, 4::8, 4::8].flatten(1).long()  # [B, P]
            loss = cross_entropy(said.flatten(0, 1), middle.flatten(), ignore_index=255)
        return StepOutput(loss, {"error": loss.detach()}, len(batch))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Coarse pictures with the class (dark or bright) of every pixel and the mean brightness and its double on a grid."""
    root, draw = tmp_path_factory.mktemp("maps"), np.random.default_rng(0)
    for side, count in (("train", 16), ("val", 8)):
        for folder in ("images", "masks", "numbers"):
            (root / side / folder).mkdir(parents=True)
        for number in range(count):
            grey = np.kron(draw.integers(0, 2, (5, 5), dtype=np.uint8) * 200, np.ones((10, 10), np.uint8))
            Image.fromarray(grey).convert("RGB").save(root / side / "images" / f"{number}.png")
            Image.fromarray((grey > 100).astype(np.uint8)).save(root / side / "masks" / f"{number}.png")
            means = grey.reshape(5, 10, 5, 10).mean((1, 3), dtype=np.float32) / 200
            np.save(root / side / "numbers" / f"{number}.npy", np.stack([means, 2 * means], -1))
    return root


def config_of(kind, data, **run):
    settings = {
        **tiny_run.SETTINGS, "data": {"root": str(data), "workers": 0}, "recipe": {"kind": kind},
        "optim": {"lr": 0.01, "warmup": "5 steps"},
        "run": {**tiny_run.SETTINGS["run"], "watch_images": 0, **run},
    }  # fmt: skip
    return decode(TrainConfig, settings)


@pytest.mark.parametrize(("kind", "lowest"), [("toy-mask", 0.45), ("toy-numbers", 0.35)])
def test_it_learns_resumes_and_is_judged(kind, lowest, data, tmp_path):
    config = config_of(kind, data, duration="60 steps", evaluate_every="20 steps", save_every="20 steps")
    assert train(config, tmp_path / "run").reason == "done"
    judged = [line["val_loss"] for line in tiny_run.records(tmp_path / "run") if line["kind"] == "evaluation"]
    assert judged[-1] < lowest
    assert judged[-1] < judged[0]
    assert train(config, tmp_path / "run", resume=True).step == 60
    assert checkpoint.best(tmp_path / "run") is not None


def test_worker_processes_hand_maps_over(data, tmp_path):
    config = config_of("toy-mask", data, duration="6 steps")
    for workers in (0, 1):
        settings = decode(TrainConfig, tiny(config, workers))
        train(settings, tmp_path / str(workers))
    assert tiny_run.difference(tmp_path / "0" / "model.safetensors", tmp_path / "1" / "model.safetensors") == 0


def tiny(config, workers):
    settings = encode(config)
    settings["data"]["workers"] = workers
    return settings


def test_what_is_no_map_is_said(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    np.save(tmp_path / "data" / "train" / "numbers" / "3.npy", np.zeros(7, np.float32))
    with pytest.raises(UserError, match=r"3\.npy' holds float32 values of shape \[7\]"):
        train(config_of("toy-numbers", tmp_path / "data"), tmp_path / "run")
    np.save(tmp_path / "data" / "train" / "numbers" / "3.npy", np.zeros((2, 2, 3), np.float32))
    with pytest.raises(UserError, match="maps of one batch have different shapes"):
        train(config_of("toy-numbers", tmp_path / "data"), tmp_path / "run")
    elsewhere = {**tiny(config_of("toy-mask", data), 0), "data": {"root": str(data), "val": "x"}}
    with pytest.raises(UserError, match=r"both sides in data\.root"):
        train(decode(TrainConfig, elsewhere), tmp_path / "other")
    with pytest.raises(UserError, match="no train/ in"):
        train(config_of("toy-mask", data / "train"), tmp_path / "other")
