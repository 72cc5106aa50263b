"""One sentence for two callers: the command line has flags, Python has arguments."""

import pytest

from vitreg.console.terminal import ending
from vitreg.errors import UserError

SENTENCES = {
    "try --precision fp32.": "try precision fp32.",
    "look at --depth-scale.": "look at depth_scale.",
    "name it with --data.image-key.": "name it with data.image_key.",
    "move it away, or name another place with --out.": "move it away, or name another place with out.",
    "no setting '--model.registrs'.": "no setting '--model.registrs'.",  # what was typed stays as it was
    "docker run --shm-size=8g": "docker run --shm-size=8g",
    "a--b and a -- b": "a--b and a -- b",
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_python_reads_the_names_of_arguments_and_the_terminal_those_of_flags(sentence, capsys):
    error = UserError(sentence)
    assert str(error) == SENTENCES[sentence]
    ending(error)
    assert capsys.readouterr().err == f"vitreg: {sentence}\n"


def test_a_sentence_inside_another_keeps_its_flags():
    inner = UserError("try --precision fp32.")
    assert UserError(f"block 3: {inner}").sentence == "block 3: try --precision fp32."
    assert str(UserError(f"block 3: {inner}")) == "block 3: try precision fp32."
