"""A new file replaces none, and is never seen half."""

import errno
import os

import pytest

from vitreg.errors import UserError
from vitreg.writing import files
from vitreg.writing.files import write_new


def test_a_taken_name_is_numbered(tmp_path):
    assert [write_new(tmp_path / "a.png", bytes([n])).name for n in range(3)] == ["a.png", "a-2.png", "a-3.png"]
    assert [(tmp_path / name).read_bytes() for name in ("a.png", "a-2.png", "a-3.png")] == [b"\0", b"\1", b"\2"]
    assert len(list(tmp_path.iterdir())) == 3
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere")
    assert write_new(tmp_path / "b.png", b"").name == "b-2.png"


def test_a_file_system_without_links_numbers_too(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refused)
    assert [write_new(tmp_path / "a.png", b"x").name for _ in range(2)] == ["a.png", "a-2.png"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_linked", full)
    with pytest.raises(UserError, match=r"cannot write .*a\.png: No space left"):
        write_new(tmp_path / "a.png", b"x")
    assert list(tmp_path.iterdir()) == []
