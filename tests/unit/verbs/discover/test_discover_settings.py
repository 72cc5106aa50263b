"""Words become settings, settings a grid; what a setting does to the matrix."""

import numpy as np
import pytest
import torch

from vitreg.errors import UserError
from vitreg.verbs.discover.model import Photograph
from vitreg.verbs.discover.search import Search
from vitreg.verbs.discover.setting import Bias, Setting, Sweep, read_settings


def test_a_bias_is_read_and_written():
    for text, bias in (
        ("auto", Bias(None)), ("-0.4", Bias(-0.4)), ("0", Bias(0.0)), ("-20%", Bias(-0.2, True)), ("+5%", Bias(0.05, True)),
    ):  # fmt: skip
        assert Bias.read(text) == bias
        assert Bias.read(str(bias)) == bias
    for text in ("half", "", "--1", "1e999", "nan", "5 %"):
        with pytest.raises(UserError, match="no bias"):
            Bias.read(text)


def test_a_relative_bias_is_a_share_of_the_mean_diagonal():
    x = torch.randn(63, 8, generator=torch.Generator().manual_seed(0)) + 0.3
    x.view(7, 9, 8)[1:5, 2:6] -= 2
    pixels = np.indices((56, 72)).sum(0).astype(np.uint8)[..., None].repeat(3, axis=2)
    photograph = Photograph(pixels, (56, 72), np.zeros((2, 2, 3), np.uint8))
    diagonal = float((x @ x.T).diagonal().mean())
    settings = [
        Setting(layer=0, normalize="none", bias=bias) for bias in (Bias(-0.25, True), Bias(-0.25 * diagonal), Bias(0.0))
    ]
    search = Search(settings)
    relative, absolute, none = search({("k", 0): x}, (7, 9), photograph, (8, 8))
    assert (relative.boxes, relative.scores) == (absolute.boxes, absolute.scores)
    assert relative.scores != none.scores


def test_words_become_settings():
    assert read_settings() == (Setting(), None)
    chosen, sweep = read_settings(feature="v,k", layer="-1,3", bias="-20%,auto", sweep=True)
    assert chosen == Setting(feature="v", bias=Bias(-0.2, True))
    assert sweep == Sweep(features=("v", "k"), layers=(-1, 3), biases=(Bias(-0.2, True), Bias(None)))
    for words, says in (
        ({"feature": "k,v"}, "add sweep"),
        ({"feature": "key"}, "no feature 'key'"),
        ({"normalize": "l3"}, "no normalisation 'l3'. Known: center"),
        ({"method": "loss"}, "Did you mean 'lost'"),
        ({"method": "tokencut", "bias": "0"}, "leave bias out"),
        ({"layer": "last"}, "names no block"),
    ):
        with pytest.raises(UserError, match=says):
            read_settings(**words)


def test_a_grid_has_the_chosen_setting_first_and_none_twice():
    chosen = Setting(feature="v", layer=11, normalize="l2", bias=Bias(0.0))
    settings = Sweep().settings(chosen, 12)
    assert settings[0] == chosen
    assert len(settings) == len(set(settings)) == 3 * 4 * 3 * 7
    assert {setting.layer for setting in settings} == {8, 9, 10, 11}
    assert {setting.layer for setting in Sweep().settings(Setting(), 2)} == {0, 1}
    cuts = Sweep().settings(Setting(method="tokencut"), 12)
    assert len(cuts) == 3 * 4 * 2  # a cut compares by cosine in any case, and has no bias
