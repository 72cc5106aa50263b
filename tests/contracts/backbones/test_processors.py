"""Photographs are prepared as the model's own library prepares them, pixel by pixel.

transformers' image processors filter tensors (torchvision) or pictures (Pillow). Both compute the same antialiased filter
in fixed point of another width, so each of the two passes over an image may round one step of 1/255 apart. Pillow's own are
met exactly, within a step where nothing but the order of the passes differs.
"""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import from_timm, from_transformers

from vitreg.backbones.anatomy.transformers import _FAMILIES
from vitreg.backbones.loading.load import load
from vitreg.backbones.loading.preprocessing import Unprepared, preprocess_of, read_open_clip_config
from vitreg.backbones.loading.processors import mirror
from vitreg.data.views.transforms import Preprocess
from vitreg.errors import UserError

transformers = pytest.importorskip("transformers")
auto = pytest.importorskip("transformers.models.auto.image_processing_auto")

SHAPES = [(317, 213), (255, 401), (131, 131), (7, 9), (1, 97), (97, 1), (260, 224), (224, 255)]  # height, width


def photograph(height: int, width: int, mode: str = "RGB") -> Image.Image:
    """Make what photographs have: slopes, edges from black to white, and grain."""
    random = np.random.default_rng(height * 1000 + width)
    rows, cols = np.mgrid[:height, :width]
    slopes = 90 + 60 * np.sin(cols / 17 + np.arange(3)[:, None, None]) + 60 * np.cos(rows / 23)
    edges = 255.0 * ((rows // 11 + cols // 13) % 5 == 0)
    pixels = np.where(edges > 0, edges, slopes + random.normal(0, 12, (3, height, width)))
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
    return picture.convert(mode)


def processor_of(name: str, **settings):
    kind = auto.get_image_processor_class_from_name(name)
    return kind(**settings)


def theirs(processor, picture) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.as_tensor(processor(images=picture, return_tensors="pt")["pixel_values"])[0].float()


def steps_apart(own: Preprocess, processor, shapes=SHAPES, mode: str = "RGB") -> float:
    """Largest difference in steps of 1/255."""
    worst = 0.0
    for shape in shapes:
        picture = photograph(*shape, mode)
        expected, got = theirs(processor, picture), own(picture)
        assert got.shape == expected.shape, shape
        worst = max(worst, float(((got - expected).abs() * 255 * torch.tensor(own.std).view(3, 1, 1)).max()))
    return worst


def names_of_vits() -> list[str]:
    """Image processors of all model types of transformers whose own class is a ViT known here, both backends of each."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    towers = {"clip": "CLIPVisionModel", "siglip": "SiglipVisionModel"}
    kin = {"beit", "chinese_clip", "vit_msn", "metaclip_2", "aimv2", "swin"}  # ViTs of other anatomy, with shared files
    found = set()
    for kind, classes in auto.IMAGE_PROCESSOR_MAPPING_NAMES.items():
        own = towers.get(kind, MODEL_MAPPING_NAMES.get(kind))
        if own in _FAMILIES or kind in kin:
            found |= {name for name in classes.values() if name}
    return sorted(found)


def test_the_processors_of_every_family_are_among_those_compared():
    expected = {
        "ViTImageProcessor",
        "DeiTImageProcessor",
        "BitImageProcessor",
        "CLIPImageProcessor",
        "SiglipImageProcessor",
    }
    expected |= {"DINOv3ViTImageProcessor", "BeitImageProcessor", "ChineseCLIPImageProcessor"}
    assert {*expected, *(f"{name}Pil" for name in expected - {"DINOv3ViTImageProcessor"})} <= set(names_of_vits())


@pytest.mark.parametrize("name", names_of_vits())
def test_every_processor_of_a_vit_is_met_with_its_own_defaults(name):
    processor = processor_of(name)
    own = mirror(processor)
    assert isinstance(own, Preprocess)
    assert steps_apart(own, processor) <= (0.001 if name.endswith("Pil") else 2.001)


SETTINGS = {
    "not normalised": {"do_normalize": False},
    "not rescaled": {"do_rescale": False, "image_mean": [120.0, 110.0, 100.0], "image_std": [60.0, 61.0, 62.0]},
    "bytes": {"do_rescale": False, "do_normalize": False},
    "rescaled to 0..2": {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 0.9, 0.8], "image_std": [0.5, 0.6, 0.7]},
    "one number for a size": {"size": 96},
    "oblong": {"size": {"height": 80, "width": 130}, "do_center_crop": False},
    "short side and crop": {"size": {"shortest_edge": 117}, "do_center_crop": True, "crop_size": 96},
    "oblong crop": {"size": {"shortest_edge": 120}, "do_center_crop": True, "crop_size": {"height": 120, "width": 95}},
    "crop of what is as large as it was": {"do_resize": False, "do_center_crop": True, "crop_size": 64},
    "crop larger than the picture": {"size": {"shortest_edge": 60}, "do_center_crop": True, "crop_size": 96},
    "nearest": {"resample": 0},
    "lanczos": {"resample": 1},
    "bilinear": {"resample": 2},
    "bicubic": {"resample": 3},
    "box": {"resample": 4},
    "hamming": {"resample": 5},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", ["ViTImageProcessor", "ViTImageProcessorPil", "CLIPImageProcessor"])
def test_every_setting_is_read(name, settings):
    processor = processor_of(name, **SETTINGS[settings])
    own = mirror(processor)
    if settings in ("box", "hamming") and not name.endswith("Pil"):  # torch has no such filter
        assert isinstance(own, Unprepared)
        assert "cannot prepare a picture with its own settings" in own.reason
        return
    assert isinstance(own, Preprocess), own
    assert steps_apart(own, processor) <= (1.001 if name.endswith("Pil") else 2.001)


TIES = [(64, 64), (96, 192), (640, 480), (448, 336), (317, 213), (3, 2000)]  # pixels equally near, and not; a strip


@pytest.mark.parametrize("side", [37, 64, 224])
@pytest.mark.parametrize(
    "name", ["ViTImageProcessor", "ViTImageProcessorPil", "CLIPImageProcessor", "CLIPImageProcessorPil"]
)
def test_the_nearest_pixel_is_the_librarys_also_where_two_are_equally_near(name, side):
    sizes = {"size": {"height": side, "width": side}}
    if name.startswith("CLIP"):
        sizes = {"size": {"shortest_edge": side}, "crop_size": side - 3}
    processor = processor_of(name, resample=0, **sizes)
    own = mirror(processor)
    assert isinstance(own, Preprocess), own
    assert steps_apart(own, processor, TIES) <= 0.001


@pytest.mark.parametrize("several", [0.5, [0.5]])
def test_one_mean_for_all_channels_is_three_where_the_library_takes_it(several):
    processor = processor_of("ViTImageProcessorPil", image_mean=several, image_std=several)
    own = mirror(processor)
    if isinstance(several, float):
        assert steps_apart(own, processor) <= 0.001
    else:  # Pillow's backend wants three
        assert isinstance(own, Unprepared)
        assert "cannot prepare a picture with its own settings" in own.reason
    processor = processor_of("ViTImageProcessor", image_mean=[0.5], image_std=[0.5])
    assert steps_apart(mirror(processor), processor) <= 2.001


@pytest.mark.parametrize(
    "size",
    [
        {"shortest_edge": 96},
        {"shortest_edge": 96, "longest_edge": 150},
        {"max_height": 96, "max_width": 120},
    ],
    ids=str,
)
def test_pictures_that_keep_their_aspect_ratio_have_no_size_in_common_unless_one_is_named(size):
    processor = processor_of("ViTImageProcessor", size=size)
    found = mirror(processor)
    assert isinstance(found, Unprepared)
    assert "keeps the aspect ratio of pictures" in found.reason
    assert "--size, such as 96" in found.reason
    assert steps_apart(found.at_size, processor, [(131, 131), (50, 50)]) <= 2.001


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("ViTImageProcessor", {"do_resize": False}, "leaves pictures as large as they are"),
        ("Siglip2ImageProcessor", {}, "settings that are not known here"),
        ("LevitImageProcessor", {}, "prepares pictures in a way that vitreg cannot repeat"),
        ("PerceiverImageProcessor", {}, "prepares pictures in a way that vitreg cannot repeat"),
        ("VideoMAEImageProcessor", {}, "prepares pictures in a way that vitreg cannot repeat"),
        (
            "DINOv3ViTImageProcessor",
            {"resample": 3},
            "differ by",
        ),  # floating point keeps what overshoots black and white
        ("ViTImageProcessor", {"rescale_factor": 0.0}, "settings that are not known here"),
        ("ViTImageProcessor", {"do_pad": True, "pad_size": {"height": 300, "width": 300}}, "another shape"),
    ],
)
def test_what_cannot_be_repeated_is_refused_with_the_reason(name, settings, reason):
    found = mirror(processor_of(name, **settings))
    assert isinstance(found, Unprepared)
    assert reason in found.reason
    assert "\n" not in found.reason
    assert "give tensors" in found.reason


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "LA"])
def test_pictures_of_other_modes_become_rgb_as_there(mode):
    processor = processor_of("CLIPImageProcessor")
    assert steps_apart(mirror(processor), processor, SHAPES[:2], mode) <= 2.001


@pytest.mark.slow
def test_no_processor_of_transformers_is_met_by_half():
    """Of all others each is either repeated on photographs or refused with a sentence."""
    for name in sorted({n for kinds in auto.IMAGE_PROCESSOR_MAPPING_NAMES.values() for n in kinds.values() if n}):
        try:
            processor = processor_of(name)
        except Exception:  # needs arguments or packages
            continue
        found = mirror(processor)
        if isinstance(found, Unprepared):
            assert found.reason.endswith("."), name
        else:
            assert steps_apart(found, processor, SHAPES[:2]) <= 3.001, name


def saved(folder, processor=None):
    model = from_transformers("ViTModel", "ViTConfig")
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return f"hf:{folder}"


def test_a_folder_is_prepared_for_as_its_own_processor_does(tmp_path):
    processor = processor_of("ViTImageProcessor", size=64, do_normalize=False, resample=3)
    backbone = load(saved(tmp_path, processor), device="cpu", precision="fp32")
    again = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert steps_apart(backbone.prepared(), again) <= 2.001
    assert backbone.preprocess == backbone.prepared()
    assert not backbone.notes


def test_the_file_that_transformers_5_writes_for_images_and_texts_is_read(tmp_path):
    spec = saved(tmp_path)
    nested = processor_of("CLIPImageProcessor", size={"shortest_edge": 70}, crop_size=64).to_dict()
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "X", "image_processor": nested}))
    own = load(spec, device="cpu").preprocess
    assert (own.size, own.resize) == ((64, 64), 70)
    again = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert steps_apart(own, again) <= 2.001


def test_files_of_old_versions_are_read(tmp_path):
    spec = saved(tmp_path)
    old = {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "size": 64,
        "crop_size": 64,
        "do_center_crop": True,
        "resample": 3,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    again = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert steps_apart(load(spec, device="cpu").preprocess, again) <= 2.001


def test_a_model_whose_pictures_have_no_size_in_common_loads_and_scans_at_a_named_size(tmp_path):
    from vitreg.verbs.scan.verb import ScanOptions, scan

    spec = saved(tmp_path / "model", processor_of("ViTImageProcessor", size={"shortest_edge": 64}))
    (tmp_path / "photos").mkdir()
    for i, shape in enumerate(SHAPES[:3]):
        photograph(*shape).save(tmp_path / "photos" / f"{i}.png")
    backbone = load(spec, device="cpu", precision="fp32")
    with pytest.raises(UserError, match="pass size, such as 64"):
        scan(backbone, tmp_path / "photos")
    with pytest.raises(UserError, match="pass size, such as 64"):
        load(spec, device="cpu").prepared()
    assert scan(backbone, tmp_path / "photos", options=ScanOptions(size=64)).images.seen == 3
    assert load(spec, device="cpu", image_size=64).preprocess.size == (64, 64)


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "vit_base_patch16_siglip_224", "vit_small_patch14_dinov2", "vit_base_patch16_clip_224"],
)
def test_timm_models_are_prepared_for_as_timm_does(name):
    from timm.data import create_transform, resolve_data_config

    model = from_timm(name)
    config = {**model.pretrained_cfg, "input_size": (3, 64, 64) if "patch16" in name else (3, 56, 56)}
    transform = create_transform(**resolve_data_config({}, pretrained_cfg=config))
    own = preprocess_of(model)
    for shape in SHAPES:
        picture = photograph(*shape)
        assert (own(picture) - transform(picture)).abs().max() <= 1e-5, shape


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"},
        {"resize_mode": "shortest", "interpolation": "bilinear"},
        {"resize_mode": "longest", "fill_color": 30},
        {"resize_mode": "longest"},
        {"resize_mode": None, "mean": 0.5, "std": None, "interpolation": None},
    ],
    ids=str,
)
def test_open_clip_models_are_prepared_for_as_open_clip_does(config, size):
    from open_clip.transform import image_transform

    own = read_open_clip_config(config, size)
    transform = image_transform(size, is_train=False, **config)
    for shape in SHAPES:
        if config.get("resize_mode") == "longest" and 1 in shape:
            continue  # open_clip itself fails: a strip would become 0 pixels high
        picture = photograph(*shape)
        assert (own(picture) - transform(picture)).abs().max() <= 1e-5, shape


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["image_mean", "image_std"])
def test_a_processor_with_a_mean_or_std_that_is_no_number_is_refused(name, value):
    found = mirror(processor_of("ViTImageProcessor", **{name: [0.5, value, 0.5]}))
    assert isinstance(found, Unprepared)
    settings = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)} | {name[6:]: (0.5, value, 0.5)}
    with pytest.raises(ValueError, match="must be finite"):
        Preprocess((32, 32), 32, **settings)
