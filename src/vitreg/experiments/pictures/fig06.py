"""Fig. 6: the scheme. Registers join the tokens behind the patch embedding, without position, and are dropped at the output."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.outliers import note_of
from vitreg.experiments.pictures.scheme import Scheme, figure
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured
from vitreg.writing.files import write_text

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

PLACELESS = Says(
    id="no-position",
    says="Registers are added after the patch embedding and have no position.",
    criterion="the tables of positions are changed at random: every patch that enters the first block changes, and no register does",
)
DROPPED = Says(
    id="dropped",
    says="At the output only the patch and class tokens are used, registers are discarded.",
    criterion=(
        "the registers are changed at random after the last block: nothing that the model returns changes, but the registers themselves "
        "where it returns all tokens"
    ),
)
SCHEME = "scheme.json"


def measure(setting: Setting, model: str) -> Measured:
    """Read the layout of the tokens, and change positions and registers to see what depends on them."""
    import vitreg
    from vitreg.experiments.pictures.wiring import wiring  # needs torch

    def work(folder: Path) -> dict[str, Any]:
        numbers, order = wiring(vitreg.load(model, **setting.loads(model)), setting.seed)
        scheme = Measured(subject=model, note=note_of(model), numbers=numbers, series={"order": order})
        write_text(folder / SCHEME, scheme.model_dump_json())
        return {}

    folder, key = setting.done(f"scheme of {model}", {"verb": "load"}, model, work)
    found = Measured.model_validate_json((folder / SCHEME).read_bytes())
    return found.model_copy(update={"jobs": {"scheme": key}})


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each model that has registers."""
    return [*PLACELESS.of_each(measured, _placeless), *DROPPED.of_each(measured, _dropped)]


def _placeless(found: Measured) -> Claim:
    n = found.numbers
    if not n["registers"]:
        return PLACELESS.outcome(found.subject, None, "It has no registers.")
    if not n["registers_at_input"]:
        return PLACELESS.outcome(found.subject, None, "Its registers join in a later block.")
    if not n["tables"] or not n["patches_moved"]:
        return PLACELESS.outcome(found.subject, None, "Its patches do not get their positions from a table.")
    changed = [(n[f"{name}_moved"] or 0.0, n[name] or 0.0) for name in ("registers", "patches")]
    words = "Changed: {:.0f} of {:.0f} registers, and {:.0f} of {:.0f} patches.".format(*changed[0], *changed[1])
    return PLACELESS.exactly(found.subject, changed[0][0] == 0 and changed[1][0] == changed[1][1], words)


def _dropped(found: Measured) -> Claim:
    n = found.numbers
    if not n["registers"]:
        return DROPPED.outcome(found.subject, None, "It has no registers.")
    if n["output_changed"] is None:
        return DROPPED.outcome(
            found.subject, None, "It returns all its tokens, and leaves to the reader which of them count."
        )
    if n["output_changed"]:
        return DROPPED.exactly(found.subject, False, "What it returns depends on the registers' last state.")
    return DROPPED.exactly(found.subject, True, "What it returns stays the same.")


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """The scheme of each model with registers, or of the first model where none has any."""
    there = [(place, each) for place, each in enumerate(record.measured) if not each.failed]
    shown = [(place, each) for place, each in there if each.numbers["registers"]] or there[:1]
    return {f"{record.id}-{place}": (each.subject, partial(figure, Scheme.of(each))) for place, each in shown}


EXPERIMENT = Experiment(
    id="fig6", label="Fig. 6", title="Registers in the sequence of tokens", measure=measure, claims=claims, draw=draw,
    published={"registers": "4 in most experiments", "outputs used": "patch and class tokens"},
    protocol="N learned tokens are added to the input, and discarded at the output, in training as in use.",
    ours="Drawn from the order in which the model itself holds its tokens. Nothing is said of its training.",
)  # fmt: skip
