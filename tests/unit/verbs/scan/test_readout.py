"""From sums to records, on made-up norms: what the blocks made is found, what came in with the pixels is not."""

import numpy as np
import pytest

from vitreg.analysis.norms import encode
from vitreg.analysis.outliers import detector
from vitreg.analysis.tally import BatchStatistics, Tally
from vitreg.machine.runtime import Processes
from vitreg.tokens import TokenLayout
from vitreg.verbs.scan.readout import Readout
from vitreg.verbs.scan.verb import summary

pytestmark = pytest.mark.usefixtures("few_resamples")

LAYERS, GRID = 4, (8, 8)
LAYOUT = TokenLayout.prefixed(GRID, cls_tokens=1, registers=2)
PATCHES = LAYOUT.num_patches


def read(norms, entering, images):
    batch = BatchStatistics(
        indices=np.arange(images),
        names=tuple(map(str, range(images))),
        norms=norms.astype(np.float32),
        entering=entering.astype(np.float32),
        cosine=None,
        cls_attention=None,
        received=None,
    )
    with Tally(LAYERS, LAYOUT) as tally:
        tally.add(batch)
        readout = Readout(tally, tally.sums, Processes(), detector("mixture"), seed=0)
        return readout, readout.layers


@pytest.fixture
def tokens():
    """Ordinary norms [L, n, N], entering norms [n, N], and a scattered 3 % of the patches as a mask [n, N]."""
    rng = np.random.default_rng(0)
    images = 20
    marked = np.zeros((images, LAYOUT.length), bool)
    marked[:, LAYOUT.patches] = rng.random((images, PATCHES)) < 0.03
    return rng.lognormal(3, 0.12, (LAYERS, images, LAYOUT.length)), rng.lognormal(1, 0.12, marked.shape), marked


def test_outliers_made_by_the_blocks_are_found_in_exactly_their_layers(tokens):
    norms, entering, marked = tokens
    norms[1:3][:, marked] *= 8
    readout, layers = read(norms, entering, 20)
    assert readout.verdict.kind == "high-norm"
    assert [layer.threshold is not None for layer in layers] == [False, True, True, False]
    assert (readout.verdict.first_layer, layers[1].gates["made_by_blocks"]) == (1, True)
    assert layers[1].gates["entering_ratio"] == pytest.approx(1, abs=0.1)
    assert "no longer stand out" in readout.verdict.reason
    assert readout.verdict.sentence.endswith("At its output the same patches no longer stand out.")
    assert [layer.followed.ratio for layer in layers] == pytest.approx([1, 8, 8, 1], rel=0.1)
    assert [layer.followed.auc for layer in layers] == pytest.approx([0.5, 1, 1, 0.5], abs=0.1)
    assert layers[2].followed.ratio == pytest.approx(layers[2].ratio, rel=0.02)


@pytest.mark.parametrize(("factor", "words"), [(8, "1.7 times"), (1 / 8, "0.6 times")])
def test_outliers_that_fade_into_the_tail_are_not_called_gone(tokens, factor, words):
    norms, entering, marked = tokens
    norms[1:3][:, marked] *= factor
    norms[3][marked] *= factor**0.25
    readout, layers = read(norms, entering, 20)
    assert layers[3].threshold is None
    assert layers[3].followed.ratio == pytest.approx(8**0.25, rel=0.05)
    assert layers[3].followed.auc > 0.97
    assert (
        f"the same patches have {words} the norm of the others and form no separate group" in readout.verdict.sentence
    )
    assert any("output is affected too" in line for line in readout.verdict.advice)


@pytest.mark.parametrize("factor", [8.0, 1 / 8])
def test_tokens_just_short_of_the_threshold_are_near_it_and_never_outliers(tokens, factor):
    norms, entering, marked = tokens
    norms[2][marked] *= factor
    readout, layers = read(norms, entering, 20)
    cut, up = layers[2].threshold, factor > 1
    around = np.array([cut / 1.3, cut / 1.2, cut * 1.1] if up else [cut * 1.3, cut * 1.2, cut / 1.1])
    assert readout.near(encode(around), 2).tolist() == [False, True, False]
    assert readout.outliers(encode(around), 2).tolist() == [False, False, True]


def test_without_outliers_near_is_measured_from_twice_the_median(tokens):
    readout, layers = read(*tokens[:2], 20)
    assert readout.near(encode(layers[2].median * np.array([1.5, 1.7, 2.5])), 2).tolist() == [False, True, True]


def test_patches_are_also_held_against_the_median_of_their_own_image(tokens):
    norms, entering, _ = tokens
    first = LAYOUT.patches.start
    norms = norms * np.where(np.arange(20) < 10, 1, 5)[None, :, None]  # half of the images lie five times higher
    norms[:, 3, first : first + 3] *= 4  # below the higher images' norms, and far above those of its own image
    readout, _ = read(norms, entering, 20)
    own = readout.own_median
    assert own.per_image.counts[0] == 19
    assert own.images_with == pytest.approx(1 / 20)
    assert (own.per_image.counts[3], own.share) == (1, pytest.approx(3 / 20 / PATCHES))


def test_the_reason_for_none_says_what_these_images_could_have_shown(tokens):
    readout, _ = read(*tokens[:2], 20)
    assert [each.ratio for each in readout.verdict.power.detectable] == [2.25, 3.5, 6.0]
    assert (
        "20 images like these would show a group of this size in at least 80 % of the cases: " in readout.verdict.reason
    )
    assert "no patch has at least 2 times the median norm of its own image" in readout.verdict.reason


def test_no_outliers_are_followed_where_none_are_found(tokens):
    _, layers = read(*tokens[:2], 20)
    assert all(layer.followed is None for layer in layers)


def test_outliers_that_enter_with_their_norm_are_the_pixels_doing(tokens):
    norms, entering, marked = tokens
    norms[:, marked] *= 3
    entering[marked] *= 4
    readout, layers = read(norms, entering, 20)
    assert readout.verdict.kind == "none"
    assert "pixels" in readout.verdict.reason
    assert readout.verdict.confidence == 1.0
    assert all(layer.threshold is None for layer in layers)


def test_the_same_at_fixed_places_is_the_position_table(tokens):
    norms, entering, _ = tokens
    norms[:, :, [10, 40]] *= 6
    entering[:, [10, 40]] *= 6
    readout, _ = read(norms, entering, 20)
    assert readout.verdict.kind == "position-locked"
    assert readout.verdict.first_layer == 0


def test_a_modest_head_start_does_not_excuse_the_blocks(tokens):
    norms, entering, marked = tokens
    norms[2:, marked] *= 6
    entering[marked] *= 1.8
    assert read(norms, entering, 20)[0].verdict.kind == "high-norm"


def test_registers_and_cls_are_never_counted_as_patches(tokens):
    norms, entering, _ = tokens
    norms[:, :, [0, 1, 2]] *= 50
    readout, layers = read(norms, entering, 20)
    assert readout.verdict.kind == "none"
    assert layers[0].max < 100
    assert layers[0].register_norms[0] > 500
    assert layers[0].cls_norm > 500


def test_with_fewer_than_four_images_all_must_show_them(tokens):
    norms, entering, marked = tokens
    norms, entering, marked = norms[:, :3], entering[:3], marked[:3].copy()
    marked[2] = False
    norms[1:, marked] *= 8
    readout, _ = read(norms, entering, 3)
    assert readout.verdict.kind == "none"
    assert readout.verdict.confidence is None
    assert readout.verdict.undecided
    assert "with fewer than 4 images, all must show it" in readout.verdict.reason


def test_the_terminal_says_the_strength_and_agreement_or_that_nothing_is_established(tokens):
    norms, entering, marked = tokens
    assert "\nVerdict: none. " in summary(read(norms, entering, 20)[0].verdict)
    norms[1:3][:, marked] *= 8
    found = read(norms, entering, 20)[0].verdict
    assert "\nVerdict: high-norm (strong, 100 % of resamples agree). " in summary(found)
    assert "\nVerdict: not established. " in summary(found.model_copy(update={"kind": "none", "undecided": True}))
