"""`vitreg discover` as a user runs it: on a made VOC through a model without training, on the real one through DeiT-Tiny."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from vitreg.results import DiscoverResult

from .conftest import one_sentence

QUICK = ("--pictures", "0", "--steps", "0")


MODEL = "planted:clean"


@pytest.fixture(scope="module")
def run(vitreg, voc, tmp_path_factory):
    """Four images of the val list at 160 pixels."""
    out = tmp_path_factory.mktemp("discover")
    done = vitreg("discover", MODEL, f"voc2012:{voc}@val", "--out", out, "--limit", "4", "--size", "160")
    assert done.returncode == 0, done.stderr
    return out, done


def read(out):
    return DiscoverResult.model_validate_json((out / "result.json").read_text())


def test_result_boxes_and_pictures_are_written(run):
    out, done = run
    result = read(out)
    assert {path.name for path in out.iterdir()} == {"result.json", "boxes.json", "pictures", ".vitreg.json"}
    for name in ("boxes.png", "steps.png"):
        with Image.open(out / "pictures" / name) as picture:
            assert min(picture.size) > 300
            assert np.asarray(picture.convert("L")).std() > 20  # not an empty page
    assert result.images.seen == result.corloc.images == result.found == 4
    assert f"CorLoc {result.corloc.value:.1f} %" in done.stdout
    assert all(f"control: {name}" in done.stdout for name in result.controls)
    assert "bias auto" in done.stdout
    assert "short side 160" in done.stdout
    assert done.stdout.strip().splitlines()[-1] == f"Open {out / 'pictures' / 'boxes.png'}"


def test_without_pictures_no_folder_is_left_and_the_boxes_are_named(vitreg, tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((96, 64)).save(images / f"{number}.png")
    for more, last, left in (
        ((), "pictures/boxes.png", {"result.json", "boxes.json", "pictures"}),
        (QUICK, "boxes.json", {"result.json", "boxes.json"}),  # those of the run before are gone
    ):
        done = vitreg("discover", "planted:clean", images, "--out", out, *more)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip().splitlines()[-1] == f"Open {out / last}"
        assert {path.name for path in out.iterdir() if path.name[0] != "."} == left


def test_a_real_model_on_the_real_set(vitreg, test_data, tmp_path):
    weights = test_data / "models" / "deit_tiny_patch16_224.safetensors"
    words = ("timm:deit_tiny_patch16_224", f"voc2012:{test_data / 'voc2012'}@val", "--weights", weights)
    done = vitreg("discover", *words, "--out", tmp_path, "--limit", "4", "--size", "160", *QUICK)
    assert done.returncode == 0, done.stderr
    result = read(tmp_path)
    assert result.images.seen == result.corloc.images == result.found == 4
    assert f"CorLoc {result.corloc.value:.1f} %" in done.stdout


def test_the_schema_is_the_documented_one(run):
    document = json.loads((run[0] / "result.json").read_text())
    assert document["schema"] == "vitreg.discover/1"
    assert set(document) == {
        "schema", "model", "images", "found", "corloc", "controls", "without_boxes", "without_cut", "without_box", "by_chance",
        "setting", "protocol", "sweep", "notes", "undrawn", "provenance",
    }  # fmt: skip
    assert document["setting"] == {
        "method": "lost", "feature": "k", "block": 11, "normalisation": "center+l2", "bias": "auto",
    }  # fmt: skip


def test_the_boxes_file_is_coco_and_can_be_the_truth_of_another_run(vitreg, voc, run, tmp_path):
    """Against its own boxes, every box is right: CorLoc is 100 whatever was found."""
    document = json.loads((run[0] / "boxes.json").read_text())
    folder = tmp_path / "images"
    folder.mkdir()
    for image in document["images"]:
        shutil.copy(image["file_name"], folder)
    done = vitreg(
        "discover", MODEL, folder, "--boxes", run[0] / "boxes.json", "--out", tmp_path / "out", "--size", "160", *QUICK
    )
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "out").corloc.value == 100


def test_a_folder_of_xml_is_truth_too_and_other_images_are_left_out(vitreg, voc, photographs, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    names = [path.stem for path in sorted((voc / "Annotations").iterdir())[:2]]
    for name in names:
        shutil.copy(voc / "JPEGImages" / f"{name}.jpg", folder)
    shutil.copy(photographs[0], folder)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    done = vitreg(
        "discover", MODEL, folder, "--boxes", voc / "Annotations", "--out", tmp_path / "out", "--size", "96", *QUICK
    )
    assert done.returncode == 0, done.stderr
    result = read(tmp_path / "out")
    assert (result.corloc.images, result.without_boxes, result.images.seen) == (2, 1, 3)
    assert "1 image was left out" in done.stdout
    assert "14 annotated images were not looked at." in done.stdout


def test_a_sweep_prints_its_warning_over_its_table(vitreg, voc, tmp_path):
    words = ("--sweep", "--feature", "k,v", "--normalize", "none,center+l2", "--bias", "auto,0,-20%")
    done = vitreg(
        "discover", MODEL, f"voc2012:{voc}@val", "--out", tmp_path, "--limit", "4", "--size", "96", *words, *QUICK
    )
    assert done.returncode == 0, done.stderr
    result = read(tmp_path)
    assert len(result.sweep.table.rows) == 2 * 4 * 2 * 3
    marks = [row[-1] for row in result.sweep.table.rows]
    assert sum("automatic" in mark for mark in marks) == 16
    assert sum("as published" in mark for mark in marks) == 8
    lines = done.stdout.splitlines()
    assert lines.index(result.sweep.warning) + 1 == next(i for i, line in enumerate(lines) if "CorLoc %" in line)
    assert "tuning on these very images" in result.sweep.warning
    assert result.setting["normalisation"] == "none"  # the first that was named


def test_without_boxes_there_are_boxes_but_no_number(vitreg, photographs, tmp_path):
    done = vitreg("discover", MODEL, *photographs[:2], "--out", tmp_path, "--size", "96", "--method", "maskcut", *QUICK)
    assert done.returncode == 0, done.stderr
    result = read(tmp_path)
    assert result.corloc is None
    assert not result.controls
    assert 2 - sum(result.without_box.values()) <= result.found <= 6
    assert "--boxes" in done.stdout


def test_ctrl_c_exits_with_130_and_keeps_what_is_there(vitreg, voc, tmp_path, monkeypatch):
    from vitreg.verbs.discover.model import DiscoverModel

    prepare, calls = DiscoverModel.prepare, []

    def stop(self, image):
        calls.append(image)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return prepare(self, image)

    monkeypatch.setattr(DiscoverModel, "prepare", stop)
    done = vitreg("discover", MODEL, f"voc2012:{voc}@val", "--out", tmp_path, "--size", "96", *QUICK)
    assert done.returncode == 130
    assert "interrupted; writing what was found" in done.stderr
    assert done.stdout.startswith("Stopped after 1 of 8 images.")
    assert read(tmp_path).images.interrupted


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("VOC", "--method", "lots"), "Did you mean 'lost'"),
        (("VOC", "--feature", "keys"), "no feature 'keys'"),
        (("VOC", "--feature", "k,v"), "--sweep"),
        (("VOC", "--bias", "much"), "no bias"),
        (("VOC", "--layer", "12"), "no block 12"),
        (("VOC", "--size", "big"), "takes an image size such as 518"),
        (("VOC", "--boxes", "x.json"), "brings its own boxes"),
        (("voc2012:nowhere",), "no folder 'nowhere'"),
        (("PHOTOS", "--sweep"), "needs true boxes"),
        (("PHOTOS", "--boxes", "nowhere.json"), "no file or folder of boxes 'nowhere.json'"),
        (("PHOTOS", "--boxes", "XML"), "no image has boxes"),
        (("PHOTOS", "--boxes", "OUTSIDE"), "outside its image"),
        ((), "no images named"),
    ],
)
def test_mistakes_are_one_sentence(vitreg, voc, photographs, tmp_path, arguments, says):
    outside = {"images": [{"id": 1, "file_name": "a.jpg", "height": 9, "width": 9}]}
    outside["annotations"] = [{"image_id": 1, "bbox": [1, 1, 30, 3]}]
    (tmp_path / "outside.json").write_text(json.dumps(outside))
    words = {
        "VOC": f"voc2012:{voc}@val", "PHOTOS": photographs[0], "XML": voc / "Annotations",
        "OUTSIDE": tmp_path / "outside.json",
    }  # fmt: skip
    given = [words.get(word, word) for word in arguments]
    done = vitreg("discover", MODEL, *given, "--out", tmp_path / "out")
    assert says in one_sentence(done)


@pytest.mark.slow
def test_two_processes_say_what_one_says(vitreg_process, voc, tmp_path):
    words = ("discover", MODEL, f"voc2012:{voc}@val", "--limit", "5", "--size", "96", "--sweep", "--feature", "k")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "vitreg")
    assert vitreg_process(*words, "--out", tmp_path / "one").returncode == 0
    done = vitreg_process(*words, "--out", tmp_path / "two", program=torchrun)
    assert done.returncode == 0, done.stderr
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert two.provenance.processes == 2
    assert two.model_dump(exclude={"provenance"}) == one.model_dump(exclude={"provenance"})
    assert (tmp_path / "one" / "boxes.json").read_bytes() == (tmp_path / "two" / "boxes.json").read_bytes()
    for name in ("boxes.png", "steps.png"):
        pictures = [np.asarray(Image.open(tmp_path / side / "pictures" / name)) for side in ("one", "two")]
        np.testing.assert_array_equal(*pictures)
