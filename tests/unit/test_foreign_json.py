"""Every place that reads JSON of others turns whatever is wrong with it into one sentence that names the file."""

import pytest

from vitreg.config import read
from vitreg.data.boxes.coco import coco_boxes
from vitreg.data.sets.captions import _rows
from vitreg.errors import UserError
from vitreg.verbs.compare import read_scan
from vitreg.writing.files import refuse_other_result

BROKEN = {
    "nested": b"[" * 200_000,
    "nested tables": b'{"a":' * 200_000,
    "not UTF-8": b'{"a": "\xff"}',
    "a long number": b"[" + b"1" * 100_000 + b"]",
    "nothing": b"",
}


def scan_of(path):
    (path.parent / "result.json").write_bytes(path.read_bytes())
    read_scan(path.parent)


READERS = {"settings": read, "captions": lambda path: _rows(str(path)), "scan": scan_of, "boxes": coco_boxes}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_broken_json_is_one_sentence(reader, text, tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"file\.json|result\.json") as caught:
        reader(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_record_in_the_way_is_no_result(text, tmp_path):
    (tmp_path / "result.json").write_bytes(text)
    refuse_other_result(tmp_path, {"schema": "vitreg.scan/1"}, lambda held: {"schema": held["schema"]})
