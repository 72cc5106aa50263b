"""A picture is shown where the terminal says it can, and nowhere else."""

import sys
import types

import pytest

from vitreg.console import pictures


class Terminal:
    def isatty(self):
        return True


class Sixel:
    def __init__(self, path, **size):
        self.path = path

    def __rich_console__(self, console, options):
        yield f"picture {self.path}"


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(sys, "__stdout__", Terminal())
    monkeypatch.setattr(sys, "__stdin__", Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    module = types.ModuleType("textual_image.renderable")
    module.SixelImage, module.TGPImage, module.Image = Sixel, type("TGP", (), {}), Sixel
    monkeypatch.setitem(sys.modules, "textual_image", types.ModuleType("textual_image"))
    monkeypatch.setitem(sys.modules, "textual_image.renderable", module)
    return module


def test_a_terminal_that_can_shows_it(terminal, capsys, tmp_path):
    assert pictures.shown(tmp_path / "a.png")
    assert "picture" in capsys.readouterr().out


def test_a_terminal_that_cannot_shows_nothing(terminal, capsys, tmp_path):
    terminal.Image = type("Halfcell", (), {})
    assert not pictures.shown(tmp_path / "a.png")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("stream", ["__stdout__", "__stdin__"])
def test_a_pipe_is_no_terminal(terminal, monkeypatch, tmp_path, stream):
    monkeypatch.setattr(sys, stream, None)
    assert not pictures.shown(tmp_path / "a.png")


def test_a_dumb_terminal_is_not_asked(terminal, monkeypatch, tmp_path):
    monkeypatch.setenv("TERM", "dumb")
    assert not pictures.shown(tmp_path / "a.png")


def test_a_picture_that_fails_is_on_disk_all_the_same(terminal, tmp_path):
    def fails(path, **size):
        raise OSError("too large")

    terminal.Image = terminal.SixelImage = fails
    assert not pictures.shown(tmp_path / "a.png")


def test_without_the_package_nothing_is_shown(terminal, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "textual_image.renderable", None)
    assert not pictures.shown(tmp_path / "a.png")
