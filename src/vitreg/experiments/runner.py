"""Runs experiments: which models each measures, trained ones first made; what cannot be measured says why, and the others run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from vitreg.errors import UserError
from vitreg.experiments.experiment import Experiment
from vitreg.experiments.lacking import LACKING
from vitreg.experiments.setting import Setting
from vitreg.experiments.subjects import Chosen, models_of, others_of, runs
from vitreg.experiments.trained.model import Trained
from vitreg.records.reproduction import ExperimentRecord, Measured, TrainedAs
from vitreg.report.attempts import reason_of


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
    wanted = {each.id: models_of(each, chosen) for each in experiments}
    to_train = list(dict.fromkeys(model for models in wanted.values() for model in models))
    for each in sorted(experiments, key=lambda each: bool(wanted[each.id])):
        if wanted[each.id]:
            _train(to_train, setting)
            to_train = []
        measured = [_measured(each, setting, subject) for subject in (*others_of(each, chosen), *wanted[each.id])]
        record = ExperimentRecord(
            id=each.id, label=each.label, title=each.title, published=dict(each.published), protocol=each.protocol,
            ours=each.ours, measured=measured, claims=each.claims(measured),
        )  # fmt: skip
        ended(record)
        yield record


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
    if isinstance(subject, str):
        given = setting.loads(subject).get("weights")
        notes = (found.note, f"weights of {Path(given).name}" if given else "")
        return found.model_copy(update={"note": "; ".join(filter(None, notes))})
    held = TrainedAs(**asdict(subject))
    return found.model_copy(update={"subject": subject.name, "trained": held, "note": _note(setting, subject)})


def _note(setting: Setting, model: Trained) -> str:
    from vitreg.experiments.trained.training import in_words

    try:
        return in_words(model, setting.scale, setting.config(model))
    except UserError:
        return ""


def _tried(experiment: Experiment, setting: Setting, subject: str | Trained) -> Measured:
    name = subject if isinstance(subject, str) else subject.name
    for need, given in LACKING.items():
        if need in experiment.needs and not getattr(setting, need):
            return Measured(subject=name, failed=given)
    try:
        spec = subject if isinstance(subject, str) else setting.trained(subject)[0]
        return experiment.measure(setting, spec)
    except UserError as error:
        return Measured(subject=name, failed=error.sentence)
    except (OSError, RuntimeError, ValueError, ArithmeticError, LookupError) as error:
        return Measured(subject=name, failed=f"{reason_of(error)}.")
