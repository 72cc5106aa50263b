"""`discover` finds the boxes of the published steps, and a sweep says what single runs say."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.verbs.discover.by_hand import PREPROCESS, QUICK, SIZES, corner, keys_by_hand, lost_by_hand, vit
from threadpoolctl import threadpool_info
from torchvision.ops import box_iou

from vitreg.backbones import Edit
from vitreg.backbones.backbone import Backbone
from vitreg.discovery.chance import PLAIN
from vitreg.errors import UserError
from vitreg.results import DiscoverResult
from vitreg.verbs.discover.model import DiscoverModel
from vitreg.verbs.discover.search import one_blas_thread
from vitreg.verbs.discover.setting import Bias, Setting, Sweep, read_settings
from vitreg.verbs.discover.verb import DiscoverOptions, discover, summary


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
    assert any("1 image has no true boxes, and CorLoc leaves it out" in note for note in result.notes)


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


def test_without_true_boxes_the_result_shows_the_boxes_that_were_found(backbone, photos, tmp_path):
    options = replace(QUICK, pictures=9, setting=Setting(normalize="none", bias=Bias(0.0)))
    result = discover(backbone, photos, options=options)
    frame = result.to_pandas()
    discover(backbone, photos, out=tmp_path / "out", options=options)
    document = json.loads((tmp_path / "out" / "boxes.json").read_text())
    assert frame[["x0", "y0", "x1", "y1"]].to_numpy().tolist() == [
        list(corner(a["bbox"])) for a in document["annotations"]
    ]
    assert frame["image"].tolist() == [str(photos / f"{n}.png") for n in range(len(SIZES))]
    assert set(frame["feature"]) == {"k"}
    assert [each.name for each in result.boxed.pictures] == frame["image"].tolist()
    assert result.plot().axes


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


@pytest.mark.parametrize("setting", ["k", "output"])
def test_gradients_and_training_mode_change_nothing_and_nothing_is_kept_for_a_backward_pass(setting, photos, tmp_path):
    options = replace(QUICK, layer="-1", feature=setting)
    plain = Backbone(vit().requires_grad_(False), preprocess=PREPROCESS)
    discover(plain, photos, out=tmp_path / "plain", options=options)
    scale = torch.nn.Parameter(torch.ones(()))

    def scaled(tokens, *_):
        with torch.enable_grad():
            return tokens * scale

    module = vit(proj_drop_rate=0.5).train()
    carrying = Backbone(module, preprocess=PREPROCESS).edited(
        [Edit("block", 1, scaled), Edit("block", 2, scaled)], "carrying"
    )
    with torch.enable_grad():
        discover(carrying, photos, out=tmp_path / "carrying", options=options)
        model = DiscoverModel(carrying, None)
        picture = model.prepare(Image.open(photos / "0.png").convert("RGB"))
        features, _ = model.features(picture, [("k", 2), ("output", 2)])
    found, expected = (json.loads((tmp_path / name / "boxes.json").read_text()) for name in ("carrying", "plain"))
    assert found["annotations"] == expected["annotations"] != []
    assert not any(each.requires_grad for each in features.values())
    assert module.training
