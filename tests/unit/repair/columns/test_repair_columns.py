"""Every column against a naive loop, a library, or a value that is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import binomtest
from sklearn.neighbors import NearestNeighbors

from vitreg.backbones import Backbone
from vitreg.backbones.edits import Edit
from vitreg.data.boxes.truth import BoxSet, ImageBoxes
from vitreg.data.views.transforms import IMAGENET
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer
from vitreg.passes.view import view_of
from vitreg.repair.columns.answers.heads import mcnemar
from vitreg.repair.columns.attention import share_on
from vitreg.repair.columns.boxes import truth_on
from vitreg.repair.columns.column import cosine_distance
from vitreg.repair.columns.cost import tokens_added
from vitreg.repair.columns.data import labels_of, read_labels
from vitreg.repair.columns.int8 import in_int8, linears, rounded, weights_rounded
from vitreg.repair.columns.outliers import cosines, medians
from vitreg.repair.columns.positions import permutation_null, symmetries
from vitreg.repair.columns.smoothing import effective_rank, mean_cosine
from vitreg.repair.columns.summary import shared_neighbours
from vitreg.repair.logits import classifies, logits_of
from vitreg.repair.table.controls import AsGiven
from vitreg.repair.table.measure import COLUMNS, column_records


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tiny(**more: int) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(32, 8, 24, 3, 3, **more).eval()


def test_the_distance_is_one_minus_the_cosine_and_exactly_zero_for_equal_vectors() -> None:
    one, other = draw(5, 7), draw(5, 7, seed=1)
    torch.testing.assert_close(cosine_distance(one, other), 1 - F.cosine_similarity(one, other, dim=-1))
    assert torch.equal(cosine_distance(one.float(), one.float()), torch.zeros(5))
    assert cosine_distance(one, 1e-9 * one).max() < 1e-15


def test_the_ratio_is_of_two_medians_and_leaves_out_patches_that_are_gone() -> None:
    norms = torch.tensor([[1.0, 2.0, 3.0, 50.0, math.nan], [1.0, 1.0, 1.0, 1.0, 1.0]])
    were = torch.tensor([[False, False, False, True, True], [False] * 5])
    found = medians(norms, were)
    assert found[0] == 25
    assert found[1].isnan()


def test_attention_on_some_patches_is_a_sum_over_them_and_a_mean_over_heads_and_queries() -> None:
    rows = draw(2, 3, 4, 6).softmax(-1)
    sinks = torch.tensor([[True, False, False, True, False, False], [False] * 6])
    wanted = sum(rows[0, h, q, 0] + rows[0, h, q, 3] for h in range(3) for q in range(4)) / 12
    torch.testing.assert_close(
        share_on(rows, sinks), torch.stack([torch.as_tensor(wanted), torch.zeros((), dtype=torch.float64)])
    )


def test_shared_neighbours_are_those_of_scikit_learn() -> None:
    one, k = draw(40, 8), 5
    other = one + 0.3 * draw(40, 8, seed=1)
    near = [
        NearestNeighbors(n_neighbors=k + 1, metric="cosine").fit(x).kneighbors(x, return_distance=False)[:, 1:]
        for x in (one.numpy(), other.numpy())
    ]
    wanted = [len({*a} & {*b}) / k for a, b in zip(*near, strict=True)]
    assert shared_neighbours(one, other, k).tolist() == pytest.approx(wanted)
    assert shared_neighbours(one, one, k).tolist() == [1.0] * 40
    assert 0 < np.mean(wanted) < 1


def test_the_closed_form_is_the_mean_over_all_pairs() -> None:
    patches = draw(2, 6, 4)
    pairs = list(itertools.combinations(range(6), 2))
    for image, found in zip(patches, mean_cosine(patches), strict=True):
        assert float(found) == pytest.approx(
            np.mean([float(F.cosine_similarity(image[i], image[j], dim=0)) for i, j in pairs])
        )


def test_effective_rank_of_known_singular_values() -> None:
    alike = torch.ones(1, 8, 1) * draw(1, 1, 5)
    assert float(effective_rank(alike + 1e-14)) == pytest.approx(1, abs=1e-6)
    axes = torch.cat([torch.eye(4), -torch.eye(4)])[None].double()  # centred, four equal singular values
    assert float(effective_rank(axes)) == pytest.approx(4)
    image = draw(1, 9, 5)
    sigma = np.linalg.svd((image[0] - image[0].mean(0)).numpy(), compute_uv=False)
    share = sigma / sigma.sum()
    assert float(effective_rank(image)) == pytest.approx(np.exp(-(share * np.log(share)).sum()))


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (3, 3), (1, 9), (0, 7), (12, 2)])
def test_mcnemar_is_the_exact_test(lost: int, won: int) -> None:
    both = lost + won
    if both:
        assert mcnemar(lost, won) == pytest.approx(binomtest(lost, both, 0.5).pvalue)
        tail = sum(math.comb(both, k) for k in range(min(lost, won) + 1)) / 2**both
        assert mcnemar(lost, won) == pytest.approx(min(1.0, 2 * tail))
    else:
        assert mcnemar(0, 0) == 1


def test_eight_bits_are_the_naive_rounding() -> None:
    values = draw(4, 6)
    step = float(values.abs().max()) / 127
    wanted = [[max(-127, min(127, round(v / step))) * step for v in row] for row in values.tolist()]
    torch.testing.assert_close(
        rounded(values, values.abs().max()), torch.tensor(wanted, dtype=torch.float64), atol=1e-6, rtol=1e-5
    )
    rows = weights_rounded(values.float())
    assert all(
        len((row / (full.abs().max() / 127)).round().unique()) <= 255 for row, full in zip(rows, values, strict=True)
    )
    assert (rows - values.float()).abs().max() <= values.abs().max() / 254 + 1e-6


def test_a_model_in_eight_bits_is_near_and_afterwards_as_before() -> None:
    backbone, images = Backbone(tiny()), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = backbone(images).values
    state = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    with in_int8(backbone, [images]):
        inside = backbone(images).values
    assert 0 < (inside - before).abs().max() < 0.2
    with pytest.raises(RuntimeError, match="stop"), in_int8(backbone, [images]):
        raise RuntimeError("stop")
    assert torch.equal(backbone(images).values, before)
    assert all(torch.equal(value, state[name]) for name, value in backbone.module.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in linears(backbone))
    assert len(linears(backbone)) == 3 * 4


def test_an_activation_that_stands_out_costs_the_others_their_bits() -> None:
    """Why INT8 is in the table: one range for all tokens."""
    values = draw(100)
    error = (rounded(values, values.abs().max()) - values).abs().mean()
    assert (rounded(values, 100 * values.abs().max()) - values).abs().mean() > 30 * error


@pytest.mark.parametrize("shape", [(3, 3), (2, 4)])
def test_the_permutation_null_is_every_roll_of_every_symmetry(shape: tuple[int, int]) -> None:
    before, after = np.random.default_rng(0).integers(0, 9, (2, *shape)).astype(float)
    turned = [after, after[::-1], after[:, ::-1], after[::-1, ::-1]]
    turned += [each.T for each in turned] if shape[0] == shape[1] else []
    assert {each.tobytes() for each in turned} == {np.ascontiguousarray(each).tobytes() for each in symmetries(after)}
    every = [
        np.corrcoef(before.ravel(), np.roll(each, (r, c), (0, 1)).ravel())[0, 1]
        for each in turned for r in range(shape[0]) for c in range(shape[1])
    ]  # fmt: skip
    observed = np.corrcoef(before.ravel(), after.ravel())[0, 1]
    found, share = permutation_null(before, after)
    assert found == pytest.approx(observed)
    assert share == pytest.approx(np.mean([each >= observed - 1e-9 for each in every]))


def test_the_same_places_are_rarer_than_chance_and_no_outlier_has_no_place() -> None:
    counts = np.random.default_rng(0).random((7, 7))
    assert permutation_null(counts, counts)[1] == pytest.approx(1 / (49 * 8))
    assert math.isnan(permutation_null(counts, np.zeros((7, 7)))[0])


def test_logits_are_those_of_a_classifier_only() -> None:
    images = torch.randn(2, 3, 32, 32)
    assert not classifies(Backbone(tiny()), images[:1])
    module = tiny(num_classes=5)
    torch.nn.init.normal_(module.head.weight)
    module.train()
    assert classifies(Backbone(module), images[:1])
    found = logits_of(Backbone(module), images)
    assert module.training
    assert found is not None
    assert torch.equal(found, module.eval()(images))


def test_labels_are_found_by_file_stem_folder_and_prefix(tmp_path) -> None:
    file = tmp_path / "labels.json"
    file.write_text('{"n01": 3, "b": 4, "cat": 5, "d.jpg": 6}')
    labels = read_labels(file)
    assert labels_of(["x/n01_tench.jpg", "x/b.png", "cat/1.jpg", "d.jpg", "e.jpg"], labels).tolist() == [3, 4, 5, 6, -1]
    with pytest.raises(UserError, match="none of the images has a label"):
        labels_of(["e.jpg"], labels)
    file.write_text('{"a": "b"}')
    with pytest.raises(UserError, match="holds no labels"):
        read_labels(file)


def test_boxes_lie_where_the_model_sees_the_object() -> None:
    """A wide picture is resized to a height of 32 and cropped; the box of its left half is cut by the crop."""
    backbone = Backbone(tiny(), preprocess=IMAGENET.with_size((32, 32)))
    ratio = backbone.prepared().resize / 32
    view = view_of(backbone)
    size = (100, 200)
    boxes = BoxSet("b", "c", [ImageBoxes("a.jpg", size, np.array([[0.0, 0.0, 100.0, 100.0]]), ("x",))])
    found = truth_on(view, ["a.jpg", "other.jpg"], boxes)
    assert len(found.boxes[1]) == 0
    (box,) = found.boxes[0].tolist()
    assert box == pytest.approx([0, 0, 16, 32], abs=1)
    assert found.inside[0].view(4, 4).tolist() == [[True, True, False, False]] * 4
    assert ratio > 1
    with pytest.raises(UserError, match="no boxes for these images"):
        truth_on(view, ["other.jpg"], boxes)


def test_a_box_follows_a_coloured_rectangle_through_resizing_and_cropping() -> None:
    backbone = Backbone(tiny(), preprocess=IMAGENET.with_size((32, 32)))
    view, size, true = view_of(backbone), (90, 70), (21, 33, 49, 66)
    picture = Image.new("RGB", (size[1], size[0]), "black")
    picture.paste("white", true)
    seen = view.shown(view.fit(view.pictures(picture)[None]))[0][..., 0] > 150
    down, across = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    boxes = BoxSet("b", "c", [ImageBoxes("a.jpg", size, np.array([true], dtype=float), ("x",))])
    (box,) = truth_on(view, ["a.jpg"], boxes).boxes[0].tolist()
    assert box == pytest.approx([across[0], down[0], across[-1] + 1, down[-1] + 1], abs=1)


def test_added_tokens_are_counted() -> None:
    assert tokens_added(Backbone(tiny()), Backbone(tiny(registers=3)), (32, 32)) == 3


def test_every_column_is_measured_in_one_way_and_says_how() -> None:
    names = [column.name for column in column_records()]
    assert len(names) == len(set(names))
    for column in COLUMNS:
        assert sum(each is not None for each in (column.measure, column.compare, column.run, column.whole)) == 1
    assert all(column.meaning.endswith(".") for column in column_records())


def test_a_patch_that_is_gone_is_not_restored() -> None:
    wanted = draw(1, 4, 6)
    patches = wanted.clone()
    patches[0, 1] = math.nan
    patches[0, 2] *= -3
    above, below = cosines(patches, wanted, torch.tensor([[True, True, True, False]]))
    assert float(above) == pytest.approx(1 + 0 - 1)
    assert float(below) == 3


def test_the_classifier_of_an_edited_model_runs_in_eight_bits_too() -> None:
    """Its module is a copy, whose layers need the hooks as well."""
    module = tiny(num_classes=5)
    torch.nn.init.normal_(module.head.weight)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = Backbone(module)
    edited = plain.edited([Edit("block", 0, AsGiven())], "nothing")
    hooks = [len(layer._forward_pre_hooks) for layer in edited.module.modules()]  # those of the edits
    with in_int8(plain, [images]):
        wanted = logits_of(plain, images)
    with in_int8(edited, [images]):
        found = logits_of(edited, images)
    exact = logits_of(edited, images)
    assert wanted is not None
    assert found is not None
    assert exact is not None
    assert torch.equal(found, wanted)
    assert not torch.equal(exact, wanted)
    assert [len(layer._forward_pre_hooks) for layer in edited.module.modules()] == hooks
