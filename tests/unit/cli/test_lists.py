"""Commas and spaces say the same after every flag that takes several values."""

import pytest

from vitreg.cli.lists import unified
from vitreg.cli.parsing import parse
from vitreg.cli.verbs.composite.look import Look
from vitreg.cli.verbs.composite.reproduce import Reproduce
from vitreg.cli.verbs.discover import Discover
from vitreg.cli.verbs.eval import Command
from vitreg.cli.verbs.extract import Extract
from vitreg.cli.verbs.maps import Maps
from vitreg.errors import UserError
from vitreg.verbs.eval.settings.tokens import ControlsSettings
from vitreg.verbs.eval.settings.whole_image import KnnSettings

FORMS = ("{flag} {comma}", "{flag} {space}", "{flag}={comma}", "{flag} {comma_space}")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("kind", "before", "flag", "values", "field", "read"),
    [
        (Command[KnnSettings], "m d", "--k", ("10", "20"), "task.k", (10, 20)),
        (Command[ControlsSettings], "m d", "--replace", ("outliers", "random"), "task.replace", ("outliers", "random")),
        (Maps, "m d", "--what", ("attention", "norm"), "maps.what", ("attention", "norm")),
        (Maps, "m d", "--layer", ("-1", "5", "8"), "maps.layer", (-1, 5, 8)),
        (Maps, "m d", "--weights", ("a.pth", "none"), "weights", "a.pth,none"),
        (Extract, "m d", "--cls", ("-1", "5"), "extract.cls", (-1, 5)),
        (Discover, "m d --sweep", "--normalize", ("l2", "center+l2"), "discover.normalize", "l2,center+l2"),
        (Discover, "m d --sweep", "--bias", ("-20%", "auto"), "discover.bias", "-20%,auto"),
    ],
)
def test_a_list_is_read_with_commas_and_with_spaces(form, kind, before, flag, values, field, read):
    line = form.format(flag=flag, comma=",".join(values), space=" ".join(values), comma_space=", ".join(values))
    found = parse(kind, [*before.split(), *line.split()], prog="vitreg")
    for name in field.split("."):
        found = getattr(found, name)
    assert found == read


@pytest.mark.parametrize(
    ("words", "rewritten"),
    [
        ("--weights none m photos/", "--weights=none m photos/"),  # a model and images are no weights
        ("m a,b.png --what norm", "m a,b.png --what norm"),  # a comma in the name of a file
        ("--layer 5 8 m photos/", "--layer=5,8 m photos/"),
        ("m d --what", "m d --what"),
        ("m --what norm -- --a.png", "m --what norm -- --a.png"),
    ],
)
def test_what_does_not_belong_to_a_list_stays(words, rewritten):
    assert unified(Maps, words.split()) == rewritten.split()


@pytest.mark.parametrize("kind", [Look, Reproduce])
def test_a_flag_that_is_repeated_keeps_every_value(kind):
    words = ["fig3", "-m", "a,1", "--model=b", "fig12", "--model", "c", "--size", "64"]
    found = parse(kind, words, prog="vitreg")
    assert found.model == ("a,1", "b", "c")
    assert (found.ids if kind is Reproduce else found.images) == ("fig3", "fig12")
    found = parse(
        Reproduce, ["fig3", "--images", "a", "b", "-m", "c", "-m", "d"], prog="vitreg"
    )  # after a list of any words
    assert (found.reproduce.images, found.model) == (("a", "b"), ("c", "d"))
    for words in ("fig3 -m", "fig3 -m --size 64", "fig3 --model="):
        with pytest.raises(UserError, match=r"needs a value; repeat it for several\."):
            parse(kind, words.split(), prog="vitreg")
