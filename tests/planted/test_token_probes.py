"""Token probes on planted models: what was taken from the outliers is missed, what was given to them is found, and
nothing is found in the clean twin.

The outliers of `vitreg.models.planted` keep all they know of their own patch, and learn nothing of the image: their
content only shrinks under the final norm. What the paper says of outliers (Sec. 2.2) is therefore planted here, by a hook
after the block that writes them: their content is replaced by the mean content of the patches.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from vitreg.backbones import Backbone
from vitreg.data.sets.sides import open_sides
from vitreg.data.views.transforms import IMAGENET, Preprocess
from vitreg.models import planted
from vitreg.passes.bench import Bench
from vitreg.verbs.eval.tasks.pixels import Pixels
from vitreg.verbs.eval.tasks.position import Position
from vitreg.verbs.eval.tasks.tokens import Tokens
from vitreg.verbs.eval.token_pass import TokenPass, open_pictures

pytestmark = pytest.mark.usefixtures("planted_once")

SIDE, GRID = 96, 6
AS_THEY_ARE = Preprocess((SIDE, SIDE), (SIDE, SIDE), IMAGENET.mean, IMAGENET.std, crop=False)


def picture(rng, colour, coloured_noise=0.0):
    """Patches of noisy colours around that of the class, three in four with a texture: plain ones become outliers.

    Coloured noise sums to zero over the normalised channels, so the trigger of the planted models does not see it.
    """
    patches = 128 + 13 * colour + 42 * rng.standard_normal((GRID, GRID, 1, 1, 3))
    angles = rng.uniform(0, np.pi, (2, GRID, GRID, 1, 1, 1))
    y, x = np.mgrid[:16, :16][:, None, None, :, :, None]
    waves = np.sin(0.4 * (y * np.sin(angles[0]) + x * np.cos(angles[0])) + 2 * angles[1])
    textured = rng.random((GRID, GRID, 1, 1, 1)) < 0.75
    pixels = (patches + 40 * textured * waves).swapaxes(1, 2).reshape(SIDE, SIDE, 3)
    noise = rng.standard_normal((SIDE, SIDE, 3))
    noise = (noise - noise.mean(-1, keepdims=True)) * 255 * np.array(IMAGENET.std)
    return Image.fromarray((pixels + coloured_noise * noise).clip(0, 255).astype(np.uint8))


def pictures_in(root, counts, **options):
    rng = np.random.default_rng(0)
    for side, count in counts.items():
        for number, name in enumerate("abc"):
            (root / side / name).mkdir(parents=True)
            for i in range(count):
                picture(rng, 2 * np.eye(3)[number] - 2 / 3, **options).save(root / side / name / f"{i:03}.png")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pictures_in(tmp_path_factory.mktemp("plain"), {"train": 36, "val": 24})


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """All patches vary in as many ways; otherwise plain ones are easier to classify by, planted or not."""
    return pictures_in(tmp_path_factory.mktemp("noisy"), {"train": 50, "val": 40}, coloured_noise=0.5)


def bench(model, folder):
    backbone = Backbone(model, preprocess=AS_THEY_ARE)
    return Bench(backbone=backbone, data=str(folder), features=folder / "features", workers=0, batch_size=60)


def overwritten(kind="high-norm", seed=0):
    """A planted model whose outliers forget their patch and carry the mean content of all patches instead."""
    model, truth = planted.build(kind, seed, image_size=SIDE)

    def overwrite(_block, _inputs, tokens):
        patches = tokens[:, 1:]
        norms = patches.norm(dim=-1)
        outliers = norms > truth.ratio**0.5 * norms.median()
        assert 0 < outliers.float().mean() < 0.2
        kept = patches @ truth.direction  # [B, P]
        mean = patches.mean(1, keepdim=True)
        mean = mean - (mean @ truth.direction)[..., None] * truth.direction
        changed = torch.where(outliers[..., None], kept[..., None] * truth.direction + 6 * mean, patches)
        return torch.cat([tokens[:, :1], changed], dim=1)

    model.blocks[truth.layers.start].register_forward_hook(overwrite)
    return model, truth


def probed(task, model, folder, classify):
    """Run a task with the classes of tokens told apart by the truth instead of by a detector."""
    on = bench(model, folder)
    tokens = TokenPass(on, task)

    def truth(pixels, _norms):
        return classify.outliers(pixels)

    if isinstance(task, Tokens):
        return task.measure(on, tokens, open_sides(str(folder)), truth)
    return task.measure(on, tokens, *open_pictures(on), truth)


@pytest.mark.slow
def test_overwritten_outliers_do_not_know_their_place(folder):
    model, truth = overwritten()
    found = Position(calibration=64).run(bench(model, folder))
    print(found.metrics, found.tables[0].rows, found.controls)
    assert found.metrics["normal_accuracy"] > 95
    assert found.metrics["outlier_accuracy"] < 50
    assert found.metrics["accuracy_difference_high"] < 0
    assert found.metrics["distance_difference_low"] > 0
    twin = probed(Position(), planted.clean(0, image_size=SIDE), folder, truth)
    print(twin.metrics)
    assert twin.tables[0].rows[1][1] > 40  # would-be outliers
    assert abs(twin.metrics["normal_accuracy"] - twin.metrics["outlier_accuracy"]) < 1


@pytest.mark.slow
def test_overwritten_outliers_do_not_know_their_pixels(folder):
    model, truth = overwritten()
    found = Pixels(calibration=64).run(bench(model, folder))
    print(found.metrics)
    assert found.metrics["error_difference_low"] > 0
    assert found.metrics["outlier_explained"] < found.metrics["normal_explained"] - 20
    twin = probed(Pixels(), planted.clean(0, image_size=SIDE), folder, truth)
    print(twin.metrics)
    # Plain patches are easier to guess, so the would-be outliers are a little better, where planted ones are far worse.
    gap, in_twin = (m["outlier_error"] - m["normal_error"] for m in (found.metrics, twin.metrics))
    assert abs(in_twin) < 0.05 * gap
    assert twin.metrics["error_difference_high"] < 0.05 * gap


@pytest.mark.slow
def test_classes_drawn_by_lot_differ_in_nothing(folder):
    draw = torch.Generator().manual_seed(0)

    class Lot:
        def outliers(self, pixels):
            return torch.rand(len(pixels), GRID**2, generator=draw) < 0.05

    found = probed(Pixels(), planted.clean(0, image_size=SIDE), folder, Lot())
    assert found.metrics["error_difference_low"] < 0 < found.metrics["error_difference_high"]


@pytest.mark.slow
def test_overwritten_outliers_know_the_image_better_than_normal_patches(noisy):
    model, truth = overwritten()
    found = Tokens(calibration=64).run(bench(model, noisy))
    print(found.metrics, found.controls, found.notes)
    assert found.metrics["outlier_patch"] > found.metrics["normal_patch"] + 10
    assert found.metrics["outlier_minus_normal_low"] > 0
    assert found.metrics["outlier_patch"] > max(found.controls.values()) + 10
    twin = probed(Tokens(), planted.clean(0, image_size=SIDE), noisy, truth)
    print(twin.metrics)
    assert twin.metrics["outlier_minus_normal_low"] < 0 < twin.metrics["outlier_minus_normal_high"]
