"""Repairs and their settings as words: read, written as short as can be, and mistakes in one sentence."""

import pytest

from vitreg.errors import UserError
from vitreg.repair.asked import wanted
from vitreg.repair.settings import DenoiseSettings, SubstituteSettings, TestTimeSettings, names
from vitreg.verbs.repairs.options import methods_of


@pytest.mark.parametrize(
    ("word", "settings", "written"),
    [
        ("test-time", TestTimeSettings(), "test-time"),
        ("test-time:registers=1", TestTimeSettings(), "test-time"),
        (
            "test-time:token=mean:registers=2",
            TestTimeSettings(registers=2, token="mean"),
            "test-time:registers=2:token=mean",
        ),
        ("test-time:max-damage=0.1", TestTimeSettings(max_damage=0.1), "test-time:max-damage=0.1"),
        ("denoise:position-part", DenoiseSettings(position_part=True), "denoise:position-part"),
        ("denoise:position-part=true", DenoiseSettings(position_part=True), "denoise:position-part"),
        ("substitute:where=output", SubstituteSettings(where="output"), "substitute:where=output"),
    ],
)
def test_a_word_is_a_repair_and_its_settings(word: str, settings: object, written: str) -> None:
    found = wanted(word)
    assert found.settings == settings
    assert str(found) == written
    assert wanted(str(found)) == found


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("tset-time", "Did you mean 'test-time'"),
        ("test-time:registres=2", "no setting 'registres' in test-time. Did you mean 'registers'"),
        ("test-time:registers=two", "registers takes a whole number, not 'two'"),
        ("test-time:registers", "registers takes a whole number, not True"),
        ("test-time:registers=0", "registers must be at least 1, not 0"),
        ("substitute:where=outptu", "Did you mean 'output'"),
        ("test-time:registers=2:registers=3", "gives registers twice"),
        ("clip-norm:factor=3", "no setting 'factor' in clip-norm. Known: detector, neighbours, share, where"),
    ],
)
def test_a_mistake_is_one_sentence(word: str, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        wanted(word)
    assert sentence in str(raised.value)


def test_a_list_has_each_repair_once_and_all_is_every_one() -> None:
    assert [str(each) for each in methods_of(["none", "test-time:registers=1", "test-time", "test-time:registers=2"])] == [
        "test-time", "test-time:registers=2",
    ]  # fmt: skip
    assert [each.name for each in methods_of(["all"])] == names()
    assert methods_of(["none"]) == []
