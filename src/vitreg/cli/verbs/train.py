"""The command line of `train`: a preset or a file of settings, overridden by flags; the dataclasses are the manual."""

from __future__ import annotations

import inspect
import shlex
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

from tyro.conf import AvoidSubcommands, arg

from vitreg.cli.command import contents, open_with, speaks
from vitreg.cli.parsing import parse
from vitreg.config import decode, encode, merge, read, read_words
from vitreg.console.exits import Exit
from vitreg.console.interrupts import import_torch
from vitreg.console.terminal import say
from vitreg.errors import UserError
from vitreg.models.settings import NOT_OF_A_BASE, OF_A_BASE
from vitreg.presets import PRESETS, preset
from vitreg.recipes.known import blamed, kinds
from vitreg.training.settings import TrainConfig
from vitreg.verbs.train.checks import check_values
from vitreg.writing.files import run_folder

GROUPS = {
    "-smoke": "To see that it works: seconds on a CPU",
    "-cpu": "To learn something without a GPU: minutes to an hour on two CPU cores",
    "-lab": "For one GPU: minutes",
    "": "As published: many GPUs",
}
"""Groups of presets by the suffix of their names, cheapest first."""
SHORT = {
    "--device": "--run.device",
    "--precision": "--run.precision",
    "--workers": "--data.workers",
    "--limit": "--data.limit",
}
"""Flags that every verb has."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """Train a Vision Transformer with registers."""

    config: Annotated[TrainConfig, arg(name="")]
    out: Annotated[Path | None, arg(help="Folder of the run; runs/PRESET if unset.")] = None
    resume: Annotated[Path | None, arg(help="Go on with the run in this folder; settings come from there.")] = None
    dry_run: bool = False
    """Build everything, take a few steps, and report what the run would need; nothing is kept."""


def run_train(argv: list[str]) -> int:
    """Read the words after `vitreg train`, and train. Returns the exit code.

    Raises:
        UserError: for a mistake in names, settings, data or folders.
    """
    if not argv or argv in (["--help"], ["-h"]):
        say(overview())
        return Exit.DONE
    words, files = _taken(argv, "--config")
    words, resumed = _taken(words, "--resume")
    words, outs = _taken(words, "--out")
    name = words.pop(0) if words and not words[0].startswith("-") else None
    if resumed and (name is not None or outs):
        raise UserError(f"a resumed run has its {'settings' if name else 'folder'}; leave {name or '--out'} out.")
    base, origin = TrainConfig(), "settings"
    if name is not None:
        base, origin = preset(name), name
    elif resumed:
        base = decode(TrainConfig, stored(run_folder(resumed[-1])), where=f"{resumed[-1]}/config.json")
    for file in files:
        base = decode(TrainConfig, merge(encode(base), read(Path(file))), where=file)
        origin = Path(file).stem if name is None else origin
    base = _with_recipe(base, words)
    if {"--help", "-h"} & set(words):
        _manual(name, base)
    dry = "--dry-run" in words
    words = [word for word in words if word != "--dry-run"]
    words = [SHORT.get(flag, flag) + given + value for flag, given, value in (word.partition("=") for word in words)]
    settings = encode(base)
    given = read_words(words, settings)
    config = decode(TrainConfig, merge(settings, given), where="the command line")
    _refuse_beside_base(config, given)
    with blamed(config.recipe):
        check_values(config)
    from vitreg.passes import ahead

    for root in filter(None, (config.data.root, config.data.val)):
        ahead.refuse_absent_data(root)
    folder = run_folder((resumed or outs or [f"runs/{origin}"])[-1])
    if not dry and not resumed:
        ahead.refuse_begun(folder)
    import_torch()
    if dry:
        return _try(config)
    return _run(config, folder, resume=bool(resumed))


def _with_recipe(base: TrainConfig, words: list[str]) -> TrainConfig:
    """Start from the defaults of the chosen recipe, so that its settings can be given on the same line."""
    chosen = _taken(words, "--recipe.kind")[1]
    found = kinds().get(chosen[-1]) if chosen and chosen[-1] != base.recipe.kind else None
    return base if found is None else replace(base, recipe=found())


def _refuse_beside_base(config: TrainConfig, given: dict[str, Any]) -> None:
    """Refuse flags that shape vitreg's ViT when the network comes from --model.base."""
    beside = [key for key in given.get("model", {}) if key not in (*OF_A_BASE, *NOT_OF_A_BASE)]
    if config.model.base is not None and beside:
        raise UserError(
            f"--model.{beside[0].replace('_', '-')} shapes vitreg's own ViT, and --model.base {config.model.base} is "
            "trained; leave one out."
        )


def overview() -> str:
    """Return the usage, and the list of presets with the first sentence of each."""
    lines = [
        "usage: vitreg train PRESET [--model.registers 4] [--data.root DIR] [--out DIR] ...",
        "       vitreg train --config FILE ...        settings as .json or .toml, over those of a preset if one is named",
        "       vitreg train --resume DIR             go on where a run stopped",
        "       vitreg train PRESET --help            every setting of a preset, with its value and meaning",
        "",
        f"As in every verb: {', '.join(f'{short} for {whole}' for short, whole in SHORT.items())}.",
        "PRESET-regN has N registers.",
    ]
    left = dict(PRESETS)
    for ending, title in GROUPS.items():
        group = {name: left.pop(name) for name in list(left) if name.endswith(ending)}
        lines += ["", f"{title}:", *contents(group)]
    lines += ["", "Recipes, by --recipe.kind or in a file of settings:", *contents(kinds())]
    return "\n".join(lines)


def stored(folder: Path) -> dict[str, object]:
    """Return the settings of a run from its folder.

    Raises:
        UserError: if there is no run.
    """
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} holds no run: there is no config.json; start one without --resume.")
    data = read(folder / "config.json")
    if not isinstance(data.get("train"), dict):
        raise UserError(f"{folder / 'config.json'} holds no settings of a training run.")
    return data["train"]


def _taken(argv: list[str], flag: str) -> tuple[list[str], list[str]]:
    """Remove every `flag VALUE` and `flag=VALUE` from the words; return the other words and the values."""
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
    if "" in values:
        raise UserError(f"{flag} is empty; name a {'file' if flag == '--config' else 'folder'}.")
    return left, values


def _manual(name: str | None, base: TrainConfig) -> NoReturn:
    """Print every setting with its value and meaning, and exit. The text is the dataclasses' docstrings."""
    found = PRESETS.get(name.split("-reg")[0]) if name else None
    parse(
        AvoidSubcommands[Command],
        ["--help"],
        prog=f"vitreg train {name or '--config FILE'}",
        description=inspect.getdoc(found or Command) or "",
        default=Command(config=base),
    )
    raise AssertionError("help ends the program")


def _try(config: TrainConfig) -> int:
    from vitreg.verbs.train.dry_run import dry_run

    with blamed(config.recipe):
        dry_run(config, say if speaks() else lambda _line: None)
    return Exit.DONE


def _run(config: TrainConfig, out: Path, *, resume: bool) -> int:
    from vitreg.verbs.train.verb import train

    outcome = train(config, out, resume=resume, quiet=False)
    if outcome.reason == "stopped":
        if speaks():
            say(f"Stopped after step {outcome.step}; go on with: vitreg train --resume {_quoted(out)}", error=True)
        return Exit.TERMINATED if outcome.signal == signal.SIGTERM else Exit.INTERRUPTED
    if speaks():
        say(
            f"Done after {outcome.step} step{'s' * (outcome.step > 1)}. Look inside: vitreg scan {_quoted(f'run:{out}')} IMAGES"
        )
        if (page := out / "report.html").is_file():
            open_with(page)
    return Exit.DONE


def _quoted(word: str | Path) -> str:
    """Quote a word for the shell, so that printed commands can be copied."""
    return shlex.quote(str(word))
