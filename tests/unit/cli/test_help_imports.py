"""`--help` waits for nothing that draws, decodes or computes."""

import json
import subprocess
import sys

import pytest
from tests.patience import PATIENCE

from vitreg.cli import VERBS

CODE = """
import contextlib, io, json, sys
from vitreg.__main__ import main

found = {}
for verb in sys.argv[1:]:
    sys.argv = ["vitreg", *verb.split(), "--help"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main()
    heavy = [name for name in ("torch", "numpy", "jaxtyping", "PIL", "vitreg.records") if name in sys.modules]
    found[verb] = [said.getvalue(), heavy]
json.dump(found, sys.stdout)
"""
"""Asks for manuals one after another, in a process where nothing has been imported yet."""
LISTS_DETECTORS = "scan"
"""The verb whose manual reads what may follow the name of a detector from its function, which computes. It comes last: what
is imported stays."""


@pytest.fixture(scope="module")
def manuals():
    verbs = sorted(VERBS, key=LISTS_DETECTORS.__eq__)
    done = subprocess.run(
        [sys.executable, "-c", CODE, "", *verbs], check=True, capture_output=True, text=True, timeout=PATIENCE
    )
    return json.loads(done.stdout)


def test_the_list_of_verbs_imports_no_library_that_computes(manuals):
    said, heavy = manuals[""]
    assert all(f"\n  {verb} " in said for verb in VERBS)
    assert heavy == []


@pytest.mark.parametrize("verb", VERBS)
def test_the_manual_of_a_verb_imports_no_library_that_computes(manuals, verb):
    said, heavy = manuals[verb]
    assert said
    assert heavy == (["numpy"] if verb == LISTS_DETECTORS else [])
