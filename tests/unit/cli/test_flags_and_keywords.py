"""What the command line takes as flags, Python takes as keywords; one idea has one spelling in every verb."""

import inspect
from pathlib import Path

import pytest

import vitreg as package
from vitreg.cli import VERBS
from vitreg.cli.parsing import flags
from vitreg.cli.verbs.composite.lab import Born
from vitreg.cli.verbs.composite.lab import Run as LabRun
from vitreg.cli.verbs.eval import Command
from vitreg.cli.verbs.fix import Command as Fix
from vitreg.errors import UserError
from vitreg.repair.settings import TestTimeSettings
from vitreg.verbs.eval.registry import TASKS

KINDS = {**VERBS, "eval": Command[TASKS["knn"]], "fix": Fix[TestTimeSettings], "lab": Born}
OF_TERMINALS = {
    "doctor": {"json"},
    "look": {"json", "show", "model"},
    "explore": {"model", "serve", "port", "browser"},
    "scan": {"fail_above"},
    "reproduce": {"dry_run", "list", "model"},
    "zoo": {"badge", "model"},
}
"""What the exit code and the standard output are about; -m is `models` in Python, --badge is `vitreg.badge`."""
NAMED = {"eval": "evaluate"}
EVERYWHERE = ("device", "precision", "random", "strict", "allow_partial", "trust", "weights", "repair")
OVER_IMAGES = ("size", "limit")
IN_BATCHES = ("fit", "batch_size", "workers")
METHOD = {"registers", "neurons", "score", "first_block", "rounds", "token", "max_damage", "neurons_from"}
TASK = {"k", "temperature", "token", "n_per_class", "n_tries"}


def flags_of(verb):
    return {flag.removeprefix("--").replace("-", "_") for flag in flags(KINDS[verb]) if not flag.startswith("--no-")}


def table():
    """Verbs and their flags as docs/terminal.md shows them; flags of one verb alone stand in its manual."""
    verbs = [verb for verb in VERBS if verb not in ("train", "version")]
    taken = {verb: flags_of(verb) - {"eval": TASK, "fix": METHOD}.get(verb, set()) for verb in verbs}
    shared = sorted({flag for found in taken.values() for flag in found})
    shared = [flag for flag in shared if sum(flag in found for found in taken.values()) > 1]
    shared.sort(key=lambda flag: -sum(flag in found for found in taken.values()))
    rows = [["flag", *verbs], ["---"] * (len(verbs) + 1)]
    rows += [[f"`--{flag.replace('_', '-')}`", *("x" * (flag in taken[verb]) for verb in verbs)] for flag in shared]
    own = {
        verb: [f"`--{flag.replace('_', '-')}`" for flag in sorted(taken[verb]) if flag not in shared] for verb in verbs
    }
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", *(f"- `{verb}` alone: {', '.join(each)}" for verb, each in own.items() if each)])


def test_the_table_of_flags_in_the_documents_is_that_of_today():
    assert table() in (Path(__file__).parents[3] / "docs" / "terminal.md").read_text()


@pytest.mark.usefixtures("few_resamples")
def test_the_examples_of_the_page_on_python_run(photographs):
    text = (Path(__file__).parents[3] / "docs" / "python.md").read_text()
    names = {"images": photographs[:8]}
    for block in text.split("```python\n")[1:]:
        exec(compile(block.split("```")[0], "docs/python.md", "exec"), names)
    assert names["result"].images.seen == 8


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("train", "version")])
def test_every_flag_is_a_keyword(verb):
    taken = set(inspect.signature(getattr(package, NAMED.get(verb, verb))).parameters)
    assert flags_of(verb) - taken - OF_TERMINALS.get(verb, set()) == {"eval": TASK, "fix": METHOD}.get(verb, set())


def test_the_flags_of_a_design_are_keywords_of_lab():
    taken = {flag.removeprefix("--").replace("-", "_") for flag in flags(LabRun) if not flag.startswith("--no-")}
    assert taken - set(inspect.signature(package.lab).parameters) == {"dry_run"}


@pytest.mark.parametrize("verb", ["scan", "maps", "eval", "extract", "discover", "doctor", "fix", "repairs"])
def test_one_idea_has_one_spelling(verb):
    wanted = EVERYWHERE
    wanted += OVER_IMAGES if verb != "doctor" else ()
    wanted += IN_BATCHES if verb not in ("doctor", "discover") else ()  # discover sees each image at its own resolution
    assert set(wanted) <= flags_of(verb)


def test_a_keyword_that_nothing_takes_is_one_sentence():
    with pytest.raises(UserError, match=r"no keyword 'sise' in vitreg.scan. Did you mean 'size'"):
        package.scan("planted:clean", "fotos", sise=3)


def test_keywords_change_options_that_are_given():
    with pytest.raises(UserError, match="limit must be at least 1, not 0"):
        package.scan("planted:clean", "fotos", options=package.ScanOptions(size=64), limit=0)
    with pytest.raises(UserError, match=r"no fit 'crob'\. Did you mean 'crop'"):
        package.extract("planted:clean", "fotos", out="out", fit="crob")
    with pytest.raises(UserError, match="options of maps are a MapsOptions, not a ScanOptions"):
        package.maps("planted:clean", "fotos", options=package.ScanOptions())


def test_a_task_is_named_with_its_settings():
    with pytest.raises(UserError, match="k must be at least 1"):
        package.evaluate("planted:clean", "knn", "fotos", k=(0,))
    with pytest.raises(UserError, match=r"no task 'knnn'\. Did you mean 'knn'"):
        package.evaluate("planted:clean", "knnn", "fotos")
