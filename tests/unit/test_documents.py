import pytest

from vitreg.data import ImageSource
from vitreg.data.sets.captions import TableSet
from vitreg.data.sets.pair_files import nyud
from vitreg.documents import parse_json, read_json, read_lines, read_xml
from vitreg.errors import UserError
from vitreg.passes.clip.class_names import words_for

BROKEN = {
    "cut off": b'{"a": 1',
    "empty": b"",
    "no text": b'{"a": "\xff\xfe"}',
    "nested": b"[" * 200_000 + b"]" * 200_000,
    "nested tables": b'{"a":' * 200_000,
    "long number": b"[" + b"1" * 1_000_000 + b"]",
    "zeros": b"\0" * 100,
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_whatever_is_wrong_with_json_is_one_sentence_that_names_the_file(text, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"config\.json is no valid JSON \(.+\)\.$") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError):
        parse_json(text)


def test_a_file_above_the_limit_is_not_parsed(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"[" + b" " * 100 + b"]")
    assert read_json(path, limit=102) == []
    with pytest.raises(UserError, match="larger than"):
        read_json(path, limit=101)


def test_a_missing_file_or_a_folder_is_one_sentence(tmp_path):
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(UserError, match="cannot read"):
            read_json(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xfe\x00", r"is not UTF-8 text \(byte 0\)"),
        (b"x" * 2000, "too large for a list"),
    ],
)
def test_a_foreign_list_is_read_within_bounds(tmp_path, data, message):
    (tmp_path / "list.txt").write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_lines(tmp_path / "list.txt", limit=1000)
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf a \r\n\r\n b c\n")
    assert read_lines(tmp_path / "list.txt") == ["a", "b c"]


BOMB = "<!DOCTYPE a [<!ENTITY e0 'lol'>" + "".join(f"<!ENTITY e{i} '{f'&e{i - 1};' * 10}'>" for i in range(1, 10))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<annotation>", "no readable XML"),
        (b"<?xml version='1.0' encoding='nothing'?><a/>", "no readable XML"),
        (b"\xff\xfe\x00", "no readable XML"),
        (f"{BOMB}]><a>&e9;</a>".encode(), "no readable XML"),
        (b"<a>" + b" " * 9000 + b"</a>", "too large for an XML file"),
    ],
)
def test_foreign_xml_is_read_within_bounds(tmp_path, data, message):
    (tmp_path / "a.xml").write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_xml(tmp_path / "a.xml", limit=8000)


@pytest.mark.parametrize(
    "read",
    [
        lambda path: TableSet(str(path), "train"),
        lambda path: ImageSource([path]),
        lambda path: words_for(["a", "b"], path),
        lambda path: nyud(str(path.parent), "train"),
    ],
    ids=["captions", "images", "names of classes", "pairs"],
)
def test_no_list_of_terabytes_is_read(read, tmp_path):
    path = tmp_path / "nyu_train.txt"
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(UserError, match=r"nyu_train\.txt is larger than \d+ MB, too large for"):
        read(path)


def test_a_list_of_files_keeps_names_that_are_no_text_or_hold_separators(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"a\xff.png\r\nb\x1cc\xe2\x80\xa8d.png\re.png\n\n")
    assert read_lines(path, errors="surrogateescape") == ["a\udcff.png", "b\x1cc\u2028d.png", "e.png"]
