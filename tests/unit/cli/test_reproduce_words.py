"""`vitreg reproduce --dry-run` and `--list` from the terminal: the scale decides which data there are."""

import pytest

from vitreg.cli import run


@pytest.mark.parametrize("flag", ["--dry-run", "--list"])
def test_the_scale_of_the_command_line_decides_which_data_there_are(flag, capsys):
    """The defaults of another scale must not come in: paper has no synthetic scenes."""
    assert run(["reproduce", "table2b", "--scale", "paper", flag]) == 0
    said = capsys.readouterr().out
    assert "not given: --classes, --captions" in said
    assert "GPU hours" in said
    assert run(["reproduce", "table2b", flag]) == 0
    assert "not given" not in capsys.readouterr().out
