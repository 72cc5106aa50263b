import json
import shutil

import numpy as np
import pytest
from PIL import Image

from vitreg.data.boxes.coco import coco_boxes
from vitreg.data.boxes.named import COCO_LIST, named_set
from vitreg.data.boxes.truth import BoxSet, ImageBoxes
from vitreg.data.boxes.voc import voc_boxes
from vitreg.errors import UserError

OBJECT = """<object><name>{name}</name><truncated>{truncated}</truncated><difficult>{difficult}</difficult>
<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>{more}</object>"""
PART = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part>"


def thing(box, name="dog", truncated=0, difficult=0, more=""):
    return OBJECT.format(box=box, name=name, truncated=truncated, difficult=difficult, more=more)


def voc(folder, name, *objects, size=(40, 60)):
    folder.mkdir(parents=True, exist_ok=True)
    height, width = size
    measure = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    path = folder / f"{name}.xml"
    path.write_text(f"<annotation><filename>{name}.jpg</filename>{measure}{''.join(objects)}</annotation>")
    return path


def coco(path, images, annotations):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "kite"}]})
    )
    return path


def image(number, name, size=(40, 60)):
    return {"id": number, "file_name": name, "height": size[0], "width": size[1]}


def annotation(number, box, **more):
    return {"image_id": number, "bbox": box, "category_id": 7, **more}


def entry(name, boxes=((0, 0, 4, 4),)):
    return ImageBoxes(name, None, np.array(boxes, dtype=float).reshape(-1, 4), ("",) * len(boxes))


def test_voc_corners_become_half_open_boxes_counted_from_zero(tmp_path):
    voc(tmp_path, "a", thing((1, 1, 60, 40)), thing((11, 6, 20, 30), name="cat", more=PART))
    found = voc_boxes(tmp_path).find("photos/a.jpg")
    assert found.boxes.tolist() == [[0, 0, 60, 40], [10, 5, 20, 30]]
    assert (found.size, found.labels) == ((40, 60), ("dog", "cat"))


def test_hard_objects_are_kept_unless_they_are_not_wanted(tmp_path):
    voc(tmp_path, "a", thing((1, 1, 9, 9), truncated=1), thing((2, 2, 9, 9)), thing((3, 3, 9, 9), difficult=1))
    assert len(voc_boxes(tmp_path).find("a.jpg").boxes) == 3
    easy = voc_boxes(tmp_path, hard=False)
    assert easy.find("a.jpg").boxes.tolist() == [[1, 1, 9, 9]]
    assert easy.dropped == 2
    assert "difficult" in easy.convention


def test_coco_corners_are_rounded_and_crowds_left_out(tmp_path):
    path = coco(
        tmp_path / "boxes.json",
        [image(3, "train/x.jpg"), image(4, "train/y.jpg")],
        [annotation(3, [1.6, 2.4, 10.1, 20.2]), annotation(3, [0, 0, 5, 5], iscrowd=1), annotation(4, [5, 5, 0.2, 9])],
    )
    found = coco_boxes(path)
    assert found.find("somewhere/train/x.jpg").boxes.tolist() == [[2, 2, 12, 23]]
    assert found.find("y.jpg").boxes.tolist() == [[5, 5, 5, 14]]  # LOST keeps what rounding has made empty
    assert (found.dropped, found.find("x.jpg").labels) == (1, ("kite",))
    assert found.find("z.jpg") is None
    assert len(coco_boxes(path, {3})) == 1


def test_folders_tell_images_of_the_same_name_apart():
    found = BoxSet("set", "", [entry("a/1.jpg", ((0, 0, 1, 1),)), entry("b/1.jpg", ((0, 0, 2, 2),))])
    assert found.find("data/b/1.jpg").name == "b/1.jpg"
    assert found.find("data\\a\\1.jpg").name == "a/1.jpg"
    with pytest.raises(UserError, match=r"may be 'a/1.jpg' or 'b/1.jpg'"):
        found.find("1.jpg")


def test_a_name_with_dots_keeps_them():
    found = BoxSet("set", "", [entry("cat.v2")], by_stem=True)
    assert found.find("cat.v2.jpg") is not None
    assert found.find("cat.png") is None


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((1, 1, 70, 40), "outside its image of 60x40"),
        ((-5, 1, 9, 9), "outside its image"),
        ((9, 1, 5, 9), "ends before it begins"),
        ((1, 1, "x", 9), "where a number belongs"),
        ((1, 1, "nan", 9), "not numbers"),
    ],
)
def test_a_box_no_annotator_meant_is_refused_in_one_sentence(tmp_path, box, says):
    voc(tmp_path, "a", thing(box))
    with pytest.raises(UserError, match=says) as caught:
        voc_boxes(tmp_path)
    assert "a.xml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_box_that_stands_over_by_rounding_is_kept(tmp_path):
    voc(tmp_path, "a", thing((1, 1, 61, 41)))
    assert voc_boxes(tmp_path).find("a.jpg").boxes.tolist() == [[0, 0, 61, 41]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<annotation><object>", "no readable XML"),
        ("<html/>", "begins with <html>"),
        ("<annotation><object/></annotation>", "without a <bndbox>"),
        ("<annotation/>", "no boxes at all for 1 image"),
    ],
)
def test_what_is_no_voc_annotation(tmp_path, text, says):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(UserError, match=says):
        voc_boxes(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no readable JSON"),
        ("[]", "holds a list"),
        ('{"images": []}', "no list of 'annotations'"),
        ('{"images": [], "annotations": [3]}', "no list of 'annotations'"),
        ('{"images": [{"id": 1}], "annotations": []}', "without 'file_name'"),
        ('{"images": [], "annotations": [{"image_id": 5, "bbox": [1, 1, 2, 2]}]}', "annotates the image 5"),
        ('{"images": [{"id": 1, "file_name": "a"}], "annotations": []}', "no boxes at all"),
        ('{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1}]}', "bbox is None"),
        (
            '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "bbox": [1, NaN, 2, 2]}]}',
            "not numbers",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a", "height": 9, "width": 9}],'
            '"annotations": [{"image_id": 1, "bbox": [1, 1, 20, 2]}]}',
            "image 'a' of .* outside its image of 9x9",
        ),
    ],
)
def test_what_is_no_coco_annotation(tmp_path, text, says):
    (tmp_path / "boxes.json").write_text(text)
    with pytest.raises(UserError, match=says):
        coco_boxes(tmp_path / "boxes.json")


def test_annotations_that_are_not_there(tmp_path):
    for read in (coco_boxes, voc_boxes):
        with pytest.raises(UserError, match="cannot read"):
            read(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no VOC annotation \(.xml\)"):
        voc_boxes(tmp_path)


def voc_root(root, names=("a", "b"), listed=None):
    for name in names:
        voc(root / "Annotations", name, thing((1, 1, 9, 9)))
        (root / "JPEGImages").mkdir(exist_ok=True)
        Image.new("RGB", (60, 40)).save(root / "JPEGImages" / f"{name}.jpg")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("\n".join(listed or names) + "\n")


def test_voc_is_opened_by_its_root_or_a_folder_above(tmp_path):
    voc_root(tmp_path / "VOCdevkit" / "VOC2012")
    for root in (tmp_path, tmp_path / "VOCdevkit", tmp_path / "VOCdevkit" / "VOC2012"):
        found = named_set(f"voc2012:{root}")
        assert [path.rsplit("/", 1)[1] for path in found.images] == ["a.jpg", "b.jpg"]
        assert len(found.boxes) == 2
        assert "11540" in found.note  # two images are not the published set
    with pytest.raises(UserError, match=r"test.txt"):
        named_set(f"voc2012:{tmp_path}@test")
    with pytest.raises(UserError, match="VOC2007"):
        named_set(f"voc2007:{tmp_path}")


def test_an_image_that_a_list_names_must_exist(tmp_path):
    voc_root(tmp_path, listed=("a", "b", "c"))
    with pytest.raises(UserError, match=r"1 of the 3 images .*c\.jpg"):
        named_set(f"voc2012:{tmp_path}")


def test_coco20k_takes_the_images_of_its_list(tmp_path):
    names = [f"COCO_train2014_{n:012d}.jpg" for n in (9, 25, 30)]
    (tmp_path / "images" / "train2014").mkdir(parents=True)
    for name in names:
        Image.new("RGB", (60, 40)).save(tmp_path / "images" / "train2014" / name)
    (tmp_path / COCO_LIST).write_text(f"{names[1]}\ntrain2014/{names[0]}\n")
    coco(
        tmp_path / "annotations" / "instances_train2014.json",
        [image(n, name) for n, name in zip((9, 25, 30), names, strict=True)],
        [annotation(n, [n, 0, 5, 5]) for n in (9, 25, 30)],
    )
    found = named_set(f"coco20k:{tmp_path}")
    assert [path.rsplit("/", 1)[1] for path in found.images] == [names[1], names[0]]
    assert [found.boxes.find(path).boxes[0, 0] for path in found.images] == [25, 9]
    assert len(found.boxes) == 2
    shutil.move(tmp_path / COCO_LIST, tmp_path / "other.txt")
    assert len(named_set(f"coco20k:{tmp_path}@other.txt").images) == 2
    with pytest.raises(UserError, match=COCO_LIST):
        named_set(f"coco20k:{tmp_path}")


def test_other_words_are_no_named_set(tmp_path):
    assert named_set("photos") is None
    assert named_set("timm:photos") is None
    with pytest.raises(UserError, match="no folder 'nowhere'"):
        named_set("voc2012:nowhere")


def test_the_real_voc_subset(test_data):
    found = named_set(f"voc2012:{test_data / 'voc2012'}")
    assert len(found.images) == len(found.boxes) == 260
    for path in found.images:
        boxes = found.boxes.find(path)
        with Image.open(path) as picture:
            assert boxes.size == (picture.height, picture.width)
        assert len(boxes.boxes)
    first = found.boxes.find(f"{test_data}/voc2012/JPEGImages/2007_000032.jpg").boxes
    assert first[0].tolist() == [103, 77, 375, 183]


@pytest.mark.parametrize("box", [(0.1, 0.2, 0.5, 0.9), (0, 0, 1, 1), (0.0, 0.5, 1.0, 1.0)])
def test_boxes_that_are_parts_of_the_image_are_refused(tmp_path, box):
    voc(tmp_path, "a", thing(box))
    with pytest.raises(UserError, match=r"a\.xml' has boxes between 0 and 1, such as .*; multiply x by the width"):
        voc_boxes(tmp_path)


def test_boxes_of_coco_that_are_parts_of_the_image_are_refused_and_small_ones_kept(tmp_path):
    parts = [annotation(1, [0.1, 0.2, 0.5, 0.5]), annotation(1, [0, 0, 1, 1])]
    with pytest.raises(UserError, match="has boxes between 0 and 1, such as"):
        coco_boxes(coco(tmp_path / "a.json", [image(1, "a.jpg")], parts))
    mixed = [*parts, annotation(1, [3, 4, 5, 6])]
    assert coco_boxes(coco(tmp_path / "b.json", [image(1, "a.jpg")], mixed)).boxes == 3
    voc(tmp_path / "one", "a", thing((1, 1, 1, 1)))  # the first pixel
    assert voc_boxes(tmp_path / "one").boxes == 1


def test_names_are_matched_however_they_spell_folders_and_accents():
    decomposed, composed = "e\u0301te\u0301.jpg", "\u00e9t\u00e9.jpg"
    known = BoxSet("x", "", [entry(f"one\\{decomposed}"), entry(f"two/{composed}"), entry("c\\d.jpg")])
    for name, found in (
        (f"photos/one/{composed}", 0), (f"photos\\two\\{decomposed}", 1), ("c/d.jpg", 2), ("photos/d.jpg", 2)
    ):  # fmt: skip
        assert known.find(name).name == [f"one\\{decomposed}", f"two/{composed}", "c\\d.jpg"][found]
    with pytest.raises(UserError, match="two entries for the image"):
        BoxSet("x", "", [entry("a\\b.jpg"), entry("a/b.jpg")])
    stems = BoxSet("x", "", [entry(decomposed.removesuffix(".jpg"))], by_stem=True)
    assert stems.find(f"photos/{composed}") is not None
