"""Images of synthetic:retrieval against a naive loop, what a picture keeps of them, and how the set is named."""

import numpy as np
import pytest

import vitreg
from vitreg import UserError
from vitreg.data.sets.pairs import open_depths, open_mapped, open_masks
from vitreg.data.sets.settings import DataConfig
from vitreg.data.sets.synthetic.naming import named
from vitreg.data.sets.synthetic.parameters import RetrievalParameters
from vitreg.data.sets.synthetic.retrieval import draw_tiles, least_error, picture_of, read_picture
from vitreg.data.sets.synthetic.tilings import Tilings
from vitreg.data.sources.images import ImageSource

PARAMETERS = (
    RetrievalParameters(),
    RetrievalParameters(grid=5, code=4, tags=3, kinds=2, marked=0.5, background=0.3, diversity=1.0, loss=1),
    RetrievalParameters(background=0.0, marked=1.0),
)


def asked_by_hand(codes, tags, background, marked, given):
    """What is asked of each tile, tile by tile."""
    asked = []
    for i in range(len(codes)):
        numbers = list(codes[i])
        for j in range(given.tags):
            sharers = [k for k in range(len(codes)) if not background[k] and tags[k][j] == tags[i][j]]
            mean = [sum(codes[k][c] for k in sharers) / len(sharers) if marked[i] else 0.0 for c in range(given.code)]
            numbers += mean
        asked.append(numbers)
    return asked


@pytest.mark.parametrize("given", PARAMETERS, ids=str)
def test_what_is_asked_is_what_the_picture_shows_asked_tile_by_tile(given):
    for number in range(20):
        tiles = draw_tiles(3, number, given)
        shown = read_picture(picture_of(tiles, given), given)
        codes, kinds, mark = np.split(shown, [given.code, given.features - 1], axis=1)
        marked = mark[:, 0] == 1
        kinds = kinds.reshape(len(codes), given.tags, given.kinds)
        background = kinds.sum((1, 2)) == 0
        assert ((kinds == 0) | (kinds == 1)).all()
        assert ((kinds.sum(2) == 1) | background[:, None]).all()
        tags = kinds.argmax(2)
        by_hand = asked_by_hand(codes.tolist(), tags.tolist(), background, marked, given)
        np.testing.assert_allclose(tiles.asked, by_hand, atol=1e-6)
        assert (tiles.background == background).all()
        assert (tiles.marked == marked).all()
        assert not (marked & background).any()
        assert (tiles.judged == (np.ones_like(background) if given.loss else ~background)).all()


def test_shares_and_codes_are_as_their_parameters_say():
    given = RetrievalParameters(background=0.2, marked=0.3, kinds=3)
    many = [draw_tiles(0, number, given) for number in range(400)]
    count = len(many) * 64
    background = np.concatenate([each.background for each in many])
    marked = np.concatenate([each.marked for each in many])
    assert abs(background.mean() - 0.2) < 5 * (0.16 / count) ** 0.5
    assert abs(marked[~background].mean() - 0.3) < 5 * (0.21 / count / 0.8) ** 0.5
    codes = np.concatenate([each.codes[~each.background] for each in many])
    assert abs(codes.mean()) < 0.02
    assert abs(codes.std() - 1) < 0.02
    assert np.abs(np.corrcoef(codes.T) - np.eye(16)).max() < 0.05
    tags = np.concatenate([each.tags[~each.background] for each in many])
    assert np.abs(np.bincount(tags[:, 0] * 3 + tags[:, 1]) / len(tags) - 1 / 9).max() < 0.01


@pytest.mark.parametrize(("diversity", "alike"), [(0.0, 1.0), (0.6, 0.64), (1.0, 0.0)])
def test_background_codes_share_what_diversity_leaves(diversity, alike):
    given = RetrievalParameters(background=0.5, diversity=diversity)
    pairs = np.concatenate(
        [draw_tiles(0, i, given).codes[draw_tiles(0, i, given).background][:2].T for i in range(300)]
    )
    assert abs(np.corrcoef(pairs.T)[0, 1] - alike) < 0.06


def test_one_tile_at_least_is_background_unless_none_is_wanted():
    few = RetrievalParameters(background=0.001)
    assert {int(draw_tiles(0, i, few).background.sum()) for i in range(50)} >= {1}
    assert min(int(draw_tiles(0, i, few).background.sum()) for i in range(50)) == 1
    assert not any(draw_tiles(0, i, RetrievalParameters(background=0.0)).background.any() for i in range(50))


def test_eight_bits_keep_every_code_to_a_64th():
    given = RetrievalParameters()
    tiles = draw_tiles(7, 5, given)
    raw = np.random.Generator(np.random.PCG64([7, 5, 2])).standard_normal((64, 16), np.float32)
    kept = ~tiles.background
    assert np.abs(tiles.codes - np.clip(raw, -4, 127 / 32))[kept].max() <= 1 / 64
    np.testing.assert_array_equal(read_picture(picture_of(tiles, given), given)[:, :16], tiles.codes)


def test_an_image_depends_on_seed_and_number_alone():
    few, many = named("synthetic:retrieval@4:3"), named("synthetic:retrieval@4:300")
    for side in ("train", "val"):
        one, two = Tilings(few, side), Tilings(many, side)
        assert one[0].image.tobytes() == two[0].image.tobytes()
    pictures = {Tilings(many, side)[i].image.tobytes() for side in ("train", "val") for i in range(75)}
    assert len(pictures) == 150
    assert Tilings(named("synthetic:retrieval@5:3"), "train")[0].image.tobytes() not in pictures


@pytest.mark.parametrize("given", [*PARAMETERS, RetrievalParameters(kinds=1, background=0.0, grid=3)], ids=str)
def test_the_least_error_without_looking_is_that_of_the_best_guess(given):
    """Simulated: the best multiple of a marked tile's own code, fitted to many tiles."""
    own, wanted = [], []
    for number in range(1500):
        tiles = draw_tiles(1, number, given)
        asked = tiles.asked.reshape(-1, 1 + given.tags, given.code)[tiles.marked]
        own.append(np.repeat(asked[:, :1], given.tags, 1).ravel())
        wanted.append(asked[:, 1:].ravel())
    own, wanted = np.concatenate(own), np.concatenate(wanted)
    fitted = (own @ wanted) / (own @ own)
    error = ((wanted - fitted * own) ** 2).mean()
    assert error == pytest.approx(least_error(given), rel=0.03)


def test_names_and_parameters():
    found = named("synthetic:retrieval@3:70,background=0.24,diversity=1,loss=1")
    assert (found.name, found.seed, found.count) == ("retrieval", 3, 70)
    assert found.parameters == RetrievalParameters(background=0.24, diversity=1.0, loss=1)
    assert found.title == "synthetic:retrieval@3,background=0.24,diversity=1,loss=1"
    assert named("synthetic:retrieval").title == "synthetic:retrieval@0"
    assert named("synthetic:retrieval,grid=4").parameters.grid == 4
    assert (RetrievalParameters().side, RetrievalParameters().channels) == (4, 48)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("background=1", "leaves others"),
        ("background=1.2", "leaves others"),
        ("marked=70", "more tiles than there are"),
        ("backgroud=0.1", "Did you mean 'background'?"),
        ("grid=2.5", "a whole number"),
        ("grid=1", "from 2 to 64"),
        ("marked=many", "a number, not 'many'"),
        ("diversity=2", "from 0 to 1"),
        ("diversity=nan", "finite"),
    ],
)
def test_bad_parameters_are_one_sentence(text, said):
    with pytest.raises(UserError) as error:
        named(f"synthetic:retrieval,{text}")
    assert said in str(error.value)


def test_scenes_have_no_parameters():
    with pytest.raises(UserError, match="has no parameters but canvas"):
        named("synthetic:scenes,background=0.1")


def test_it_is_images_and_data():
    source = ImageSource(["synthetic:retrieval@2:5"])
    assert len(source) == 5
    train, val = open_mapped(DataConfig(root="synthetic:retrieval@2:8", limit_val=1), "numbers")
    assert (len(train), len(val)) == (8, 1)
    example = train.read(3)
    assert example.image.size == (32, 32)
    assert example.target.shape == (8, 8, 48)
    nothing = np.isnan(example.target)
    assert (nothing.all(2) == nothing.any(2)).all()
    assert nothing.any()
    masks = open_masks("synthetic:retrieval@2:8")
    assert masks.names == ("background", "tile", "marked tile")
    assert ((masks.train.map(3) == 0)[::4, ::4] == nothing.all(2)).all()
    with pytest.raises(UserError, match="no distances"):
        open_depths("synthetic:retrieval@2:8")
    with pytest.raises(UserError, match="no numbers for patches"):
        open_mapped(DataConfig(root="synthetic:scenes"), "numbers")


@pytest.mark.usefixtures("undrawn")
def test_scan_reads_it(tmp_path):
    result = vitreg.scan("planted:high-norm", ["synthetic:retrieval@0:4"], out=tmp_path, detector="mad")
    assert result.images.seen == 4
