"""The example of a Space imports with Gradio, or with what stands for it, and its function returns what is shown."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

APP = Path(__file__).parents[2] / "examples" / "space" / "app.py"


class RefusedError(Exception):
    """What stands for `gradio.Error`."""


@pytest.fixture
def app(monkeypatch):
    """The example over planted models."""
    if importlib.util.find_spec("gradio") is None:
        part = SimpleNamespace
        stub = SimpleNamespace(Error=RefusedError, Interface=lambda show, *_, **words: part(fn=show, **words))
        stub.Image = stub.HTML = part
        stub.CheckboxGroup = lambda choices, **words: part(choices=choices, **words)
        monkeypatch.setitem(sys.modules, "gradio", stub)
    spec = importlib.util.spec_from_file_location("space_app", APP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "MODELS", {"planted": "planted:high-norm"})
    monkeypatch.setattr(module, "SIZE", 96)
    monkeypatch.setattr(module, "BLOCKS", (11,))
    return module


@pytest.mark.slow
@pytest.mark.usefixtures("planted_once")
def test_the_space_shows_a_look_and_an_explorer(app):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8))
    looked, explored = app.demo.fn(photo, ["planted"])
    assert looked.count('src="data:image/png;base64,') == 1
    assert "planted" in looked
    assert explored.startswith("<iframe ")
    assert "part-p0m0-b11" in explored


@pytest.mark.parametrize(("photo", "names"), [(None, ["planted"]), (Image.new("RGB", (9, 9)), [])])
def test_what_is_missing_is_one_sentence(app, photo, names):
    with pytest.raises(app.gr.Error, match="a photograph and a model are needed"):
        app.demo.fn(photo, names)
