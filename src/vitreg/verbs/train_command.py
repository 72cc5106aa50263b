"""The command line of `train`: a preset or a file of settings, changed key by key, with the dataclasses as its manual."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import AvoidSubcommands, arg

from vitreg.config import decode, encode, merge, read
from vitreg.errors import UserError
from vitreg.presets import PRESETS, preset
from vitreg.train.settings import TrainConfig

EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143


@dataclass(frozen=True, kw_only=True)
class Command:
    """Train a Vision Transformer with registers."""

    config: Annotated[TrainConfig, arg(name="")]
    out: Annotated[Path | None, arg(help="Folder of the run; runs/PRESET if unset.")] = None
    resume: Annotated[Path | None, arg(help="Go on with the run in this folder; settings come from there.")] = None
    dry_run: bool = False
    """Build everything, take one step, and say what the run would need; nothing is kept."""


def run_train(argv: list[str]) -> int:
    """Parse the words after `vitreg train`, and train. Returns the exit code.

    Raises:
        UserError: for a mistake in names, settings, data or folders.
    """
    if not argv or argv in (["--help"], ["-h"]):
        print(overview())
        return 0
    argv, files = _taken(argv, "--config")
    name = argv.pop(0) if argv and not argv[0].startswith("-") else None
    _, folders = _taken(argv, "--resume")
    if sum((name is not None, bool(folders))) > 1:
        raise UserError("a resumed run has its settings already; leave the preset out.")
    base, origin = TrainConfig(), "settings"
    if name is not None:
        base, origin = preset(name), name
    elif folders:
        base = decode(TrainConfig, stored(Path(folders[-1])), where=f"{folders[-1]}/config.json")
    for file in files:
        base = decode(TrainConfig, merge(encode(base), read(Path(file))), where=file)
        origin = Path(file).stem if name is None else origin
    parsed = tyro.cli(
        AvoidSubcommands[Command],
        prog=f"vitreg train {name or '--config FILE'}",
        description=_about(name),
        default=Command(config=base),
        args=argv,
    )
    return _run(parsed, origin)


def overview() -> str:
    """Say how to call the verb, and list the presets with the first sentence of each."""
    lines = [
        "usage: vitreg train PRESET [--model.registers 4] [--data.root DIR] [--out DIR] ...",
        "       vitreg train --config FILE ...        settings as .json or .toml, over those of a preset if one is named",
        "       vitreg train --resume DIR             go on where a run stopped",
        "       vitreg train PRESET --help            every setting of a preset, with its value and meaning",
        "",
        "PRESET-regN has N registers. Presets:",
    ]
    for name, function in PRESETS.items():
        lines.append(f"  {name:28} {(function.__doc__ or '').strip().splitlines()[0]}")
    return "\n".join(lines)


def stored(folder: Path) -> dict[str, object]:
    """Return the settings of a run from its folder.

    Raises:
        UserError: if there is no run.
    """
    data = read(folder / "config.json")
    if not isinstance(data.get("train"), dict):
        raise UserError(f"{folder / 'config.json'} holds no settings of a training run.")
    return data["train"]


def _taken(argv: list[str], flag: str) -> tuple[list[str], list[str]]:
    """Take every `flag VALUE` and `flag=VALUE` out of the words; return what is left and the values."""
    left, values, words = [], [], iter(argv)
    for word in words:
        if word == flag:
            value = next(words, None)
            if value is None:
                raise UserError(f"{flag} needs a value.")
            values.append(value)
        elif word.startswith(f"{flag}="):
            values.append(word.split("=", 1)[1])
        else:
            left.append(word)
    return left, values


def _about(name: str | None) -> str:
    found = PRESETS.get(name.split("-reg")[0]) if name else None
    return (found.__doc__ if found else Command.__doc__) or ""


def _run(command: Command, origin: str) -> int:
    from vitreg.verbs.dry_run import dry_run
    from vitreg.verbs.train import train

    if command.dry_run:
        print(dry_run(command.config))
        return 0
    out = command.resume or command.out or Path("runs") / origin
    outcome = train(command.config, out, resume=command.resume is not None, quiet=False)
    if outcome.reason == "stopped":
        print(f"Stopped after step {outcome.step}; go on with: vitreg train --resume {out}", file=sys.stderr)
        return EXIT_TERMINATED if outcome.signal == signal.SIGTERM else EXIT_INTERRUPTED
    print(f"Done after {outcome.step} steps. Look inside: vitreg scan run:{out} IMAGES")
    return 0
