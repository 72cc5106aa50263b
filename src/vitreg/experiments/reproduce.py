"""`reproduce`: measure what the paper measured, judge its claims, and draw its figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from vitreg.errors import UserError
from vitreg.experiments.known import EXPERIMENTS, experiments_named
from vitreg.experiments.options import ReproduceOptions
from vitreg.experiments.shared.absent import absent, refuse_absent
from vitreg.experiments.shared.adding import held_in, merged, refuse_other, settings_of
from vitreg.experiments.shared.processes import beside, processes_of
from vitreg.experiments.shared.run import Run
from vitreg.machine.runtime import choose_device, provenance
from vitreg.passes import ahead
from vitreg.passes.drawing import as_written, noted
from vitreg.passes.jobs import Job, Jobs
from vitreg.passes.options import ModelOptions, split, takes
from vitreg.records.reproduction import ExperimentRecord, Reproduction
from vitreg.report.attempts import Attempts
from vitreg.writing.files import output_folder, printable, write_text
from vitreg.writing.outputs import RECORD, Outputs

LEDGER = "claims.json"


@takes(ReproduceOptions, ModelOptions)
def reproduce(
    ids: Sequence[str] = (),
    *,
    out: str | Path,
    only: Literal["claims", "figures"] | None = None,
    weights: str | Path | None = None,
    options: ReproduceOptions | None = None,
    started: Callable[[Job], object] = lambda job: None,
    waits: Callable[[Job], object] = lambda job: None,
    ended: Callable[[ExperimentRecord], object] = lambda record: None,
    **keywords: Any,
) -> Reproduction:
    """Run experiments of the paper on some models, and write a page of claims, a ledger of them and the figures.

    Args:
        ids: such as fig3 and table1; all without.
        out: folder for result.json, claims.json, report.html, figures/, and jobs/ and runs/, from which an interrupted run
            goes on.
        only: judge or draw again from the records of an earlier run in `out`, without a model.
        weights: a checkpoint for the one model named.
        started, waits: called with a job that begins here, or that another process is doing.
        ended: called with each experiment.
        options: see `ReproduceOptions`; keywords override them.
    A record in `out` that was measured with the same settings is added to: rows of new experiments and models join it, and claims
    are judged on all of them.

    Returns:
        the record; an experiment whose model fails or whose data do not exist says why, and the others run.
    Raises:
        UserError: for an unknown id, data that do not exist where every experiment needs them, a folder that cannot be written,
            or one whose record was measured with other settings or cannot be read.
    """
    options, loading = split(ReproduceOptions, options, keywords, "reproduce")
    if loading.get("precision", "auto") == "auto":
        loading["precision"] = "fp32"  # a claim should not depend on what a machine is fast at
    ahead.refuse_weights(weights, len(options.models))
    ahead.refuse_absent_inputs(files=[weights])
    begun, wanted = datetime.now(UTC), {each.id for each in experiments_named(tuple(ids))}
    if only is not None and not (Path(out) / RECORD).exists():
        raise UserError(f"{Path(out) / RECORD} does not exist; leave out --only to measure first.")
    folder = output_folder(Path(out))
    outputs = ahead.reproduce_outputs(folder, *options.images, weights)
    outputs.check()
    if only is not None:
        return _again(outputs, only, wanted)
    run = Run(tuple(ids), folder, options, loading, weights)
    refuse_absent(absent(options), experiments_named(run.ids), options, bool(run.ids))
    _held(run)
    with Jobs(folder, started, waits) as jobs:
        return _measured(run, jobs, outputs, begun, ended)


def _measured(
    run: Run, jobs: Jobs, outputs: Outputs, begun: datetime, ended: Callable[[ExperimentRecord], object]
) -> Reproduction:
    """Measure, beside other processes, and add what was found to the record of the folder."""
    device, options = choose_device(run.loading.get("device")), run.options
    processes = processes_of(run, device.type)
    with beside(processes - 1, run):
        records = sorted(run.records(jobs, ended), key=lambda each: list(EXPERIMENTS).index(each.id))
        made = provenance(
            started=begun,
            device=device,
            precision=str(run.loading["precision"]),
            processes=processes,
            seed=options.seed,
        )
        result = Reproduction(
            scale=options.scale, images=printable(run.called or "no images"), experiments=records, provenance=made,
            settings=settings_of(run),
        )  # fmt: skip
        with jobs.alone():  # another process on this folder may end at the same moment
            held = _held(run)
            return _written(outputs, result if held is None else merged(held, result))


def _held(run: Run) -> Reproduction | None:
    """Return the record of the folder. Raises UserError for one that nothing can be added to."""
    held = held_in(run.folder)
    if held is not None:
        refuse_other(held, run, run.folder)
    return held


def _again(outputs: Outputs, only: str, ids: set[str]) -> Reproduction:
    """Judge or draw again what an earlier run measured."""
    path = outputs.folder / RECORD
    try:
        held = Reproduction.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UserError(f"{path} is not a record of this version's `vitreg reproduce`.") from error
    if only == "claims" or any(each.id not in EXPERIMENTS for each in held.experiments):
        try:
            judged = [
                _judged(each) if each.id in ids or each.id not in EXPERIMENTS else each for each in held.experiments
            ]
        except LookupError as error:  # an experiment or a number of another version
            raise UserError(
                f"{path} holds what this version's `vitreg reproduce` does not know ({error}); measure again without --only."
            ) from error
        held = held.model_copy(update={"experiments": judged})
    return _written(outputs, held)


def _judged(each: ExperimentRecord) -> ExperimentRecord:
    """Return a record with the claims, and with what is published, as this version has them."""
    known = EXPERIMENTS[each.id]
    texts = {"published": dict(known.published), "protocol": known.protocol, "ours": known.ours}
    return each.model_copy(update={**texts, "claims": known.claims(each.measured)})


def _written(outputs: Outputs, result: Reproduction) -> Reproduction:
    """Write record and ledger, then the figures and the page; what cannot be drawn is listed."""
    from vitreg.experiments.drawn import draw_again
    from vitreg.report.reproduction.ledger import ledger

    def write(place: Path, held: Reproduction) -> None:
        write_text(place / RECORD, held.model_dump_json(indent=1))
        write_text(place / LEDGER, json.dumps(ledger(held), indent=1))

    outputs.publish(lambda place: write(place, result), more=True)
    attempts = Attempts()
    with outputs.adding() as place:
        draw_again(as_written(result), outputs.folder, place, attempts)
        return noted(result, place / RECORD, attempts)
