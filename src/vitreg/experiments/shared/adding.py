"""What a run adds to the record that its folder holds: nothing measured is lost, and nothing measured otherwise is mixed in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import vitreg
from vitreg.documents import parse_json
from vitreg.errors import UserError
from vitreg.experiments.known import EXPERIMENTS, experiments_named
from vitreg.experiments.shared.run import READING, Run
from vitreg.experiments.subjects import models_of, read_by
from vitreg.features.key import hash_of_data
from vitreg.passes.jobs import HOW_FAST
from vitreg.records.reproduction import ExperimentRecord, Measured, Reproduction
from vitreg.specs import whole
from vitreg.writing.files import printable
from vitreg.writing.outputs import ELSEWHERE, RECORD

SCHEMA = "vitreg.reproduce/1"
OF_TRAINING = ("longer", "seeds")  # asked of runs that train something only
ASIDE = ("device", "trust")  # of how models are loaded: change no number
NOT_AGAIN = "measured by an earlier run, and not again: "
Settings = Mapping[str, Any]


def held_in(folder: Path) -> Reproduction | None:
    """Return the record of a folder; None if there is none.

    Raises:
        UserError: for a record that this version cannot read. It may be all that is left of a long run, so it stays.
    """
    path = folder / RECORD
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); {ELSEWHERE}.") from error
    try:
        return Reproduction.model_validate_json(text)
    except ValidationError as error:
        schema = _schema(text)
        what = "damaged or of another version" if schema in (None, SCHEMA) else f"of the schema {schema}, not {SCHEMA}"
        raise UserError(f"{path} is {what}; {ELSEWHERE}.") from error


def settings_of(run: Run) -> dict[str, Any]:
    """Return what another run must share to add to the record of this one, as JSON holds it.

    `models` and `sets` say of each model and set what tells whether it is the same: a record may hold more of them than a run names.
    """
    options, sets = run.options, {}
    for need in run.reads:
        for word in options.images if need == "images" else (options.data[need],):
            sets |= {word: hash_of_data(word)} if word else {}
    trains, looks = bool({"train", "captions"} & set(run.reads)), bool(run.reads)
    names = ("scale", "seed", *(OF_TRAINING if trains else ()), *(READING if looks else ()))
    asked = {name: getattr(options, name) for name in names if name not in HOW_FAST}
    given = {name: value for name, value in run.loading.items() if name not in ASIDE and value not in (None, False)}
    weights = "" if run.weights is None else str(run.weights)
    models = {spec: [weights, hash_of_data(weights or whole(spec).partition(":")[2])] for spec in options.models}
    held = {
        **asked,
        **(given if looks else {}),
        "vitreg": vitreg.__version__,
        "images": list(options.images) or [run.called],
    }
    return json.loads(json.dumps({**held, "models": models, "sets": sets}, default=str))


def refuse_other(held: Reproduction, run: Run, folder: Path) -> None:
    """Refuse to add to a record that was measured with other settings.

    Raises:
        UserError: which names the difference.
    """
    own = settings_of(run)
    told = next(_differences(held, own, run), None)
    if told is not None:
        raise UserError(f"{folder} holds what was measured {told}; name another place with --out.")


def merged(held: Reproduction, added: Reproduction) -> Reproduction:
    """Return a record with what another run of the same settings measured.

    Rows of the same subject are replaced, unless the new one has no numbers; claims are judged again on all rows.

    Raises:
        UserError: if this version cannot judge what the record holds.
    """
    found = {each.id: each for each in held.experiments}
    for each in added.experiments:
        found[each.id] = _together(found[each.id], each) if each.id in found else each
    ids = [*EXPERIMENTS, *(id for id in found if id not in EXPERIMENTS)]
    settings = {**held.settings, **added.settings}
    for name in ("models", "sets"):
        settings[name] = {**held.settings.get(name, {}), **added.settings.get(name, {})}
    read = any("images" in each.data for each in added.experiments)
    if not read and held.settings:
        settings["images"] = held.settings["images"]
    runs = [each for each in (*held.earlier, held.provenance) if each.command != added.provenance.command]
    return added.model_copy(
        update={
            "experiments": [found[id] for id in ids if id in found],
            "images": added.images if read else held.images,
            "settings": settings,
            "earlier": runs,
        }
    )


def _together(held: ExperimentRecord, added: ExperimentRecord) -> ExperimentRecord:
    rows: dict[str, Measured] = {each.subject: each for each in held.measured}
    for each in added.measured:
        before = rows.get(each.subject)
        if before is None or before.failed or not each.failed:
            rows[each.subject] = each
        else:
            again = f"{NOT_AGAIN}{each.failed}"
            notes = [note for note in before.note.split("; ") if note and not note.startswith(NOT_AGAIN)]
            rows[each.subject] = before.model_copy(update={"note": "; ".join([*notes, again])})
    measured = list(rows.values())
    try:
        claims = EXPERIMENTS[added.id].claims(measured)
    except LookupError as error:
        raise UserError(
            f"the record holds numbers of {added.id} that this version does not know ({error}); {ELSEWHERE}."
        ) from error
    return added.model_copy(update={"measured": measured, "claims": claims, "data": {**held.data, **added.data}})


def _differences(held: Reproduction, own: Settings, run: Run) -> Iterator[str]:
    """Say, one by one, how a record was measured otherwise: with which option, and which this run has."""
    before = held.settings or _of_an_older(held)
    looked = "size" in before and "size" in own  # what reads nothing has no settings of reading
    for name in dict.fromkeys((*before, *own)):
        both = name in before and name in own
        if name in ("models", "sets", "images") or (not both and (name in OF_TRAINING or not looked)):
            continue
        if before.get(name) != own.get(name):
            yield f"{_with(name, before.get(name))}, not {_with(name, own.get(name))}"
    if "images" in run.reads and before["images"] not in (["no images"], [""]):
        yield from _of_data("images", before["images"], own["images"], before, own)
    for name, known in own["models"].items():
        if before["models"].get(name, known) != known:
            yield f"on {printable(name)} when its weights were others"
    earlier = {each.id: each for each in held.experiments}
    for each in experiments_named(run.ids):
        data = earlier[each.id].data if each.id in earlier else {}
        for need in read_by(each, models_of(each, run.options)):
            if need != "images" and need in data:
                yield from _of_data(need, [data[need]], [run.options.data[need]], before, own)


def _of_data(need: str, before: list[str], now: list[str], settings: Settings, own: Settings) -> Iterator[str]:
    """Say how data differ: files are the same if their hash is, however they are spelled."""
    one, other = ([held["sets"].get(word) for word in words] for held, words in ((settings, before), (own, now)))
    if not all((*one, *other)):  # without hashes the names decide
        one, other = list(map(printable, before)), list(map(printable, now))
    if one != other:
        changed = ", as it was then" if before == now else f", not {_with(need, ', '.join(now))}"
        yield f"{_with(need, ', '.join(before))}{changed}"


def _of_an_older(held: Reproduction) -> dict[str, Any]:
    """Return what a record without settings says of them."""
    seeds = {each.trained.seed for record in held.experiments for each in record.measured if each.trained is not None}
    made = held.provenance
    found = {"scale": held.scale, "seed": made.seed, "precision": made.precision, "vitreg": made.vitreg}
    return {**found, **({"seeds": len(seeds)} if seeds else {}), "images": [held.images], "models": {}, "sets": {}}


def _with(name: str, value: object) -> str:
    """Write an option as it is typed."""
    if name == "vitreg":
        return f"by vitreg {value}"
    flag = f"--{name.replace('_', '-')}"
    if value is None or value is False or value == "":
        return f"without {flag}"
    words = "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return f"with {flag}" if value is True else f"with {flag} {printable(words)}"


def _schema(text: bytes) -> str | None:
    try:
        return parse_json(text).get("schema")
    except (ValueError, AttributeError):
        return None
