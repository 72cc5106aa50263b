"""What was left out of a set stands in the record of every verb that reads sets, and not on the terminal alone."""

import json

import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from vitreg.backbones.backbone import Backbone
from vitreg.data import Preprocess
from vitreg.verbs.eval.tasks.controls import Controls
from vitreg.verbs.eval.tasks.knn import Knn
from vitreg.verbs.eval.tasks.position import Position
from vitreg.verbs.eval.tasks.tokens import Tokens
from vitreg.verbs.eval.verb import evaluate
from vitreg.verbs.extract.verb import extract_features, summary


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=0).eval()
    return Backbone(model, preprocess=Preprocess((32, 32), 32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))


def noise(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((32, 32), 60).convert("RGB").save(path)


@pytest.fixture
def classes(tmp_path):
    """Two classes on two sides, and in one of them a link to a folder, which is not followed."""
    for side, count in (("train", 6), ("val", 3)):
        for name in "ab":
            for number in range(count):
                noise(tmp_path / "set" / side / name / f"{number}.png")
    noise(tmp_path / "elsewhere" / "0.png")
    (tmp_path / "set" / "train" / "a" / "link").symlink_to(tmp_path / "elsewhere")
    return tmp_path / "set"


@pytest.mark.parametrize(
    "task", [Knn(k=(3,)), Tokens(), Controls(), Position()], ids=lambda task: type(task).__name__.lower()
)
def test_what_a_listing_left_out_stands_in_the_record_of_an_evaluation(task, classes, backbone, tmp_path):
    out = tmp_path / "out"
    evaluate(backbone, task, classes, features=tmp_path / "features", out=out, batch_size=4, workers=0)
    notes = json.loads((out / "result.json").read_text())["notes"]
    assert sum("1 link to folders" in note and "not followed" in note for note in notes) == 1


def test_what_a_listing_left_out_stands_in_the_store_of_an_extraction(classes, backbone, tmp_path):
    photos, out = classes / "train" / "a", tmp_path / "out"
    store = extract_features(backbone, photos, out=out, batch_size=4, workers=0)
    (note,) = json.loads((store.folder / "store.json").read_text())["notes"]
    assert "1 link to folders" in note
    assert note in summary(store)
    (photos / "link").unlink()
    again = extract_features(backbone, photos, out=out, batch_size=4, workers=0)
    assert again.folder == store.folder
    assert json.loads((store.folder / "store.json").read_text())["notes"] == []
