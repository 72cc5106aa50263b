"""The command line: the list of verbs, and the call of the one named. No logic lives here; defaults come from the verbs."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping

from vitreg.cli.command import contents, manual, respelled, take_models
from vitreg.cli.parsing import parse
from vitreg.console.exits import Exit
from vitreg.console.interrupts import import_torch
from vitreg.console.terminal import say
from vitreg.errors import unknown


class _Verbs(Mapping[str, type]):
    """The command class of each verb, imported on first use, so that one verb does not wait for the others."""

    names = (
        "scan", "look", "explore", "compare", "maps", "doctor", "eval", "discover", "extract", "train", "curves", "draw", "export", "fix",
        "repairs", "reproduce", "lab", "zoo", "demo", "version",
    )  # fmt: skip
    elsewhere = {  # noqa: RUF012
        "eval": "manuals", "train": "manuals", "fix": "manuals", "version": "manuals",
        "repairs": "composite.repairs", "reproduce": "composite.reproduce", "demo": "composite.demo",
        "look": "composite.look", "explore": "composite.explore", "lab": "composite.lab", "zoo": "composite.zoo",
    }  # fmt: skip

    def __getitem__(self, name: str) -> type:
        if name not in self.names:
            raise KeyError(name)
        module = importlib.import_module(f"vitreg.cli.verbs.{self.elsewhere.get(name, name)}")
        return getattr(module, name.title())

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


VERBS = _Verbs()
WITHOUT_TORCH = {"compare", "curves", "draw", "version"}
OF_MODELS = {"scan", "maps", "doctor", "eval", "discover", "extract", "export", "fix", "repairs"}
OF_SEVERAL = {"maps", "eval", "repairs"}
KEPT = {
    "extract": "features of whole shards are kept, and the same command goes on from them",
    "repairs": "finished rows are kept, and the same command goes on from them",
    "reproduce": "finished scans and probes are kept, and the same command goes on from them",
    "lab": "each run has a checkpoint, and the same command goes on from them",
    "zoo": "finished scans are kept, and the same command goes on from them",
    "draw": "what was drawn before is kept",
    "look": "pictures that were written are kept",
    "demo": "what was written so far is kept, and the same command begins anew",
    "train": "a checkpoint that was written is kept, and vitreg train --resume goes on from it",
}
"""What an interrupted verb keeps. Others write at their end; scan and discover write the images seen so far."""
STORED = ("knn", "linear", "logistic", "segmentation", "depth")
"""Tasks of eval that store features."""


def run(argv: list[str]) -> int:
    """Parse the command line and run its verb. Returns the exit code.

    Raises:
        UserError: for a user's mistake.
        KeyboardInterrupt: with the sentence on what is kept.
    """
    name, words = (argv[0], argv[1:]) if argv else ("--help", [])
    try:
        return _run(name, words)
    except KeyboardInterrupt as stop:
        stored = name == "eval" and not {*STORED}.isdisjoint(",".join(words).split(","))
        kept = KEPT.get("extract" if stored else name, "nothing was written")
        raise KeyboardInterrupt(*(stop.args or [kept])) from None


def _run(name: str, words: list[str]) -> int:
    if name == "--version":
        return VERBS["version"]()()
    if name in ("--help", "-h"):
        say(overview())
        return Exit.DONE
    if name.startswith("-"):
        raise unknown("flag", name, ("--help", "--version"), "vitreg")
    if name not in VERBS:
        raise unknown("verb", name, VERBS, "vitreg")
    if name == "train":  # its flags are the fields of the run's configuration
        from vitreg.cli.verbs.train import run_train

        return run_train(words)
    if name == "fix":  # its flags are those of the method, too
        from vitreg.cli.verbs.fix import run_fix

        return run_fix(words)
    if name == "lab":  # its flags are those of the experiment
        from vitreg.cli.verbs.composite.lab import run_lab

        return run_lab(words)
    words = respelled(words, name)
    if name in OF_MODELS:
        words = take_models(words, name, several=name in OF_SEVERAL)
    if name == "eval":  # its flags are those of the task, too
        from vitreg.cli.verbs.eval import run_eval

        return run_eval(words)
    verb = parse(VERBS[name], words, prog=f"vitreg {name}", description=manual(VERBS[name]))
    verb.check()
    if name not in WITHOUT_TORCH:
        import_torch()
    return verb()


def overview() -> str:
    """Return the usage, and the list of verbs with the first sentence of each manual."""
    lines = [
        "usage: vitreg VERB ...",
        "       vitreg VERB --help    every setting of a verb, with its value and meaning",
        "       vitreg --version",
        "",
        "See and measure feature artifacts of Vision Transformers, and train them with registers.",
        "For a first look at a photo: vitreg look photo.jpg",
        "Without a model or images of your own: vitreg demo",
        "",
        "Verbs:",
    ]
    return "\n".join([*lines, *contents(VERBS)])
