"""Images of synthetic:retrieval made of photographs, and its other tasks, against loops over tiles and pixels."""

import hashlib
import statistics
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vitreg import UserError
from vitreg.data.sets.synthetic import patches
from vitreg.data.sets.synthetic.naming import named
from vitreg.data.sets.synthetic.parameters import RetrievalParameters
from vitreg.data.sets.synthetic.patches import album_of, components
from vitreg.data.sets.synthetic.retrieval import draw_tiles, least_error, picture_of, read_picture
from vitreg.data.sets.synthetic.tilings import Tilings

GIVEN = RetrievalParameters(grid=4, photos="scikit-image", flat=1, background=0.2, marked=0.3)
COLOURS = {0: (10, 20, 30), 3: (200, 40, 40), 7: (40, 200, 40), 255: (40, 40, 200)}


@pytest.fixture(scope="module", autouse=True)
def small_albums():
    """Components of fewer patches: seconds less."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "SAMPLE", 1024)
        patches._album.cache_clear()
        yield
    patches._album.cache_clear()


def replaced(**over):
    return replace(GIVEN, **over)


def patches_of(image, grid, side):
    """The 16 x 16 pixels of each tile, tile by tile."""
    pixels = np.asarray(image)
    return [
        pixels[row * side : row * side + 16, col * side : col * side + 16] for row in range(grid) for col in range(grid)
    ]


def means_by_hand(tiles, given):
    """What is asked of each tile for its tags, tile by tile."""
    asked = []
    for i, own in enumerate(tiles.codes):
        numbers = list(own)
        for j in range(given.tags):
            same = [
                k for k in range(len(tiles.codes)) if tiles.tags[k][j] == tiles.tags[i][j] and not tiles.background[k]
            ]
            numbers += [
                sum(float(tiles.codes[k][c]) for k in same) / len(same) if tiles.marked[i] else 0.0
                for c in range(given.code)
            ]
        asked.append(numbers)
    return asked


def test_drawn_images_are_what_they_were_before_there_were_photographs():
    for words, known in (
        ("", "8b59ca48bb1bd15f"),
        (",background=0.3,diversity=0.5,loss=1", "541b7bc87036cf02"),
    ):
        side = Tilings(named(f"synthetic:retrieval@3:9{words}"), "train")
        content = b"".join(side[i].image.tobytes() + side[i].numbers.tobytes() for i in range(3))
        assert hashlib.sha256(content).hexdigest()[:16] == known


def test_components_are_those_of_a_singular_value_decomposition():
    patches = np.random.default_rng(0).standard_normal((400, 12)).astype(np.float32) @ np.diag(np.arange(1, 13)).astype(
        "f"
    )
    mean, projection = components(patches, 5)
    _, s, v = np.linalg.svd(patches - patches.mean(0), full_matrices=False)
    by_svd = (patches - patches.mean(0)) @ v[:5].T / (s[:5] / 400**0.5)
    found = (patches - mean) @ projection
    np.testing.assert_allclose(np.abs(found), np.abs(by_svd), atol=2e-4)
    np.testing.assert_allclose(found.std(0), 1, atol=1e-3)


@pytest.mark.parametrize("shown", ["foreground", "none"])
def test_codes_and_flat_background_are_those_of_the_patches_that_the_picture_shows(shown):
    given = replaced(pixels=1, shown=shown)
    album = album_of(given)
    for number in range(6):
        tiles = draw_tiles(1, number, given)
        seen = patches_of(picture_of(tiles, given), 4, given.side)
        for patch, code in zip(seen, tiles.codes, strict=True):
            by_hand = (patch.reshape(-1) / 255 - album._mean) @ album._projection
            assert np.abs(code - np.clip(by_hand, -4, 127 / 32)).max() <= 1 / 64 + 1e-4
        spread = [np.mean([statistics.pstdev(patch[..., c].ravel().tolist()) for c in range(3)]) for patch in seen]
        flattest = sorted(range(16), key=lambda i: spread[i])[:3]  # 20 % of 16
        assert set(np.flatnonzero(tiles.background)) == set(flattest)
        np.testing.assert_allclose(tiles.asked, means_by_hand(tiles, given), atol=1e-5)
        assert not (tiles.marked & tiles.background).any()
        # Beside the pixels stand the tags and the mark, as they do beside codes.
        extras = read_picture(picture_of(tiles, given), given)
        assert (extras[:, -1] == tiles.marked).all()
        kinds = extras[:, :-1].reshape(16, -1, 6) if shown == "foreground" else np.zeros((16, 2, 6))
        assert (kinds.sum((1, 2)) == (0 if shown == "none" else 2 * ~tiles.background)).all()


def test_each_step_changes_only_what_it_names():
    one = draw_tiles(0, 5, replaced(flat=0))
    two = draw_tiles(0, 5, GIVEN)
    three = draw_tiles(0, 5, replaced(shown="all"))
    four = draw_tiles(0, 5, replaced(shown="none"))
    five = draw_tiles(0, 5, replaced(pixels=1))
    assert len(np.unique(one.codes[one.background], axis=0)) == 1
    both = ~one.background & ~two.background
    np.testing.assert_array_equal(one.codes[both], two.codes[both])
    np.testing.assert_array_equal(one.tags[both], two.tags[both])
    for other in (three, four, five):
        for name in ("codes", "tags", "background", "marked", "asked", "judged"):
            np.testing.assert_array_equal(getattr(two, name), getattr(other, name))
    assert (three.seen >= 0).all()
    assert (four.seen == -1).all()
    assert (two.seen == two.tags).all()
    assert (three.tags[two.background] == -1).all()  # it shows tags and shares them with nobody
    shown = read_picture(picture_of(four, replaced(shown="none")), replaced(shown="none"))
    assert shown.shape == (16, 17)
    np.testing.assert_array_equal(shown, np.concatenate([four.codes, four.marked[:, None]], 1))


def test_tags_by_content_are_the_nearest_centres_of_parts_of_the_code():
    given = replaced(tagged="content", tags=3, code=8)
    centres = album_of(given)._centres
    kinds = set()
    for number in range(5):
        tiles = draw_tiles(0, number, given)
        for code, tags, background in zip(tiles.codes, tiles.tags, tiles.background, strict=True):
            parts = (code[:3], code[3:6], code[6:])
            nearest = [
                min(range(6), key=lambda k, p=p, c=c: ((p - c[k]) ** 2).sum())
                for p, c in zip(parts, centres, strict=True)
            ]
            assert list(tags) == ([-1] * 3 if background else nearest)
            kinds.update(tags.tolist())
        np.testing.assert_allclose(tiles.asked, means_by_hand(tiles, given), atol=1e-5)
    assert kinds == {-1, 0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize("photos", ["", "scikit-image"])
def test_a_mark_by_content_is_the_highest_share_of_the_last_number(photos):
    given = RetrievalParameters(grid=4, photos=photos, mark="content", marked=0.2, background=0.1)
    many = [draw_tiles(0, number, given) for number in range(300)]
    marked = np.concatenate([tiles.marked[~tiles.background] for tiles in many])
    last = np.concatenate([tiles.codes[~tiles.background, -1] for tiles in many])
    assert abs(marked.mean() - 0.2) < 0.02
    assert last[marked].min() > last[~marked].max()
    assert read_picture(picture_of(many[0], given), given).shape == (16, 16 + 12)


@pytest.fixture
def voc(tmp_path):
    """Photographs whose colours say what their masks say, at a size at which nothing is resized."""
    draw = np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass"):
        (tmp_path / folder).mkdir()
    for number in range(6):
        blocks = draw.choice(list(COLOURS), (10, 10), p=(0.4, 0.3, 0.2, 0.1))
        classes = np.kron(blocks, np.ones((4, 4))).astype(np.uint8)
        pixels = np.zeros((40, 40, 3), np.uint8)
        for each, colour in COLOURS.items():
            pixels[classes == each] = colour
        Image.fromarray(pixels).save(tmp_path / "JPEGImages" / f"{number}.png")
        Image.fromarray(classes).save(tmp_path / "SegmentationClass" / f"{number}.png")
    return tmp_path


def test_segments_are_the_classes_of_most_pixels_largest_first(voc):
    given = RetrievalParameters(
        grid=2, code=2, tags=1, kinds=2, photos=str(voc), tagged="segments", pixels=1, background=0, marked=0.5
    )
    found = set()
    for number in range(30):
        tiles = draw_tiles(0, number, given)
        owners = []
        for patch in patches_of(picture_of(tiles, given), 2, given.side):
            counts = {each: int((patch == colour).all(-1).sum()) for each, colour in COLOURS.items() if each != 255}
            owners.append(max(counts, key=counts.get) if any(counts.values()) else None)
        order = sorted({each for each in owners if each is not None}, key=lambda each: (-owners.count(each), each))
        by_hand = [-1 if each is None else min(order.index(each), 1) for each in owners]
        assert tiles.tags[:, 0].tolist() == by_hand
        np.testing.assert_allclose(tiles.asked, means_by_hand(tiles, given), atol=1e-5)
        found.update(by_hand)
    assert found >= {0, 1}


def test_the_left_neighbour_is_asked_row_by_row():
    given = RetrievalParameters(grid=3, task="left", marked=0.6)
    for number in range(10):
        tiles = draw_tiles(0, number, given)
        asked = tiles.asked.reshape(3, 3, 2, 16)
        codes = tiles.codes.reshape(3, 3, 16)
        for row in range(3):
            for col in range(3):
                wanted = codes[row][col - 1] if tiles.marked[3 * row + col] else np.zeros(16)  # -1 is the last
                np.testing.assert_array_equal(asked[row, col, 0], codes[row, col])
                np.testing.assert_array_equal(asked[row, col, 1], wanted)
    assert least_error(given) == 1.0


def test_all_are_asked_what_the_marked_tile_holds():
    given = RetrievalParameters(grid=3, task="marked", marked=0.001)
    for number in range(10):
        tiles = draw_tiles(0, number, given)
        (place,) = np.flatnonzero(tiles.marked)
        assert not tiles.background[place]
        assert (tiles.asked[:, 16:] == tiles.codes[place]).all()
    assert least_error(given) is None


def test_an_image_is_asked_what_its_only_marked_tile_knows():
    given = RetrievalParameters(grid=4, answer="image", marked=0.3)
    side = Tilings(named(f"synthetic:retrieval@0:40{given.spelling}"), "train")
    for number in range(10):
        tiling = side[number]
        (place,) = np.flatnonzero(tiling.tiles.marked)
        by_hand = np.array(means_by_hand(tiling.tiles, given))
        assert tiling.numbers.shape == (1, 1, 48)
        np.testing.assert_allclose(tiling.numbers[0, 0], by_hand[place], atol=1e-5)
    assert (side[0].classes == 2).sum() == given.side**2


def test_the_same_seed_is_the_same_image_whatever_album_was_open_before(voc):
    text = "synthetic:retrieval@0:9,photos=scikit-image,grid=4,tagged=content,shown=none"
    before = Tilings(named(text), "train")[2].image.tobytes()
    for other in ("code=4", f"photos={voc},tags=1,tagged=segments"):
        Tilings(named(f"synthetic:retrieval,grid=2,photos=scikit-image,{other}"), "val")[0]
    patches._album.cache_clear()
    assert Tilings(named(text), "train")[2].image.tobytes() == before
    assert Tilings(named(text), "val")[2].image.tobytes() != before
    assert named(text).title == "synthetic:retrieval@0,grid=4,shown=none,photos=scikit-image,tagged=content"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flat=1", "flat=1 of synthetic:retrieval needs photographs; add photos=scikit-image, or photos=FOLDER"),
        ("pixels=1", "needs photographs"),
        ("tagged=content", "needs photographs"),
        (
            "tagged=contents,photos=scikit-image",
            "no choice of tagged 'contents' in synthetic:retrieval. Did you mean 'content'",
        ),
        ("shown=nobody", "no choice of shown 'nobody'"),
        ("photos=scikit-image,tagged=segments,tags=1", "the photographs of scikit-image have none"),
        ("photos=here,tagged=segments", "add tags=1, not 2"),
        ("photos=scikit-image,tagged=content,tags=3,code=2", "have no 3 parts"),
        ("photos=scikit-image,grid=40", "too fine for photographs; it goes to 32"),
        ("photos=scikit-image,diversity=1", "of drawn codes"),
    ],
)
def test_bad_parameters_of_photographs_are_one_sentence(text, said):
    with pytest.raises(UserError) as error:
        named(f"synthetic:retrieval,{text}")
    assert said in error.value.sentence


def test_folders_without_photographs_are_one_sentence(tmp_path, voc):
    def opened(words):
        return Tilings(named(f"synthetic:retrieval,{words}"), "train")

    with pytest.raises(UserError, match="there is no folder 'nowhere'"):
        opened("photos=nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no photographs"):
        opened(f"photos={tmp_path / 'empty'}")
    with pytest.raises(UserError, match="have no masks: tagged=segments needs JPEGImages and SegmentationClass"):
        opened(f"photos={voc / 'JPEGImages'},tagged=segments,tags=1")
    for path in (voc / "SegmentationClass").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="none of 6 photographs"):
        opened(f"photos={voc},tagged=segments,tags=1")[0]
