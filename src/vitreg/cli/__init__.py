"""The command line: which verbs there are, and words to verb. No logic lives here; every default is the called function's."""

from __future__ import annotations

import tyro

from vitreg.cli.looking import Compare, Demo, Doctor, Maps, Scan
from vitreg.cli.measuring import Discover, Eval, Extract
from vitreg.cli.training import Curves, Export, Train
from vitreg.cli.version import Version

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
    "export": Export,
    "demo": Demo,
    "version": Version,
}


def run(argv: list[str]) -> int:
    """Parse the command line and run its verb. Returns the exit code."""
    if argv in (["--version"], ["version"]):
        return Version()()
    if argv[:1] == ["train"]:  # its flags are the fields of the run's configuration
        from vitreg.verbs.train_command import run_train

        return run_train(argv[1:])
    if argv[:1] == ["eval"]:  # its flags are the fields of the task
        from vitreg.cli.evaluating import run_eval

        return run_eval(argv[1:])
    verb = tyro.extras.subcommand_cli_from_dict(
        VERBS,
        prog="vitreg",
        description="See and measure feature artifacts of Vision Transformers, and train them with registers.",
        args=argv or ["--help"],
    )
    return verb()
