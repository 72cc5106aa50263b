"""Scan, maps, probes and discovery of models of unusual build find what was planted where it was planted.

A white patch becomes an outlier, and where it is white is known from the pixels alone: registers taken for patches, patches
in another order or dropped ones counted as others would show.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import vitreg
from vitreg.backbones import Backbone
from vitreg.data.views.transforms import Preprocess
from vitreg.errors import UserError
from vitreg.features.fields import FieldReader, Wanted
from vitreg.passes.bench import Bench
from vitreg.passes.findings import findings
from vitreg.testing.toys import GRID, PATCH, TOYS, DropsTokens, RegistersBetween, TokenMixer, ToyViT
from vitreg.verbs.eval.tasks.controls import Controls
from vitreg.verbs.eval.tasks.knn import Knn
from vitreg.verbs.eval.tasks.pixels import Pixels
from vitreg.verbs.eval.tasks.position import Position

pytestmark = pytest.mark.usefixtures("few_resamples", "undrawn")

SIDE, IMAGES = GRID[0] * PATCH, 64
PREPROCESS = Preprocess((SIDE, SIDE), (SIDE, SIDE), (0.5,) * 3, (0.25,) * 3, crop=False)  # white is 2
DROPPED = np.arange(16) % 3 == 1


def backbone(toy):
    model = toy()
    return Backbone(model, model.anatomy(), PREPROCESS)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A folder of pictures with one white patch each, and which one: the cell of each picture, in their order."""
    folder, rng = tmp_path_factory.mktemp("white"), np.random.default_rng(0)
    cells = rng.permutation(np.arange(IMAGES) % 16)
    for number, cell in enumerate(cells):
        picture = rng.integers(90, 160, (SIDE, SIDE, 3), dtype=np.uint8)
        row, col = divmod(int(cell), GRID[1])
        picture[row * PATCH : (row + 1) * PATCH, col * PATCH : (col + 1) * PATCH] = 255
        Image.fromarray(picture).save(folder / f"{number:03}.png")
    return folder, cells


@pytest.mark.parametrize("toy", TOYS)
def test_a_scan_finds_the_planted_patches_and_no_others(toy, planted, tmp_path):
    folder, _ = planted
    found = vitreg.scan(backbone(toy), folder, out=tmp_path, tokens=True, examples=0)
    assert found.verdict.kind == "high-norm"
    gone = DROPPED if toy is DropsTokens else np.zeros(16, bool)
    for layer in found.layers:
        there = ~gone if layer.index else np.ones(16, bool)
        assert sum(layer.histogram.counts) == IMAGES * there.sum()
        assert layer.outlier_fraction == pytest.approx((IMAGES // 16) / IMAGES, rel=1e-5)
        assert layer.followed is not None
        if there.all() == (found.own_median.layer == 0) or layer.index:  # what is dropped later counts with the others
            assert layer.followed.auc == 1.0
    peak = found.own_median.layer
    there = ~gone if peak else np.ones(16, bool)
    assert np.ravel(found.positions.values).tolist() == pytest.approx(
        (there * (IMAGES // 16) / IMAGES).tolist(), rel=1e-4
    )
    assert found.own_median.share == pytest.approx(1 / 16, rel=1e-5)
    assert found.model.heads == (None if toy is TokenMixer else 3)
    assert (found.attention_unread != "") == (toy is TokenMixer)
    assert any("tokens enter block 0; 12 tokens after block 1" in note for note in found.model.notes) == (
        toy is DropsTokens
    )


@pytest.mark.parametrize("toy", TOYS)
def test_the_token_table_has_every_token_that_is_there_at_its_place(toy, planted, tmp_path):
    folder, cells = planted
    vitreg.scan(backbone(toy), folder, out=tmp_path, tokens=True, examples=0)
    table = {name: np.array(values) for name, values in pq.read_table(tmp_path / "tokens.parquet").to_pydict().items()}
    gone = int(DROPPED.sum()) if toy is DropsTokens else 0
    tokens = backbone(toy).layouts((SIDE, SIDE))[0].length
    assert len(table["norm"]) == IMAGES * (3 * tokens - 2 * gone)
    patch, cell = table["role"] == "patch", table["row"] * GRID[1] + table["col"]
    outliers = patch & table["outlier"] & (table["layer"] == 0)
    assert cell[outliers][np.argsort(table["image"][outliers])].tolist() == cells.tolist()
    last = patch & (table["layer"] == 2)
    assert sorted(set(cell[last].tolist())) == [c for c in range(16) if not (gone and DROPPED[c])]


@pytest.mark.parametrize("toy", TOYS)
def test_maps_show_the_planted_patch_at_its_place_and_dropped_ones_empty(toy, planted):
    folder, cells = planted
    made = vitreg.maps(backbone(toy), folder, what=("norm", "pca", "rgb", "attention"), layer="all", limit=8)
    for each in made.maps:
        gone = DROPPED if toy is DropsTokens and each.layer else np.zeros(16, bool)
        norms = each.norm.reshape(8, 16)
        assert np.isnan(norms).tolist() == [gone.tolist()] * 8
        for image, cell in enumerate(cells[:8]):
            assert gone[cell] or np.nanargmax(norms[image]) == cell
        assert np.isnan(each.pca.reshape(8, 16)).tolist() == [gone.tolist()] * 8
        assert np.isfinite(each.rgb.reshape(8, 16, 3)[:, ~gone]).all()
        assert ("CLS" in each.attention) == (toy is not TokenMixer)
        if each.attention and toy is DropsTokens:  # block 1 attends over all its tokens, and drops some afterwards
            assert np.isnan(each.attention["CLS"]).any() == (each.layer == 2)
            assert each.tokens == (12 if each.layer == 2 else 17)
    assert any("no attention" in note for note in made.notes) == (toy is TokenMixer)


def bench(model, folder, tmp_path):
    return Bench(backbone=model, data=str(folder), features=tmp_path, workers=0, batch_size=16)


@pytest.mark.parametrize("toy", TOYS)
def test_probes_know_where_tokens_sit_and_what_they_show(toy, planted, tmp_path):
    folder, _ = planted
    cells = 11 if toy is DropsTokens else 16
    run = bench(backbone(toy), folder, tmp_path)
    places = Position(detector="ratio:4").run(run)
    assert places.protocol["classes"] == cells
    assert places.controls["chance"] == pytest.approx(100 / cells)
    assert places.metrics["normal_accuracy"] > 60
    rows = {row[0]: row[1] for row in places.tables[0].rows}
    assert rows["normal"] + rows["outlier"] == 12 * cells
    shown = Pixels(detector="ratio:4").run(run)
    # Tokens of the patch beside would explain nothing; a white patch is white whatever the probe was fitted to.
    assert shown.metrics["normal_explained"] > 15


@pytest.mark.parametrize("toy", TOYS)
def test_an_object_is_found_where_it_is(toy, tmp_path):
    rng = np.random.default_rng(0)
    for number, (row, col) in enumerate([(0, 0), (1, 2), (2, 1)]):
        picture = rng.integers(90, 160, (SIDE, SIDE, 3), dtype=np.uint8)
        picture[row * PATCH : (row + 2) * PATCH, col * PATCH : (col + 2) * PATCH] = 255
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    model, quick = backbone(toy), {"pictures": 0, "steps": 0}
    vitreg.discover(
        model, tmp_path, out=tmp_path / "out", feature="output", layer="0", normalize="center", bias="0", **quick
    )
    boxes = [each["bbox"] for each in json.loads((tmp_path / "out" / "boxes.json").read_text())["annotations"]]
    assert boxes == [[8 * c, 8 * r, 16, 16] for r, c in [(0, 0), (1, 2), (2, 1)]]
    if toy is DropsTokens:
        with pytest.raises(UserError, match="5 of the 16 patches have no token in block 2"):
            vitreg.discover(model, tmp_path, feature="output", layer="-1", **quick)
    if toy is TokenMixer:
        with pytest.raises(UserError, match="TokenMixer has no attention, so there are no q, k, v"):
            vitreg.discover(model, tmp_path, **quick)


@pytest.mark.parametrize("toy", TOYS)
def test_stored_features_are_of_the_tokens_that_are_there(toy):
    model, images = backbone(toy), torch.randn(2, 3, SIDE, SIDE)
    reader = FieldReader(model, Wanted(cls=(-1,), mean=(-1, 0), patches=(0,), norms=(0,)), (SIDE, SIDE))
    found = reader(images, None)
    layout, final = model.layout((SIDE, SIDE)), model(images).values
    there = [index for index in layout.patch_index.tolist() if index >= 0]
    assert torch.allclose(found["mean/2"], final[:, there].mean(1), atol=1e-6)
    assert torch.equal(found["cls/2"], final[:, layout.cls[0]])
    assert found["patches/0"].shape == (2, 16, 48)
    if toy is DropsTokens:
        with pytest.raises(UserError, match=r"5 of the 16 patches .* have no token after block 2"):
            FieldReader(model, Wanted(patches=(-1,)), (SIDE, SIDE))


def classes_of_colours(root):
    rng = np.random.default_rng(0)
    for side, count in {"train": 12, "val": 6}.items():
        for number, name in enumerate("ab"):
            (root / side / name).mkdir(parents=True)
            for i in range(count):
                picture = rng.integers(60, 190, (SIDE, SIDE, 3))
                picture[..., number] += 50
                Image.fromarray(picture.astype(np.uint8)).save(root / side / name / f"{i}.png")
    return root


@pytest.mark.parametrize("toy", TOYS)
def test_neighbours_by_the_mean_patch(toy, tmp_path):
    run = bench(backbone(toy), classes_of_colours(tmp_path / "set"), tmp_path / "features")
    assert Knn(k=(3,), token="mean").run(run).metrics["knn3"] == 100


def test_controls_replace_tokens_between_registers_and_refuse_tokens_that_are_dropped(tmp_path):
    data = classes_of_colours(tmp_path / "set")
    found = Controls(replace=("random", "registers"), calibration=8).run(
        bench(backbone(RegistersBetween), data, tmp_path)
    )
    assert {row[0] for row in found.tables[0].rows} == {"none", "random", "registers"}
    with pytest.raises(UserError, match="needs the same tokens in all"):
        Controls(replace=("random",), calibration=8).run(bench(backbone(DropsTokens), data, tmp_path))


def test_doctor_says_where_the_patches_are():
    said = {toy: {each.subject: each.message for each in findings(backbone(toy))} for toy in TOYS}
    scattered = said[RegistersBetween]
    assert "0-3, 5-8, 11-14, 16-19: 16 patches" in scattered["token layout"]
    assert "no slice holds the patches" in scattered["slicing"]
    assert said[DropsTokens]["tokens by block"] == (
        "17 tokens enter block 0; 12 tokens after block 1, 11 of 16 patches among them."
    )
    assert "has no attention" in said[TokenMixer]["attention"]


@dataclass(frozen=True)
class Added:
    """One token before the patches."""

    def __call__(self, tokens, place):
        start = place.layout.first_patch
        return torch.cat([tokens[:, :start], tokens.mean(1, keepdim=True), tokens[:, start:]], 1)

    def layout(self, before):
        return before.with_registers(1)


@dataclass(frozen=True)
class Pruned:
    """Some tokens taken out."""

    tokens: tuple[int, ...]

    def __call__(self, tokens, place):
        return tokens[:, [index for index in range(place.layout.length) if index not in self.tokens]]

    def layout(self, before):
        return before.without(self.tokens)


def test_an_edited_model_that_gains_a_register_and_loses_patches_is_scanned_and_mapped(planted):
    folder, cells = planted
    edits = [vitreg.Edit("input", None, Added()), vitreg.Edit("block", 1, Pruned((2, 7)))]  # patches 0 and 5
    edited = backbone(ToyViT).edited(edits, "changed")
    found = vitreg.scan(edited, folder, examples=0)
    assert [len(layer.register_norms) for layer in found.layers] == [1, 1, 1]
    assert [sum(layer.histogram.counts) for layer in found.layers] == [16 * IMAGES, 14 * IMAGES, 14 * IMAGES]
    assert found.model.tokens == {"cls": 1, "registers": 1, "other": 0, "patches": 16}
    made = vitreg.maps(edited, folder, what=("norm", "registers"), layer="all", limit=4)
    for each in made.maps:
        gone = [bool(each.layer) and cell in (0, 5) for cell in range(16)]
        assert np.isnan(each.norm[0]).ravel().tolist() == gone
        assert "register 1" in each.attention
        for image, cell in enumerate(cells[:4]):
            assert gone[cell] or np.nanargmax(each.norm[image]) == cell
