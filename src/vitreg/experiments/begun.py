"""A training of a job that was killed before its first checkpoint begins anew, where its folder holds nothing but its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from vitreg.config import encode
from vitreg.errors import UserError
from vitreg.training import checkpoint
from vitreg.training.settings import TrainConfig
from vitreg.writing.ledger import read_ledger

RECORD = "config.json"
OF_A_START = (RECORD, "metrics.jsonl", ".vitreg.lock", ".vitreg.json")
"""What a run has written before its first checkpoint, besides what its list of files proves and a half-written checkpoint."""


def goes_on(config: TrainConfig, folder: Path) -> bool:
    """Tell whether a run goes on from a checkpoint; if not, empty its folder of what the same run began.

    Raises:
        UserError: if the folder holds files that are not proven to be this run's. They stay.
    """
    if (folder / RECORD).exists() and checkpoint.latest(folder) is not None:
        return True
    held = [path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    ledger = read_ledger(folder)
    own = all(_of_a_start(path) or ledger.proves(path.as_posix()) for path in held)
    if held and not (own and _is_of(config, folder / RECORD)):
        raise UserError(
            f"{folder} holds files that are not this run's; move them away, or name another place with --out."
        )
    shutil.rmtree(folder)
    folder.mkdir()
    return False


def _of_a_start(path: Path) -> bool:
    return str(path) in OF_A_START or (path.parts[0] == "checkpoints" and path.parts[1].startswith("."))


def _is_of(config: TrainConfig, record: Path) -> bool:
    try:
        return json.loads(record.read_bytes())["train"] == json.loads(json.dumps(encode(config)))
    except (OSError, ValueError, LookupError, TypeError):
        return False
