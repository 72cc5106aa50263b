import zlib

import numpy as np
import pytest
from PIL import Image

from vitreg.data.sets.pairs import open_depths, open_masks
from vitreg.data.sources.decode import Unreadable
from vitreg.errors import UserError


def put(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(np.asarray(values)).save(path)


def picture(height=6, width=9):
    return np.full((height, width, 3), 100, np.uint8)


def mask(*labels, height=6, width=9):
    out = np.zeros((height, width), np.uint8)
    out.flat[: len(labels)] = labels
    return out


@pytest.fixture
def masks(tmp_path):
    for side, names in (("train", "abc"), ("val", "de")):
        for name in names:
            put(tmp_path / side / "images" / f"{name}.jpg", picture())
            put(tmp_path / side / "masks" / f"{name}.png", mask(0, 1, 2, 255))
    return tmp_path


@pytest.fixture
def depths(tmp_path):
    for side in ("train", "test"):
        for name in "ab":
            put(tmp_path / side / "image" / f"{name}.jpg", picture())
            put(tmp_path / side / "depth" / f"{name}.png", np.full((6, 9), 2500, np.uint16))
    return tmp_path


def test_a_plain_folder_pairs_by_name_and_counts_its_classes(masks):
    sides = open_masks(str(masks))
    assert (len(sides.train), len(sides.test)) == (3, 2)
    assert sides.train.classes == ("0", "1", "2") == sides.test.classes
    assert sides.train.map(0).tolist()[0][:5] == [0, 1, 2, 255, 0]
    assert sides.train.read(0).image.size == (9, 6)
    assert sides.train.name(0).endswith("a.jpg")
    assert len(open_masks(str(masks), limit=2).train) == 2
    assert len(open_masks(str(masks), classes=7).test.classes) == 7
    with pytest.raises(UserError, match="classes must be at least 1, not -1"):
        open_masks(str(masks), classes=-1)


def test_images_without_a_partner_are_left_out_and_named(masks):
    (masks / "train" / "masks" / "b.png").unlink()
    put(masks / "train" / "masks" / "z.png", mask())
    train = open_masks(str(masks)).train
    assert len(train) == 2
    assert "1 images have no map and are left out" in train.notes[0]
    assert "'b'" in train.notes[0]
    assert "'z'" in train.notes[1]


def test_voc_is_read_by_its_lists_with_palette_masks(tmp_path):
    for name, side in (("2007_1", "train"), ("2007_2", "train"), ("2007_3", "val")):
        put(tmp_path / "JPEGImages" / f"{name}.jpg", picture())
        image = Image.fromarray(mask(20, 255)).convert("P")
        image.putdata(list(mask(20, 255).flat))
        (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
        image.save(tmp_path / "SegmentationClass" / f"{name}.png")
        lists = tmp_path / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        with open(lists / f"{side}.txt", "a") as file:
            file.write(f"{name}\n")
    sides = open_masks(f"voc2012:{tmp_path}")
    assert (len(sides.train), len(sides.test)) == (2, 1)
    assert sides.train.classes[20] == "tvmonitor"
    assert sides.test.map(0)[0, :3].tolist() == [20, 255, 0]
    (tmp_path / "SegmentationClass" / "2007_2.png").unlink()
    with pytest.raises(UserError, match=r"1 of 2 maps that .*train.txt' names are missing: .*2007_2.png"):
        open_masks(f"voc:{tmp_path}")


def test_ade20k_counts_from_one_and_zero_is_no_class(tmp_path):
    for folder, names in (("training", "ab"), ("validation", "c")):
        for name in names:
            put(tmp_path / "images" / folder / f"{name}.jpg", picture())
            put(tmp_path / "annotations" / folder / f"{name}.png", mask(0, 1, 150))
    sides = open_masks(f"ade20k:{tmp_path}")
    assert sides.train.names == tuple(map(str, range(150)))
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName", *(f"{n}\t0.1\t2\t3\t1\tthing{n}, object" for n in range(1, 151))]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(rows))
    assert open_masks(f"ade20k:{tmp_path}").test.names[149] == "thing150"
    assert sides.train.map(0)[0, :4].tolist() == [255, 0, 149, 255]
    put(tmp_path / "annotations" / "training" / "b.png", mask(151))
    with pytest.raises(UserError, match=r"has the label 151 where classes are 1\.\.150 and 255 marks no class"):
        open_masks(f"ade20k:{tmp_path}").train.map(1)


def test_masks_that_cannot_be_right_are_refused_in_a_sentence(masks):
    put(masks / "val" / "masks" / "d.png", mask(9))
    put(masks / "val" / "masks" / "e.png", mask(height=9, width=6))
    test = open_masks(str(masks)).test
    with pytest.raises(UserError, match=r"label 9 where classes are 0\.\.2 and 255 marks no class"):
        test.map(0)
    with pytest.raises(UserError, match=r"9x6 pixels \(height x width\) and its image 6x9"):
        test.map(1)
    put(masks / "val" / "masks" / "d.png", picture())
    with pytest.raises(UserError, match="has 3 channels"):
        test.map(0)
    (masks / "val" / "masks" / "e.png").write_bytes((masks / "val" / "masks" / "d.png").read_bytes()[:50])
    with pytest.raises(Unreadable, match="truncated file"):
        test.map(1)


def test_a_picture_lying_on_its_side_is_compared_upright(masks):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(9, 6)).save(masks / "val" / "images" / "d.jpg", exif=exif)
    test = open_masks(str(masks)).test
    assert test.map(0).shape == (6, 9)
    assert test.read(0).image.size == (9, 6)


def test_a_set_of_one_image_or_without_pairs_or_sides_is_refused(masks):
    with pytest.raises(UserError, match="only one image to learn from"):
        open_masks(str(masks), limit=1)
    with pytest.raises(UserError, match=r"no folder 'labels9'"):
        open_masks(str(masks), masks="labels9")
    for path in (masks / "train" / "masks").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(UserError, match=r"none of 3 images .* has the name of one of 3 maps"):
        open_masks(str(masks))
    with pytest.raises(UserError, match=r"no train/ in"):
        open_masks(str(masks / "val"))
    for wrong in ("nyud:" + str(masks), "voc:", str(masks / "nowhere"), "voc:" + str(masks)):
        with pytest.raises(UserError):
            open_masks(wrong)


def test_masks_without_any_class_are_refused(masks):
    for path in (masks / "train" / "masks").iterdir():
        put(path, np.full((6, 9), 255, np.uint8))
    with pytest.raises(UserError, match="no pixel of the 3 training masks"):
        open_masks(str(masks))


def test_sixteen_bit_depth_is_millimetres_and_eight_bit_must_be_told(depths):
    assert open_depths(str(depths)).train.map(0) == pytest.approx(2.5)
    put(depths / "train" / "depth" / "a.png", np.full((6, 9), 51, np.uint8))
    with pytest.raises(UserError, match=r"8-bit depths .* pass depth_scale"):
        open_depths(str(depths)).train.map(0)
    assert open_depths(str(depths), scale=10 / 255).train.map(0) == pytest.approx(2.0)
    with pytest.raises(UserError, match="depth_scale -1 is no length"):
        open_depths(str(depths), scale=-1)


def test_depth_that_is_no_distance_is_unknown(depths):
    (depths / "train" / "depth" / "a.png").unlink()
    values = np.full((6, 9), 3.0, np.float32)
    values[0, :4] = [0, np.nan, -1, np.inf]
    put(depths / "train" / "depth" / "a.npy", values)
    found = open_depths(str(depths)).train.map(0)
    assert found[0].tolist() == [0, 0, 0, 0, 3, 3, 3, 3, 3]
    assert np.isfinite(found).all()
    train = open_depths(str(depths)).train
    assert train.empty(np.zeros((2, 3))) == "no pixel has a known depth"
    assert train.empty(found) == ""


def test_nyud_is_read_by_the_lists_of_bts(tmp_path):
    for side, scenes in (("train", ("kitchen_1", "bath_2")), ("test", ("attic",))):
        lines = []
        for scene in scenes:
            put(tmp_path / "sync" / scene / "rgb_00000.jpg", picture())
            put(tmp_path / "sync" / scene / "sync_depth_00000.png", np.full((6, 9), 1500, np.uint16))
            lines.append(f"/{scene}/rgb_00000.jpg /{scene}/sync_depth_00000.png 518.8579\n")
        (tmp_path / f"nyu_{side}.txt").write_text("".join(lines))
    sides = open_depths(f"nyud:{tmp_path}")
    assert (len(sides.train), len(sides.test)) == (2, 1)
    assert "kitchen_1" in sides.train.name(0)
    assert sides.test.map(0) == pytest.approx(1.5)
    (tmp_path / "nyu_test.txt").write_text("only_one_word\n")
    with pytest.raises(UserError, match="a line without an image and a depth file"):
        open_depths(f"nyud:{tmp_path}")


def test_the_real_sets_open(test_data):
    sides = open_masks(f"voc:{test_data / 'voc2012'}")
    assert (len(sides.train), len(sides.test)) == (180, 80)
    assert sides.train.map(0).shape == sides.train.read(0).image.size[::-1]
    labels = open_masks(str(test_data / "nyuv2"), masks="label40", classes=39, ignore=39)
    assert labels.test.map(0).max() <= 38 or 255 in labels.test.map(0)
    depth = open_depths(str(test_data / "nyuv2"), scale=10 / 255).test.map(0)
    assert depth.shape == (240, 320)
    assert 0.5 < np.median(depth) < 9


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("side", [6, 9])
def test_a_map_that_may_be_of_the_picture_before_it_was_turned_leaves_it_out(masks, orientation, side):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = picture(side, 9) if orientation < 5 else picture(9, side)
    Image.fromarray(stored).save(masks / "val" / "images" / "d.jpg", exif=exif)
    put(masks / "val" / "masks" / "d.png", mask(0, 1, height=side))
    test = open_masks(str(masks)).test
    if orientation == 1 or (orientation >= 5 and side != 9):
        assert test.map(0).shape == (side, 9)
    else:
        with pytest.raises(Unreadable, match=f"EXIF orientation {orientation} turns it"):
            test.map(0)


@pytest.mark.parametrize("side", ["images", "masks"])
def test_maps_and_sizes_are_read_within_the_bounds_of_the_decoder(masks, side):
    path = masks / "val" / side / ("d.jpg" if side == "images" else "d.png")
    path.unlink(missing_ok=True)
    Image.new("L", (1, 1)).save(path, "PNG")
    data = bytearray(path.read_bytes())
    data[16:24] = (2**16).to_bytes(4, "big") * 2  # 65536 x 65536 px
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(Unreadable, match="pixels"):
        open_masks(str(masks)).test.map(0)
    path.write_bytes(b"")
    with pytest.raises(Unreadable, match="empty file"):
        open_masks(str(masks)).test.map(0)
