"""At its native size a model sees what its library shows it, also where the patch does not divide the side.

SigLIP-so400m has 384 pixels and a patch of 14: its convolution drops the last 6 rows and columns. Here 32 and 7.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import from_timm, from_transformers, randomised

from vitreg import Backbone, Capture, scan
from vitreg.backbones.loading.preprocessing import preprocess_of
from vitreg.backbones.loading.processors import mirror
from vitreg.discovery.boxes import to_pixels
from vitreg.features.extract import Wanted, extract
from vitreg.machine.runtime import Processes
from vitreg.passes.batches import batches_of
from vitreg.passes.bench import Bench
from vitreg.passes.view import fitted
from vitreg.verbs.discover.model import DiscoverModel
from vitreg.verbs.eval.settings.tokens import OutlierOptions
from vitreg.verbs.eval.tasks.complexity import Complexity
from vitreg.verbs.eval.tasks.linear import _Features
from vitreg.verbs.eval.tasks.pixels import Pixels
from vitreg.verbs.eval.token_pass import TokenPass, open_pictures
from vitreg.verbs.maps.verb import maps
from vitreg.verbs.scan.verb import ScanOptions

SIDE, PATCH, COVERED, GRID = 32, 7, 28, (4, 4)


def of_timm(**options):
    from timm.data import create_transform, resolve_data_config

    model = randomised(from_timm("vit_base_patch16_siglip_224", img_size=SIDE, patch_size=PATCH, **options))
    transform = create_transform(**resolve_data_config({"input_size": (3, SIDE, SIDE)}, model=model))
    return Backbone(model, preprocess=preprocess_of(model)), transform, model.forward_features


def of_timm_with_any_size():
    """timm refuses this size here; the tokens are those of the same weights where the size is fixed."""
    backbone, transform, _ = of_timm(dynamic_img_size=True)
    fixed = from_timm("vit_base_patch16_siglip_224", img_size=SIDE, patch_size=PATCH).eval()
    fixed.load_state_dict(backbone.module.state_dict())
    return backbone, transform, fixed.forward_features


def of_transformers():
    from transformers import SiglipImageProcessor

    model = randomised(from_transformers("SiglipVisionModel", "SiglipVisionConfig", image_size=SIDE, patch_size=PATCH))
    processor = SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    backbone = Backbone(model, preprocess=mirror(processor))
    return backbone, lambda image: processor(image, return_tensors="pt").pixel_values[0], lambda x: model(x)[0]


def of_open_clip():
    return _of_open_clip({"image_size": SIDE, "patch_size": PATCH, "width": 48, "layers": 2, "head_width": 16})


def of_open_clip_with_a_tower_of_timm():
    vision = {"timm_model_name": "test_vit", "image_size": SIDE, "timm_pool": "", "timm_proj": ""}
    return _of_open_clip(vision, from_timm("vit_base_patch16_siglip_224", img_size=SIDE, patch_size=PATCH))


def _of_open_clip(vision, trunk=None):
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = {"resize_mode": "squash", "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"}
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    model = open_clip.CustomTextCLIP(48, vision, text)
    model.visual.preprocess_cfg = {**config, "size": (SIDE, SIDE)}  # as open_clip's factory leaves it there
    if trunk is not None:
        model.visual.trunk = trunk
    randomised(model)
    transform = image_transform_v2(PreprocessCfg(size=(SIDE, SIDE), **config), is_train=False)
    # The forward of its own tower goes on to one vector for the image.
    forward = None if trunk is None else trunk.forward_features
    return Backbone(model, preprocess=preprocess_of(model)), transform, forward


MODELS = [of_timm, of_timm_with_any_size, of_transformers, of_open_clip, of_open_clip_with_a_tower_of_timm]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(20):
        coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        coarse.resize((90, 70), Image.Resampling.BICUBIC).save(root / f"{number:02}.png")
    return root


def pictures(photos):
    return [Image.open(path).convert("RGB") for path in sorted(photos.iterdir())]


def bench(backbone, photos, features, **options):
    return Bench(backbone=backbone, data=str(photos), features=features, **{"workers": 0, "batch_size": 8} | options)


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("policy", ["resize", "pad", "crop"])
def test_pictures_and_tokens_are_the_librarys_own(make, policy, photos):
    backbone, transform, forward = make()
    assert (backbone.anatomy.native_size, backbone.anatomy.patch) == ((SIDE, SIDE), (PATCH, PATCH))
    expected = torch.stack([transform(picture) for picture in pictures(photos)])
    seen = batches_of(photos, backbone, Processes(), policy=policy)
    found = torch.cat([batch.pixels for batch in seen])
    assert seen.size == (SIDE, SIDE)
    assert (found - expected).abs().max() <= 0.008 + 1e-6  # one step of a byte at most, in -1..1
    tokens = backbone(found)
    assert tokens.layout.grid == GRID
    if forward is not None:
        with torch.no_grad():
            torch.testing.assert_close(tokens.values, forward(found), rtol=1e-5, atol=1e-5)


def test_a_model_of_timm_that_pads_its_last_patches_has_them_in_its_layout(photos):
    backbone, transform, forward = of_timm(dynamic_img_size=True, dynamic_img_pad=True)
    images = torch.stack([transform(picture) for picture in pictures(photos)[:2]])
    tokens = backbone(images)
    assert (tokens.layout.grid, backbone.covered((SIDE, SIDE))) == ((5, 5), (SIDE, SIDE))
    with torch.no_grad():
        assert torch.equal(tokens.values, forward(images))


def test_every_verb_shows_the_model_the_whole_picture(photos, tmp_path):
    backbone, transform, forward = of_timm()
    assert fitted((SIDE, SIDE), backbone, "pad") == (SIDE, SIDE)
    expected = torch.stack([transform(picture) for picture in pictures(photos)])
    with torch.no_grad():
        wanted = forward(expected)
    near = {"rtol": 0.02, "atol": 0.02}
    own = bench(backbone, photos, tmp_path)
    store = extract(own, open_pictures(own)[0], Wanted(cls=(), patches=(-1,)))
    fitted_on = [number for number in range(20) if number % 5 != 4]
    torch.testing.assert_close(store["patches/-1"][:].float(), wanted[fitted_on], **near)
    passed = TokenPass(own, OutlierOptions(layer=-1))
    tokens = torch.cat([batch.tokens for batch in passed(open_pictures(own)[0], "")])
    torch.testing.assert_close(tokens, wanted[fitted_on], **near)
    linear = _Features(own, Wanted(cls=(), mean=(-1,)), own.view())
    torch.testing.assert_close(linear(expected), wanted.mean(1), **near)


def test_what_is_shown_is_what_the_patches_cover(photos, tmp_path):
    backbone, transform, _ = of_timm()
    first = transform(pictures(photos)[0])[:, :COVERED, :COVERED]
    bytes_of_it = ((first * 0.5 + 0.5) * 255).round().permute(1, 2, 0).numpy()
    (drawn,) = maps(backbone, photos, limit=2, what="norm").maps
    assert (drawn.grid, drawn.image_size) == (GRID, (SIDE, SIDE))
    assert drawn.inputs.shape[1:3] == (COVERED, COVERED)
    assert np.abs(drawn.inputs[0] - bytes_of_it).max() <= 1
    shown, pixels = batches_of(photos, backbone, Processes()).again(0)
    assert (shown.shape, tuple(pixels.shape)) == ((COVERED, COVERED, 3), (1, 3, SIDE, SIDE))
    assert np.abs(shown - bytes_of_it).max() <= 1
    shown, pixels = batches_of(torch.randn(2, 3, SIDE, SIDE), backbone, Processes()).again(1)
    assert (shown.shape, tuple(pixels.shape)) == ((COVERED, COVERED, 3), (1, 3, SIDE, SIDE))
    record = scan(backbone, photos, options=ScanOptions(size=SIDE), out=tmp_path / "scan")
    assert tuple(record.model.image_size) == (SIDE, SIDE)


def test_the_last_patch_of_a_row_shows_the_pixels_it_has_seen():
    """A bright square in the last patch lights up the last cell; one in the strip behind it lights up none."""
    backbone, _, _ = of_timm()
    rows, cols = backbone.covered((SIDE, SIDE))
    assert (rows, cols) == (COVERED, COVERED)
    dark = torch.zeros(1, 3, SIDE, SIDE)
    behind, last = dark.clone(), dark.clone()
    behind[..., :, cols:] = behind[..., rows:, :] = 5
    last[..., rows - PATCH : rows, cols - PATCH : cols] = 5
    seen = [backbone.trace(x, Capture(patch_embeddings=True)).patch_embeddings[0] for x in (dark, behind, last)]
    assert torch.equal(seen[0], seen[1])
    changed = (seen[0] != seen[2]).any(-1).reshape(GRID)
    assert changed.nonzero().tolist() == [[GRID[0] - 1, GRID[1] - 1]]


def test_boxes_and_pixels_of_patches_leave_the_strip_out(photos, tmp_path):
    backbone, _, _ = of_timm()
    looking = DiscoverModel(backbone, (SIDE, SIDE))
    photograph = looking.prepare(pictures(photos)[0])
    _, grid = looking.features(photograph, [("output", -1)])
    assert grid == GRID
    assert "none" in looking.protocol()["padding"]
    assert DiscoverModel(backbone, None).features(photograph, [("output", -1)])[1] == (5, 5)
    assert to_pixels((0, 0, *GRID), looking.patch, photograph.seen) == (0, 0, COVERED, COVERED)
    found = Pixels(layer=-1, outlier_layer=-1).run(bench(backbone, photos, tmp_path))
    assert found.protocol["targets"] == 3 * PATCH * PATCH


def test_costs_are_those_of_the_grid_the_model_computes(photos, tmp_path):
    backbone, _, _ = of_timm()
    found = Complexity().run(Bench(backbone=backbone, data="", features=tmp_path))
    assert (found.protocol["size"], found.protocol["patches"]) == ([SIDE, SIDE], GRID[0] * GRID[1])
