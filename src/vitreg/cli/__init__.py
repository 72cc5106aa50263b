"""The command line: which verbs there are, and words to verb. No logic lives here; every default is the called function's."""

from __future__ import annotations

from vitreg.cli.command import contents, manual, take_models
from vitreg.cli.parsing import parse
from vitreg.cli.verbs.compare import Compare
from vitreg.cli.verbs.curves import Curves
from vitreg.cli.verbs.demo import Demo
from vitreg.cli.verbs.discover import Discover
from vitreg.cli.verbs.doctor import Doctor
from vitreg.cli.verbs.draw import Draw
from vitreg.cli.verbs.eval import Eval, run_eval
from vitreg.cli.verbs.export import Export
from vitreg.cli.verbs.extract import Extract
from vitreg.cli.verbs.maps import Maps
from vitreg.cli.verbs.scan import Scan
from vitreg.cli.verbs.train import Train, run_train
from vitreg.cli.verbs.version import Version
from vitreg.console.exits import Exit
from vitreg.console.interrupts import import_torch
from vitreg.console.terminal import say
from vitreg.errors import unknown

VERBS = {
    "scan": Scan,
    "compare": Compare,
    "maps": Maps,
    "doctor": Doctor,
    "eval": Eval,
    "discover": Discover,
    "extract": Extract,
    "train": Train,
    "curves": Curves,
    "draw": Draw,
    "export": Export,
    "demo": Demo,
    "version": Version,
}
WITHOUT_TORCH = {"compare", "curves", "draw", "version"}
OF_MODELS = {"scan", "maps", "doctor", "eval", "discover", "extract"}
OF_SEVERAL = {"maps", "eval"}
KEPT = {
    "extract": "features of whole shards are kept, and the same command goes on from them",
    "draw": "what was drawn before is kept",
    "demo": "what was written so far is kept, and the same command begins anew",
    "train": "a checkpoint that was written is kept, and vitreg train --resume goes on from it",
}
"""What an interrupted verb leaves; the others write everything at their end. scan and discover write what they have seen."""
STORED = ("knn", "linear", "logistic", "segmentation", "depth")
"""Tasks of eval that keep features on disk."""


def run(argv: list[str]) -> int:
    """Parse the command line and run its verb. Returns the exit code.

    Raises:
        UserError: for a mistake of the user's.
        KeyboardInterrupt: with the sentence on what is kept.
    """
    name, words = (argv[0], argv[1:]) if argv else ("--help", [])
    try:
        return _run(name, words)
    except KeyboardInterrupt as stop:
        stored = name == "eval" and words[1:2] and words[1] in STORED
        kept = KEPT.get("extract" if stored else name, "nothing was written")
        raise KeyboardInterrupt(*(stop.args or [kept])) from None


def _run(name: str, words: list[str]) -> int:
    if name == "--version":
        return Version()()
    if name in ("--help", "-h"):
        say(overview())
        return Exit.DONE
    if name.startswith("-"):
        raise unknown("flag", name, ("--help", "--version"), "vitreg")
    if name not in VERBS:
        raise unknown("verb", name, VERBS, "vitreg")
    if name == "train":  # its flags are the fields of the run's configuration
        return run_train(words)
    if name in OF_MODELS:
        words = take_models(words, name, several=name in OF_SEVERAL)
    if name == "eval":  # its flags are those of the task, too
        return run_eval(words)
    verb = parse(VERBS[name], words, prog=f"vitreg {name}", description=manual(VERBS[name]))
    verb.check()
    if name not in WITHOUT_TORCH:
        import_torch()
    return verb()


def overview() -> str:
    """Say how to call vitreg, and list the verbs with the first sentence of each."""
    lines = [
        "usage: vitreg VERB ...",
        "       vitreg VERB --help    every setting of a verb, with its value and meaning",
        "       vitreg --version",
        "",
        "See and measure feature artifacts of Vision Transformers, and train them with registers.",
        "For a first look, without a model or images of your own: vitreg demo",
        "",
        "Verbs:",
    ]
    return "\n".join([*lines, *contents(VERBS)])
