"""Settings to plain data and back: strict, and with errors a person can act on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from pydantic import Field

from vitreg import config
from vitreg.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Cat:
    kind: Literal["cat"] = "cat"
    lives: int = 9
    weights: tuple[float, float] = (0.9, 0.99)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dog:
    kind: Literal["dog"] = "dog"
    tricks: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] = field(default_factory=Cat)
    street: str | None = None


def test_there_and_back():
    home = Home(pet=Dog(tricks=2.5), street="Elm")
    assert config.decode(Home, config.encode(home)) == home
    assert config.decode(Home, {}) == Home()
    assert config.decode(Home, {"pet": {"kind": "cat", "weights": [0.5, 0.6]}}).pet == Cat(weights=(0.5, 0.6))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"pet": {"kind": "cat", "livs": 3}}, ["pet.livs", "pet.lives"]),
        ({"pet": {"kind": "dog", "lives": 3}}, ["pet.lives", "pet.tricks"]),
        ({"stret": "Elm"}, ["'stret'", "'street'"]),
        ({"pet": {"kind": "catt"}}, ["pet", "catt", "'cat'"]),
        ({"pet": {"kind": "cat", "lives": "many"}}, ["pet.lives", "integer", "many"]),
        ({"pet": {"kind": "cat", "lives": 1.5}}, ["pet.lives", "1.5"]),
        ({"pet": {"kind": "cat", "weights": [1]}}, ["pet.weights"]),
        ({"pet": {"lives": 3}}, ["pet", "'kind'"]),
        ({"street": 3}, ["street", "string"]),
        ({"pet": {"kind": "cat", "lives": True}}, ["pet.lives", "number", "True"]),
        ({"pet": {"kind": "cat", "weights": [0.5, False]}}, ["pet.weights", "number", "False"]),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_key(data, words):
    with pytest.raises(UserError) as error:
        config.decode(Home, data, where="home.json")
    message = str(error.value)
    assert message.startswith("home.json")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_settings_are_laid_over_others_and_another_kind_replaces_the_whole():
    base = config.encode(Home(pet=Cat(lives=7), street="Elm"))
    assert config.merge(base, {"pet": {"weights": [0.1, 0.2]}})["pet"] == {
        "kind": "cat", "lives": 7, "weights": [0.1, 0.2],
    }  # fmt: skip
    assert config.merge(base, {"pet": {"kind": "dog"}})["pet"] == {"kind": "dog"}
    assert config.merge(base, {"street": "Oak"})["pet"]["lives"] == 7


def test_differences_name_the_key_and_both_values():
    old, new = Home(pet=Cat(lives=7)), Home(pet=Cat(lives=8))
    assert config.differences(config.encode(old), config.encode(new)) == ["pet.lives: 7 -> 8"]
    assert config.differences(config.encode(old), config.encode(old)) == []


def test_files_of_both_kinds_are_read_and_others_refused(tmp_path):
    (tmp_path / "a.toml").write_text('[pet]\nkind = "dog"\ntricks = 3\n')
    (tmp_path / "b.json").write_text('{"street": "Elm"}')
    assert config.decode(Home, config.read(tmp_path / "a.toml")).pet == Dog(tricks=3.0)
    assert config.read(tmp_path / "b.json") == {"street": "Elm"}
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "d.json").write_text("[1]")
    for name, word in (("c.json", "valid JSON"), ("d.json", "list"), ("e.json", "cannot read")):
        with pytest.raises(UserError, match=word):
            config.read(tmp_path / name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Street:
    home: Home = field(default_factory=Home)
    lit: bool = True
    lamp_posts: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Town:
    street: Street = field(default_factory=Street)


@pytest.mark.parametrize(
    ("line", "street"),
    [
        ("", Street()),
        ("--street.home.pet.lives 3 --street.home.street=Elm=1", Street(home=Home(pet=Cat(lives=3), street="Elm=1"))),
        ("--street.home.pet.weights 0.1 -2e-3", Street(home=Home(pet=Cat(weights=(0.1, -2e-3))))),
        ("--street.home.pet.weights 0.1,-2e-3", Street(home=Home(pet=Cat(weights=(0.1, -2e-3))))),
        ("--street.home.pet.weights=0.1,-2e-3", Street(home=Home(pet=Cat(weights=(0.1, -2e-3))))),
        ("--street.no-lit --street.lamp-posts 4", Street(lit=False, lamp_posts=4)),
        ("--street.lit --street.lamp_posts None", Street()),
        ("--street.lit false", Street(lit=False)),
        ("--street.home.pet.kind dog", Street(home=Home(pet=Dog()))),
    ],
)
def test_a_command_line_is_read_like_a_file(line, street):
    base = config.encode(Town())
    assert config.decode(Town, config.merge(base, config.read_words(line.split(), base))) == Town(street=street)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--street.lampposts 4", ["--street.lampposts", "'--street.lamp-posts'"]),
        ("street.lit", ["'street.lit'", "--street.lit"]),
        ("--", ["setting '--'"]),
        ("--street.lamp-posts", ["one value, not 0"]),
        ("--street.lamp-posts 1 2", ["one value, not 2: 1 2"]),
        ("--street.no-lamp-posts", ["--street.no-lamp-posts"]),
    ],
)
def test_a_mistyped_word_is_one_sentence(line, words):
    with pytest.raises(UserError) as error:
        config.read_words(line.split(), config.encode(Town()))
    assert all(word in error.value.sentence for word in words), error.value
