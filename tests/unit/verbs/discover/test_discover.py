import json
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image
from threadpoolctl import threadpool_info
from timm.models.vision_transformer import VisionTransformer
from torchvision.ops import box_iou

from vitreg.backbones.backbone import Backbone
from vitreg.data import Preprocess
from vitreg.discovery.chance import PLAIN
from vitreg.errors import UserError
from vitreg.results import DiscoverResult
from vitreg.verbs.discover import model as discover_model
from vitreg.verbs.discover.judge import SHARES, Judge
from vitreg.verbs.discover.model import DiscoverModel, Photograph
from vitreg.verbs.discover.search import Found, Search, one_blas_thread
from vitreg.verbs.discover.setting import Bias, Setting, Sweep, read_settings
from vitreg.verbs.discover.verb import DiscoverOptions, discover, summary

PREPROCESS = Preprocess((32, 32), 32, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
QUICK = DiscoverOptions(pictures=0, steps=0)
SIZES = [(40, 61), (33, 48), (64, 50), (40, 56), (17, 90)]  # height, width; only some are multiples of the patch


def vit(**changes):
    torch.manual_seed(0)
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 0}
    model = VisionTransformer(**(settings | {"reg_tokens": 3, "dynamic_img_size": True} | changes)).eval()
    with torch.no_grad():
        model.reg_token.normal_() if changes.get("reg_tokens", 3) else None
    return model


@pytest.fixture(scope="module")
def backbone():
    return Backbone(vit(), preprocess=PREPROCESS)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        pixels = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        pixels[height // 4 : height // 2, width // 4 : width // 2] += 150
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def truth(tmp_path):
    """Boxes around the bright part of all images but the last."""
    images = [{"id": n, "file_name": f"{n}.png", "height": h, "width": w} for n, (h, w) in enumerate(SIZES[:-1])]
    boxes = [{"image_id": n, "bbox": [w // 4, h // 4, w // 4, h // 4]} for n, (h, w) in enumerate(SIZES[:-1])]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes}))
    return path


def keys_by_hand(model, path):
    """Original size, normalised, zeros below and to the right, k of the last projection, 1 + 3 tokens dropped."""
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).double() / 255
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (PREPROCESS.mean, PREPROCESS.std))
    height, width = pixels.shape[1:]
    padded = torch.zeros(3, math.ceil(height / 8) * 8, math.ceil(width / 8) * 8, dtype=torch.float64)
    padded[:, :height, :width] = (pixels - mean) / std
    kept = []
    handle = model.blocks[-1].attn.qkv.register_forward_hook(lambda module, given, output: kept.append(output))
    with torch.no_grad():
        model(padded[None].float())
    handle.remove()
    return kept[0][0, 4:, 32:64].double(), (padded.shape[1] // 8, padded.shape[2] // 8)


def lost_by_hand(features, grid, size, bias=0.0):
    """The official code of LOST, as a loop."""
    gram = (features @ features.T + bias).numpy()
    count = len(gram)
    degree = np.array([sum(gram[p, q] > 0 for q in range(count) if q != p) for p in range(count)])
    order = sorted(range(count), key=lambda p: degree[p])
    similars = [p for p in order[:100] if gram[order[0], p] > 0]
    mask = sum(gram[p] for p in similars).reshape(grid) > 0
    labels, _ = scipy.ndimage.label(mask)
    rows, cols = np.nonzero(labels == labels.flat[order[0]])
    return [
        cols.min() * 8, rows.min() * 8, min((cols.max() + 1) * 8, size[1]), min((rows.max() + 1) * 8, size[0])
    ]  # fmt: skip


def corner(box):
    x, y, width, height = box
    return [x, y, x + width, y + height]


def test_boxes_and_corloc_are_those_of_the_published_steps(backbone, photos, truth, tmp_path):
    options = replace(QUICK, setting=Setting(normalize="none", bias=Bias(0.0)))
    result = discover(backbone, photos, boxes=truth, out=tmp_path / "out", options=options)
    document = json.loads((tmp_path / "out" / "boxes.json").read_text())
    found = {a["image_id"]: corner(a["bbox"]) for a in document["annotations"]}
    hits = []
    for n, size in enumerate(SIZES):
        features, grid = keys_by_hand(backbone.module, photos / f"{n}.png")
        expected = lost_by_hand(features, grid, size)
        assert found[n + 1] == expected
        if n < len(SIZES) - 1:
            true = [size[1] // 4, size[0] // 4, size[1] // 4 * 2, size[0] // 4 * 2]
            hits.append(box_iou(torch.tensor([expected]).float(), torch.tensor([true]).float()).item() >= 0.5)
    assert result.corloc.value == pytest.approx(100 * np.mean(hits))
    assert (result.corloc.images, result.without_boxes, result.images.seen) == (4, 1, 5)
    assert any("1 images have no true boxes" in note for note in result.notes)


def test_features_are_those_of_the_patches_whatever_the_number_of_registers(photos):
    picture = Image.open(photos / "0.png").convert("RGB")
    for registers in (0, 3):
        model = DiscoverModel(Backbone(vit(reg_tokens=registers), preprocess=PREPROCESS), None)
        features, grid = model.features(model.prepare(picture), [("k", -1), ("v", 0), ("output", 1), ("q", 2)])
        assert grid == (5, 8)
        assert list(features) == [("k", 2), ("v", 0), ("output", 1), ("q", 2)]
        assert all(f.shape == (40, 32) for f in features.values())
    expected, _ = keys_by_hand(model.backbone.module, photos / "0.png")
    torch.testing.assert_close(features["k", 2].double(), expected, rtol=1e-4, atol=1e-5)


def test_a_sweep_says_of_every_setting_what_a_run_of_its_own_says(backbone, photos, truth):
    sweep = Sweep(
        features=("k", "output"), layers=(-1, 0), normalize=("none", "center"), biases=(Bias(None), Bias(-0.2, True))
    )
    result = discover(backbone, photos, boxes=truth, options=DiscoverOptions(sweep=sweep))
    table = result.sweep.table
    assert len(table.rows) == 2 * 2 * 2 * 2 + 1  # the default, center+l2, is not in the grid
    assert [row[0] for row in table.rows] == sorted((row[0] for row in table.rows), reverse=True)
    assert "tuning" in result.sweep.warning
    for value, feature, block, normalize, bias, mark in table.rows:
        setting = Setting(feature=feature, layer=block, normalize=normalize, bias=Bias.read(bias))
        alone = discover(backbone, photos, boxes=truth, options=DiscoverOptions(setting=setting))
        assert alone.corloc.value == value
        assert ("automatic" in mark) == (bias == "auto")
        assert ("boxes.json" in mark) == (normalize == "center+l2")
    assert result.setting == Setting().resolved(3).record()
    assert result.corloc.value == next(row[0] for row in table.rows if "boxes.json" in row[-1])
    assert "settings" in summary(result)


def test_the_model_runs_once_per_image_in_a_sweep(backbone, photos, truth, monkeypatch):
    runs = []
    trace = type(backbone).trace
    monkeypatch.setattr(type(backbone), "trace", lambda self, *given: runs.append(1) or trace(self, *given))
    discover(backbone, photos, boxes=truth, options=DiscoverOptions(sweep=Sweep()))
    assert len(runs) == len(SIZES)


OFTEN_TESTED = pytest.mark.slow  # each method is in the quick suite once


@pytest.mark.parametrize("method", ["lost", *(pytest.param(m, marks=OFTEN_TESTED) for m in ("tokencut", "maskcut"))])
def test_everything_is_written_and_reads_back(backbone, photos, truth, tmp_path, method):
    out = tmp_path / "out"
    result = discover(backbone, photos, boxes=truth, out=out, options=DiscoverOptions(setting=Setting(method=method)))
    assert {path.name for path in out.iterdir()} == {"result.json", "boxes.json", "pictures", ".vitreg.json"}
    assert {path.name for path in (out / "pictures").iterdir()} == {"boxes.png", "steps.png", "sheets.npz"}
    assert DiscoverResult.model_validate_json((out / "result.json").read_text()) == result
    document = json.loads((out / "boxes.json").read_text())
    assert [(image["height"], image["width"]) for image in document["images"]] == SIZES
    assert len(document["annotations"]) == result.found
    assert result.found >= 5 - sum(result.without_box.values()) > 0
    for annotation in document["annotations"]:
        x0, y0, x1, y1 = corner(annotation["bbox"])
        height, width = SIZES[annotation["image_id"] - 1]
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert 0 <= annotation["score"] <= 1


def test_a_resized_image_gets_its_box_in_its_own_pixels(backbone, photos, tmp_path):
    model = DiscoverModel(backbone, 16)
    photograph = model.prepare(Image.open(photos / "0.png").convert("RGB"))  # 40 x 61
    assert photograph.seen == (16, 24)
    assert photograph.to_original((0, 8, 24, 16)) == (0, 20, 61, 40)
    assert DiscoverModel(backbone, (24, 32)).prepare(Image.open(photos / "2.png")).seen == (24, 32)
    discover(backbone, photos, out=tmp_path / "out", options=replace(QUICK, size=16))
    document = json.loads((tmp_path / "out" / "boxes.json").read_text())
    assert max(corner(a["bbox"])[3] for a in document["annotations"]) > 24  # no box of 16 pixels reaches there


def test_a_model_of_one_size_asks_for_it(photos):
    fixed = Backbone(vit(), preprocess=PREPROCESS)
    fixed.anatomy = replace(fixed.anatomy, resizable=False)
    with pytest.raises(UserError, match=r"size 32x32"):
        discover(fixed, photos)
    assert discover(fixed, photos, options=DiscoverOptions(size=(32, 32))).images.seen == 5


def test_an_image_of_too_many_patches_is_left_out_with_its_reason(backbone, photos, monkeypatch):
    monkeypatch.setattr(discover_model, "MAX_PATCHES", 40)
    result = discover(backbone, photos)
    assert result.images.seen == 4  # 64 x 50 makes 8 x 7 patches
    (skipped,) = result.images.skipped
    assert "2.png" in skipped.name
    assert "50x64 px are 56 patches" in skipped.reason
    assert "--size" in skipped.reason


def test_ctrl_c_keeps_what_is_there_and_says_so(backbone, photos, truth, tmp_path, monkeypatch):
    prepare = DiscoverModel.prepare
    calls = []

    def stop(self, image):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return prepare(self, image)

    monkeypatch.setattr(DiscoverModel, "prepare", stop)
    result = discover(backbone, photos, boxes=truth, out=tmp_path / "out", options=QUICK)
    assert (result.images.seen, result.images.planned, result.images.interrupted) == (2, 5, True)
    assert summary(result).startswith("Stopped after 2 of 5 images.")
    assert len(json.loads((tmp_path / "out" / "boxes.json").read_text())["images"]) == 2
    calls[:] = [1, 1]
    with pytest.raises(UserError, match="nothing was written"):
        discover(backbone, photos, out=tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


def test_a_disk_that_is_full_when_pictures_are_drawn_leaves_the_new_record_whole(
    backbone, photos, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    discover(backbone, photos, out=out)

    def full(sheet, path):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half a picture")
        raise UserError(f"cannot write {path}: No space left on device.")

    monkeypatch.setattr("vitreg.report.sheets.sheet.save", full)
    with pytest.raises(UserError, match="No space"):
        discover(backbone, photos, out=out, options=DiscoverOptions(limit=2))
    assert {path.name for path in out.rglob("*")} == {"result.json", "boxes.json", ".vitreg.json"}
    assert json.loads((out / "result.json").read_text())["images"]["seen"] == 2


def test_boxes_of_another_resolution_leave_the_image_out(backbone, photos, truth):
    Image.new("RGB", (61, 80)).save(photos / "0.png")
    result = discover(backbone, photos, boxes=truth)
    assert (result.corloc.images, result.images.seen) == (3, 4)
    assert "boxes are for 61x40 px, the picture has 61x80 px" in result.images.skipped[0].reason


@pytest.mark.parametrize(
    ("orientation", "size", "kept"),
    [(1, (40, 61), True), (2, (40, 61), False), (3, (40, 61), False), (4, (40, 61), False)]
    + [(o, (40, 61), True) for o in (5, 6, 7, 8)]
    + [(o, (48, 48), False) for o in (2, 5, 6, 7, 8)],
)
def test_boxes_that_may_be_of_the_picture_before_it_was_turned_leave_it_out(
    backbone, tmp_path, orientation, size, kept
):
    (tmp_path / "photos").mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    height, width = size if orientation < 5 else size[::-1]
    Image.effect_noise((width, height), 60).convert("RGB").save(tmp_path / "photos" / "0.jpg", exif=exif)
    Image.effect_noise((60, 40), 60).convert("RGB").save(tmp_path / "photos" / "1.jpg")
    images = [{"id": 0, "file_name": "0.jpg", "height": size[0], "width": size[1]}]
    images += [{"id": 1, "file_name": "1.jpg", "height": 40, "width": 60}]
    boxes = [{"image_id": number, "bbox": [2, 3, 20, 20]} for number in (0, 1)]
    (tmp_path / "boxes.json").write_text(json.dumps({"images": images, "annotations": boxes}))
    result = discover(backbone, tmp_path / "photos", boxes=tmp_path / "boxes.json")
    assert result.images.seen == 1 + kept
    assert [f"EXIF orientation {orientation} turns it" in skipped.reason for skipped in result.images.skipped] == (
        [] if kept else [True]
    )


def test_few_images_have_the_interval_that_few_images_have(backbone, photos, truth):
    result = discover(backbone, photos, boxes=truth, options=DiscoverOptions(limit=1))
    assert (result.corloc.low, result.corloc.high) == pytest.approx((20.65, 100), abs=0.01)
    assert "3 annotated images were not looked at." in result.notes


@pytest.mark.parametrize("method", ["maskcut", pytest.param("tokencut", marks=OFTEN_TESTED)])
def test_a_model_whose_patches_are_all_alike_finds_no_box_and_says_so(photos, truth, tmp_path, method):
    backbone = Backbone(vit(), preprocess=PREPROCESS)
    with torch.no_grad():
        for block in backbone.module.blocks:
            block.attn.qkv.weight.mul_(0.01)  # what is left of the keys is their bias, the same for every patch
            block.attn.qkv.bias.fill_(1.0)
    setting = Setting(method=method)
    result = discover(backbone, photos, boxes=truth, out=tmp_path / "out", options=DiscoverOptions(setting=setting))
    assert (result.found, result.without_cut, result.images.seen) == (0, len(SIZES), len(SIZES))
    assert (result.corloc.value, result.corloc.low) == (0, 0)
    assert result.corloc.high > 40  # of four images
    said = summary(result)
    assert "In every image there is no box: the graph of patches has no cut" in said
    assert "--normalize center" in said
    document = json.loads((tmp_path / "out" / "boxes.json").read_text())
    assert (len(document["images"]), document["annotations"]) == (len(SIZES), [])
    assert (tmp_path / "out" / "pictures" / "steps.png").exists()
    centred = DiscoverOptions(setting=replace(setting, normalize="center"))
    assert discover(backbone, photos, boxes=truth, options=centred).found > 0


def test_cuts_are_ranked_without_labels(backbone, photos, truth):
    options = DiscoverOptions(setting=Setting(method="tokencut"), sweep=Sweep(layers=(0, 1, 2)))
    blind = discover(backbone, photos, options=options)
    table = blind.sweep.table
    gap, cuts = table.columns.index("mean eigengap"), table.columns.index("images with a cut, %")
    keys = [(-float(row[gap]), -row[cuts]) for row in table.rows]
    assert keys == sorted(keys)
    assert "CorLoc %" not in table.columns
    assert "largest eigengap" in table.rows[0][-1]
    assert "no proof" in summary(blind)
    judged = discover(backbone, photos, boxes=truth, options=options)
    marked = next(row for row in judged.sweep.table.rows if "largest eigengap" in row[-1])
    assert marked[1:4] == table.rows[0][:3]
    assert marked[0] == judged.sweep.unlabelled
    assert f"without labels: CorLoc {marked[0]:.1f} %" in summary(judged)


def test_mistakes_are_said_in_one_sentence(backbone, photos, truth, tmp_path):
    (tmp_path / "x").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "x" / "other.png")
    for arguments, says in (
        (
            {"images": tmp_path / "x", "boxes": truth},
            r"no image has boxes in .*other\.png', an annotation is for '0\.png'",
        ),
        ({"images": photos, "options": DiscoverOptions(sweep=Sweep())}, "needs true boxes"),
        ({"images": photos, "boxes": tmp_path / "nowhere.json"}, "cannot read"),
        ({"images": photos, "boxes": tmp_path / "a.xml"}, "name the folder"),
        ({"images": photos, "options": DiscoverOptions(setting=Setting(layer=7))}, "no block 7"),
        ({"images": photos, "weights": "w.pth"}, "loaded backbone"),
    ):
        with pytest.raises(UserError, match=says):
            discover(backbone, **arguments)


def found(*boxes):
    return [Found(boxes=(box,), scores=(0.5,), patches=4) for box in boxes]


def judged_by_hand(width, height, boxes, true):
    photograph = Photograph(np.zeros((height, width, 3), np.uint8), (height, width), np.zeros((2, 2, 3), np.uint8))
    return Judge(None)(0, "a", photograph, found(*boxes), np.array(true, dtype=float))


def test_overlaps_and_controls_agree_with_torchvision():
    boxes, true = [(0.0, 0.0, 50.0, 50.0), (20.0, 10.0, 90.0, 80.0)], [(10, 10, 90, 70), (0, 0, 40, 60)]
    row = judged_by_hand(100, 80, boxes, true)
    expected = box_iou(torch.tensor(boxes), torch.tensor(true, dtype=torch.float32)).amax(1)
    np.testing.assert_allclose(row.overlaps, expected, rtol=1e-5)
    for share, overlap in zip([*SHARES, 1.0], row.controls, strict=True):
        side = share**0.5
        box = [50 - 50 * side, 40 - 40 * side, 50 + 50 * side, 40 + 40 * side]
        best = box_iou(torch.tensor([box]), torch.tensor(true, dtype=torch.float32)).max()
        assert overlap == pytest.approx(float(best), abs=1e-5)


class Everything:
    """Stands for a set of boxes that knows every image."""

    source, convention, dropped = "set", "none", 0

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def find(self, name):
        return name


def test_boxes_of_a_single_patch_are_said():
    row = judged_by_hand(10, 10, [(0.0, 0.0, 5.0, 5.0)], [(0, 0, 10, 10)])
    alone = replace(row, patches=1)
    for rows, said in (([alone, row, row, row], False), ([alone, alone, row], True)):
        notes = Judge(None).verdict(rows, [Setting()]).notes
        assert any("In 2 of 3 images the box is a single patch" in note for note in notes) == said


def test_the_verdict_counts_warns_and_judges_halves():
    hits = np.array([[1, 0], [0, 1], [1, 0], [0, 1], [1, 0], [0, 0]])
    base = judged_by_hand(10, 10, [(0.0, 0.0, 5.0, 5.0)], [(0, 0, 10, 10)])
    rows = [replace(base, index=i, overlaps=np.where(h, 0.5, 0.49).astype(np.float32)) for i, h in enumerate(hits)]
    settings = [Setting().resolved(3), Setting(feature="v").resolved(3)]
    verdict = Judge(Everything(6)).verdict(rows, settings)
    assert verdict.corloc.value == 50
    assert verdict.corloc.low < 50 < verdict.corloc.high
    assert verdict.controls["whole image"] == 100
    (warning,) = (note for note in verdict.notes if note.startswith("WARNING"))
    assert warning == (
        "WARNING: the centre box of 50 % of the area (best of 9 shares) has 100.0 %, and looks at no image; 50.0 % says "
        "nothing for the model."
    )
    # Even places choose the first setting, which never hits on odd ones; odd choose the second, which never hits on even.
    assert verdict.sweep.halves == 0
    assert Judge(Everything(6)).verdict(rows[:3], settings).sweep.halves is None


def test_a_bias_is_read_and_written():
    for text, bias in (
        ("auto", Bias(None)), ("-0.4", Bias(-0.4)), ("0", Bias(0.0)), ("-20%", Bias(-0.2, True)), ("+5%", Bias(0.05, True)),
    ):  # fmt: skip
        assert Bias.read(text) == bias
        assert Bias.read(str(bias)) == bias
    for text in ("half", "", "--1", "1e999", "nan", "5 %"):
        with pytest.raises(UserError, match="no bias"):
            Bias.read(text)


def test_a_relative_bias_is_a_share_of_the_mean_diagonal():
    x = torch.randn(63, 8, generator=torch.Generator().manual_seed(0)) + 0.3
    x.view(7, 9, 8)[1:5, 2:6] -= 2
    pixels = np.indices((56, 72)).sum(0).astype(np.uint8)[..., None].repeat(3, axis=2)
    photograph = Photograph(pixels, (56, 72), np.zeros((2, 2, 3), np.uint8))
    diagonal = float((x @ x.T).diagonal().mean())
    settings = [
        Setting(layer=0, normalize="none", bias=bias) for bias in (Bias(-0.25, True), Bias(-0.25 * diagonal), Bias(0.0))
    ]
    search = Search(settings)
    relative, absolute, none = search({("k", 0): x}, (7, 9), photograph, (8, 8))
    assert (relative.boxes, relative.scores) == (absolute.boxes, absolute.scores)
    assert relative.scores != none.scores


@pytest.mark.parametrize("method", ["tokencut", *(pytest.param(m, marks=OFTEN_TESTED) for m in ("lost", "maskcut"))])
def test_a_picture_of_one_colour_has_no_box_and_this_is_said(backbone, photos, tmp_path, method):
    """Its patches differ by their positions alone, and these hang together."""
    for number, colour in enumerate([(255, 255, 255), (0, 0, 0), (9, 80, 200)]):
        Image.new("RGB", (160, 120), colour).save(photos / f"plain-{number}.png")
    dithered = np.full((120, 160, 3), 127, np.uint8) + np.indices((120, 160)).sum(0).astype(np.uint8)[..., None] % 2
    Image.fromarray(dithered).save(photos / "plain-3.png")
    options = DiscoverOptions(setting=Setting(method=method))
    result = discover(backbone, photos, out=tmp_path / "out", options=options)
    assert result.without_box[PLAIN] == 4
    assert f"In 4 of 9 images there is no box: {PLAIN}." in summary(result)
    document = json.loads((tmp_path / "out" / "boxes.json").read_text())
    names = {image["id"]: image["file_name"] for image in document["images"]}
    assert not any("plain" in names[each["image_id"]] for each in document["annotations"])
    assert method != "lost" or {each["image_id"] for each in document["annotations"]} == {1, 2, 3, 4, 5}
    assert json.loads((tmp_path / "out" / "result.json").read_text())["without_box"][PLAIN] == 4


@pytest.mark.parametrize("alike", [False, True])
def test_a_cut_of_which_nothing_is_named_is_chosen_without_labels(photos, truth, alike):
    """Where all keys are alike, as those of large models are, the published setting has no cut, and another is chosen."""
    backbone = Backbone(vit(), preprocess=PREPROCESS)
    if alike:
        with torch.no_grad():
            for block in backbone.module.blocks:
                block.attn.qkv.bias.fill_(10.0)
    setting, _ = read_settings(method="tokencut")
    assert setting.open
    result = discover(backbone, photos, boxes=truth, options=DiscoverOptions(setting=setting))
    assert discover(backbone, photos, options=DiscoverOptions(setting=setting)).setting == result.setting  # blind
    sweep = DiscoverOptions(setting=replace(setting, open=False), sweep=Sweep())
    marked = next(row for row in discover(backbone, photos, boxes=truth, options=sweep).sweep.table.rows
                  if "largest eigengap" in row[-1])  # fmt: skip
    assert [result.setting[key] for key in ("feature", "block", "normalisation")] == marked[1:4]
    assert result.corloc.value == marked[0]
    assert "no label looked at" in result.protocol["setting chosen by"]
    published = discover(backbone, photos, options=DiscoverOptions(setting=Setting(method="tokencut")))
    assert published.without_cut == len(SIZES) or not alike
    assert result.without_cut < len(SIZES)
    assert not read_settings(method="tokencut", layer="-1")[0].open


def test_numpy_has_one_thread_while_cuts_are_made_and_torch_keeps_its_own():
    def threads():
        return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info() if "openblas" in pool["filepath"]}

    before, of_torch = threads(), torch.get_num_threads()
    with one_blas_thread():
        assert all(count == 1 for path, count in threads().items() if "numpy" in path or "scipy" in path)
        assert torch.get_num_threads() == of_torch
    assert threads() == before


def test_words_become_settings():
    assert read_settings() == (Setting(), None)
    chosen, sweep = read_settings(feature="v,k", layer="-1,3", bias="-20%,auto", sweep=True)
    assert chosen == Setting(feature="v", bias=Bias(-0.2, True))
    assert sweep == Sweep(features=("v", "k"), layers=(-1, 3), biases=(Bias(-0.2, True), Bias(None)))
    for words, says in (
        ({"feature": "k,v"}, "add sweep"),
        ({"feature": "key"}, "no feature 'key'"),
        ({"normalize": "l3"}, "no normalisation 'l3'. Known: center"),
        ({"method": "loss"}, "Did you mean 'lost'"),
        ({"method": "tokencut", "bias": "0"}, "leave bias out"),
        ({"layer": "last"}, "names no block"),
    ):
        with pytest.raises(UserError, match=says):
            read_settings(**words)


def test_a_grid_has_the_chosen_setting_first_and_none_twice():
    chosen = Setting(feature="v", layer=11, normalize="l2", bias=Bias(0.0))
    settings = Sweep().settings(chosen, 12)
    assert settings[0] == chosen
    assert len(settings) == len(set(settings)) == 3 * 4 * 3 * 7
    assert {setting.layer for setting in settings} == {8, 9, 10, 11}
    assert {setting.layer for setting in Sweep().settings(Setting(), 2)} == {0, 1}
    cuts = Sweep().settings(Setting(method="tokencut"), 12)
    assert len(cuts) == 3 * 4 * 2  # a cut compares by cosine in any case, and has no bias
