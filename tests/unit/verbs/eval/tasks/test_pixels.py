import numpy as np
import pytest
import torch
from PIL import Image

from vitreg.backbones import Backbone
from vitreg.data.views.transforms import IMAGENET, Preprocess
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer
from vitreg.passes.bench import Bench
from vitreg.verbs.eval.tasks.pixels import Pixels
from vitreg.verbs.eval.token_pass import TokenPass, open_pictures

SIZE = (16, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(60):
        Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(root / f"{i:02}.png")
    return root


def bench(folder, network, **options):
    preprocess = Preprocess(SIZE, SIZE, IMAGENET.mean, IMAGENET.std, crop=False)
    backbone = Backbone(network, preprocess=preprocess)
    return Bench(backbone=backbone, data=str(folder), features=folder, **{"workers": 0, "batch_size": 16} | options)


@pytest.fixture(scope="module")
def network():
    """One block that adds nothing, and patches of 48 values in 64 channels: every pixel is in its token."""
    torch.manual_seed(0)
    network = VisionTransformer(32, 4, 64, 1, 2).eval()
    with torch.no_grad():
        network.blocks[0].attn.proj.weight.zero_()
        network.blocks[0].mlp.fc2.weight.zero_()
        network.patch_embed.proj.weight.normal_(std=0.2)
    return network


def test_tokens_that_hold_their_pixels_give_them_back(folder, network):
    found = Pixels(final_norm=False).run(bench(folder, network))
    assert found.metrics["normal_explained"] > 99
    assert found.metrics["error"] < 0.1 * found.controls["mean patch"]
    assert not found.larger_is_better
    assert found.counts == {"train": 48, "test": 12}
    assert found.protocol["targets"] == 48


def test_the_error_is_in_normalised_pixels(folder, network):
    found = Pixels().run(bench(folder, network))
    # The mean patch of uniform noise: 48 values with a deviation of 255 / sqrt(12) bytes, divided by ImageNet's.
    expected = np.sqrt(16 * sum((1 / np.sqrt(12) / s) ** 2 for s in IMAGENET.std))
    assert found.controls["mean patch"] == pytest.approx(expected, rel=0.02)


def test_tokens_that_are_wiped_out_know_the_mean_patch_only(folder, network):
    def wipe(_module, _inputs, tokens):
        patch = torch.arange(tokens.shape[1]) % 4 == 3  # one in four, with the class token counted
        return torch.where(patch[:, None], torch.ones(()), tokens)

    handle = network.blocks[0].register_forward_hook(wipe)
    task = Pixels(final_norm=False)
    on = bench(folder, network)
    found = task.measure(
        on,
        TokenPass(on, task),
        *open_pictures(on),
        lambda _pixels, norms: (torch.arange(1, norms.shape[1] + 1) % 4 == 3).expand(norms.shape),
    )
    handle.remove()
    assert found.metrics["outlier_explained"] < 2
    assert found.metrics["normal_explained"] > 90
    assert found.metrics["error_difference_low"] > 0


def test_before_and_after_the_final_norm_are_two_things(folder, network):
    before, after = (Pixels(final_norm=flag).run(bench(folder, network)).metrics["error"] for flag in (False, True))
    assert before < after


def test_one_image_is_too_few(tmp_path, folder, network):
    (tmp_path / "a.png").write_bytes((folder / "00.png").read_bytes())
    with pytest.raises(UserError, match="at least 3"):
        Pixels().run(bench(tmp_path, network))
    for name in "bcd":
        (tmp_path / f"{name}.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"could be read"):
        Pixels().run(bench(tmp_path, network))
