"""Runs experiments: which models each measures, trained ones first made; what cannot be measured says why, and the others run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from vitreg.errors import UserError
from vitreg.experiments.experiment import Experiment
from vitreg.experiments.records import images_of
from vitreg.experiments.setting import Setting
from vitreg.experiments.subjects import Chosen, models_of, others_of, read_by, runs
from vitreg.experiments.trained.model import Trained
from vitreg.records.reproduction import ExperimentRecord, Measured, TrainedAs
from vitreg.report.attempts import reason_of
from vitreg.writing.files import printable


def run_all(
    experiments: Sequence[Experiment],
    setting: Setting,
    chosen: Chosen,
    *,
    named: bool,
    ended: Callable[[ExperimentRecord], object],
) -> Iterator[ExperimentRecord]:
    """Yield the records of experiments, those that train nothing first.

    Models are trained before anything is measured on them, by all processes that share the run.

    Args:
        named: whether the user named the experiments.
        ended: called with each.
    """
    experiments = [each for each in experiments if runs(each, chosen, named)]
    wanted = {each.id: [] if _lacks(each, setting) else models_of(each, chosen) for each in experiments}
    trained = [each for each in experiments if wanted[each.id]]
    for group in ([each for each in experiments if each not in trained], trained):
        _train(list(dict.fromkeys(model for each in group for model in wanted[each.id])), setting)
        subjects = {each.id: [*others_of(each, chosen), *models_of(each, chosen)] for each in group}
        for record in _records(group, subjects, setting):
            ended(record)
            yield record


def _records(
    experiments: Sequence[Experiment], subjects: Mapping[str, Sequence[str | Trained]], setting: Setting
) -> Iterator[ExperimentRecord]:
    """Yield the record of each experiment once all its subjects are measured, by turns with other processes."""
    work = {_piece(each, subject): (each, subject) for each in experiments for subject in subjects[each.id]}
    found: dict[str, Measured] = {}
    left = list(experiments)

    def ready() -> Iterator[ExperimentRecord]:
        for each in list(left):
            pieces = [_piece(each, subject) for subject in subjects[each.id]]
            if all(piece in found for piece in pieces):
                left.remove(each)
                yield _record(each, [found[piece] for piece in pieces], _data(each, subjects[each.id], setting))

    yield from ready()  # what measures nothing
    for piece in setting.jobs.in_turn(list(work)):
        found[piece] = _measured(work[piece][0], setting, work[piece][1])
        yield from ready()


def _piece(experiment: Experiment, subject: str | Trained) -> str:
    """Name the part of the work that processes take turns at."""
    return f"{experiment.id} of {subject if isinstance(subject, str) else subject.name}"


def _data(experiment: Experiment, subjects: Sequence[str | Trained], setting: Setting) -> dict[str, str]:
    """Name the data that an experiment read."""
    needs = read_by(experiment, [each for each in subjects if not isinstance(each, str)])
    named = {need: setting.called if need == "images" else getattr(setting, need) for need in needs}
    return {need: printable(data) for need, data in named.items() if data}


def _record(experiment: Experiment, measured: Sequence[Measured], data: Mapping[str, str]) -> ExperimentRecord:
    return ExperimentRecord(
        id=experiment.id, label=experiment.label, title=experiment.title, published=dict(experiment.published),
        protocol=experiment.protocol, ours=experiment.ours, measured=list(measured), claims=experiment.claims(measured),
        data=dict(data),
    )  # fmt: skip


def _train(models: Sequence[Trained], setting: Setting) -> None:
    """Train what can be trained; what cannot says so when it is measured."""
    jobs = []
    for model in models:
        try:
            jobs.append(setting.training(model))
        except UserError:
            continue
    for _ in setting.jobs.each(jobs):
        pass


def _measured(experiment: Experiment, setting: Setting, subject: str | Trained) -> Measured:
    """Measure one subject; one that cannot be measured says why."""
    found = _tried(experiment, setting, subject)
    found = found.model_copy(update={"note": "; ".join(filter(None, (found.note, _left_out(experiment, setting))))})
    if isinstance(subject, str):
        given = setting.loads(subject).get("weights")
        notes = (found.note, f"weights of {Path(given).name}" if given else "")
        return found.model_copy(update={"note": "; ".join(filter(None, notes))})
    held = TrainedAs(**asdict(subject))
    notes = (_note(setting, subject), _left_out(experiment, setting))
    return found.model_copy(update={"subject": subject.name, "trained": held, "note": "; ".join(filter(None, notes))})


def _left_out(experiment: Experiment, setting: Setting) -> str:
    """Name the data that an experiment would have used if they existed."""
    return "; ".join(setting.absent[need].rstrip(".") for need in experiment.uses if need in setting.absent)


def _note(setting: Setting, model: Trained) -> str:
    from vitreg.experiments.trained.training import in_words

    try:
        return in_words(model, setting.scale, setting.config(model))
    except UserError:
        return ""


def _lacks(experiment: Experiment, setting: Setting) -> str:
    """Say why an experiment cannot be done with these data; empty if it can."""
    return next((said for need in experiment.needs if (said := setting.lacks(need))), "")


def _tried(experiment: Experiment, setting: Setting, subject: str | Trained) -> Measured:
    name = subject if isinstance(subject, str) else subject.name
    if lacks := _lacks(experiment, setting):
        return Measured(subject=name, failed=lacks)
    try:
        spec = subject if isinstance(subject, str) else setting.trained(subject)[0]
        found = experiment.measure(setting, spec)
        return found.model_copy(update={"images": images_of(found, setting.jobs.folder)})
    except UserError as error:
        return Measured(subject=name, failed=error.sentence)
    except (OSError, RuntimeError, ValueError, ArithmeticError, LookupError) as error:
        return Measured(subject=name, failed=f"{reason_of(error)}.")
