"""What is wrong with a command line is one sentence; what --help shows reads as a person writes."""

import re
from itertools import pairwise

import pytest
from tests.end_to_end.conftest import one_sentence

from vitreg.cli import VERBS
from vitreg.presets import PRESETS
from vitreg.repair.settings import names
from vitreg.verbs.eval.registry import TASKS

MISTAKES = {
    "scna m x": "no verb 'scna' in vitreg. Did you mean 'scan'?",
    "--verison": "no flag '--verison' in vitreg. Did you mean '--version'?",
    "scan": "vitreg scan needs SPEC; see vitreg scan --help.",
    "scan m x --sise 3": "no flag '--sise' in vitreg scan. Did you mean '--size' or '--seed'?",
    "scan m x --fit pda": "--fit takes pad, crop or resize, not 'pda'. Did you mean 'pad'?",
    "scan m x --limit abc": "--limit takes a whole number, not 'abc'; see vitreg scan --help.",
    "scan m x --limit=1.5": "--limit takes a whole number, not '1.5'; see vitreg scan --help.",
    "scan m x --fail-above much": "--fail-above takes a number, not 'much'; see vitreg scan --help.",
    "scan m x --limit": "--limit needs a whole number; see vitreg scan --help.",
    "scan m x --random=yes": "vitreg scan does not take 'yes'; see vitreg scan --help.",
    "scan m x --devise cpu": "no flag '--devise' in vitreg scan. Did you mean '--device'?",
    "doctor m n": "vitreg doctor does not take 'n'; see vitreg doctor --help.",
    "export r": "vitreg export needs --out and --to; see vitreg export --help.",
    "eval m knn d --k a": "--k takes whole numbers, not 'a'; see vitreg eval SPEC knn --help.",
    "eval m knn d --kk 3": "no flag '--kk' in vitreg eval SPEC knn. Did you mean '--k'?",
    "eval m knn d --token both": "--token takes cls, mean or cls+mean, not 'both'.",
    "eval m knnn d": "no task 'knnn'. Did you mean 'knn'?",
    "train no-such-preset": "no preset 'no-such-preset'; vitreg train lists them.",
    "train deit3-smoke --model.registrs 3": "no setting '--model.registrs'. Did you mean '--model.registers' or",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_in_the_words_is_one_sentence_with_the_nearest_choice(vitreg, words):
    assert one_sentence(vitreg(*words.split())).startswith(f"vitreg: {MISTAKES[words]}")


@pytest.mark.parametrize("words", ["scan m x --out", "maps m x --out", "eval m knn d --out", "discover m x --boxes",
                                   "extract m x --out", "curves r --out", "compare a b --out", "demo --out",
                                   "export r --to timm --out"])  # fmt: skip
def test_an_empty_path_is_no_folder_to_write_to(vitreg, words):
    flag = words.split()[-1]
    assert one_sentence(vitreg(*words.split(), "")).startswith(f"vitreg: {flag} takes a path, not '';")


HELPS = [
    "--help",
    *(f"{verb} --help" for verb in VERBS),
    *(f"eval {task} --help" for task in TASKS),
    *(f"fix {method} --help" for method in names()),
    *(f"train {name} --help" for name in PRESETS),
]


@pytest.mark.parametrize("words", HELPS)
def test_help_shows_no_value_as_python_writes_it(vitreg, words):
    done = vitreg(*words.split())
    assert done.returncode == 0
    text = re.sub(r"\s+", " ", re.sub("[│╭╮╰╯─]", " ", done.stdout))
    assert "usage: vitreg" in text or "vitreg 0" in text
    assert not re.findall(
        r"\(default: ?(?:None|''|\(|\[|<[^)]*|lambda[^)]*)?\)|\{None\}|<function|<class|<object", text
    )


@pytest.mark.parametrize("words", HELPS)
def test_help_breaks_a_line_only_where_the_next_word_does_not_fit(vitreg, words):
    lines = vitreg(*words.split()).stdout.replace("│", " ").splitlines()
    for line, following in pairwise(lines):
        column = len(following) - len(following.lstrip())
        goes_on = column > 5 and line[:column].endswith("  ") and line[column : column + 1].strip()
        if goes_on:
            assert len(line.rstrip()) + 1 + len(following.split()[0]) > len(line) - 2, f"{line}\n{following}"


@pytest.mark.parametrize("words", ["scan m x --help", "eval knn --help"])
def test_what_may_be_left_out_is_shown_as_unset_and_takes_its_value(vitreg, words):
    assert re.search(r"--limit INT\b.*\(default: unset\)", re.sub(r"\s+", " ", vitreg(*words.split()).stdout))
