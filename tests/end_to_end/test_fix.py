"""`vitreg fix` on the command line: what it says, and its exit codes."""

from __future__ import annotations

import pytest

from vitreg.console.exits import Exit

pytestmark = pytest.mark.usefixtures("planted_once", "blank_figures")


def test_it_says_what_the_repair_does_and_how_to_use_it(vitreg, photographs, tmp_path):
    out = tmp_path / "fixed"
    done = vitreg(
        "fix", "test-time", "planted:high-norm", photographs[0].parent, "--neurons", "6", "--limit", "16", "--out", out
    )
    assert done.returncode == Exit.DONE, done.stderr
    assert "held-out images before, 0 % after" in done.stdout
    assert f"fixed:{out}" in done.stdout
    assert done.stdout.rstrip().endswith(f"Open {out / 'norm.png'}")


def test_a_model_without_artifacts_has_an_exit_code_of_its_own_and_leaves_nothing(vitreg, photographs, tmp_path):
    done = vitreg(
        "fix", "test-time", "planted:clean", photographs[0].parent, "--limit", "8", "--out", tmp_path / "fixed"
    )
    assert done.returncode == Exit.NOTHING_TO_REPAIR == 4
    assert "on the 3 images to fit on, so there is nothing to repair; more images may show" in done.stderr
    assert not (tmp_path / "fixed").exists()


def test_methods_are_listed_with_what_they_do(vitreg):
    done = vitreg("fix")
    assert "test-time" in done.stdout
    assert "Test-time registers" in done.stdout
