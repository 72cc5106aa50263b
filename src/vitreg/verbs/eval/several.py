"""Several models and tasks: one folder per pair, and one table of all. Complete pairs are not measured again."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from vitreg.backbones import Backbone
from vitreg.backbones.loading.load import opened
from vitreg.errors import UserError
from vitreg.features.key import hash_of_data
from vitreg.machine.runtime import Processes, processes, versions
from vitreg.passes import ahead
from vitreg.passes.drawing import as_written, noted
from vitreg.passes.options import ModelOptions, split, takes
from vitreg.report.attempts import Attempts, reason_of
from vitreg.report.evaluation.table import draw_evaluations
from vitreg.results import EvalPair, EvalResult, Evaluations
from vitreg.verbs.eval.options import WITHOUT_DATA, EvalOptions
from vitreg.verbs.eval.registry import task_named
from vitreg.verbs.eval.task import Task
from vitreg.verbs.eval.verb import evaluate, settings_of, task_name, title_of
from vitreg.writing.files import output_folder, printable, texts
from vitreg.writing.ledger import read_ledger
from vitreg.writing.outputs import RECORD

LETTERS = 80  # of a model's name in its folder's name
Model = str | nn.Module | Backbone


@takes(EvalOptions, ModelOptions)
def evaluate_all(
    models: Sequence[Model],
    tasks: Sequence[Task | str],
    data: str | Path = "",
    *,
    out: str | Path,
    weights: str | Path | None = None,
    options: EvalOptions | None = None,
    quiet: bool = True,
    ended: Callable[[EvalPair], object] = lambda pair: None,
    **keywords: Any,
) -> Evaluations:
    """Measure several models by several tasks, with one table of the results.

    A pair whose folder holds a complete record of the same model, weights, task, data and settings is not measured again.
    A pair that fails is listed with its reason, and the others continue.

    Args:
        models: specs or loaded backbones; a spec is loaded once for all tasks, and freed before the next.
        tasks: names such as ["knn", "linear"], or tasks with settings such as [Knn(k=(20,))]; each once.
        out: folder for result.json, report.html, table.csv and one folder per pair, MODEL/TASK.
        weights: a checkpoint; for a single model.
        ended: called with each finished pair.
        options, data, keywords: see `evaluate`.
    Raises:
        UserError: for keywords that no pair takes, a folder that holds something else, or if every pair fails.
    """
    options, loading = split(EvalOptions, options, keywords, "evaluate_all")
    tasks = [task if hasattr(task, "run") else task_named(task, {})[0] for task in _listed(tasks)]
    models = _listed(models)
    models, names = list(dict.fromkeys(models)), [task_name(type(task)) for task in tasks]
    if not models or not tasks or len(set(names)) < len(names):
        raise UserError("name at least one model and one task, and each task once.")
    if weights is not None and len(models) > 1:
        raise UserError("weights from a file belong to one model; leave them out, or evaluate the models one by one.")
    ahead.refuse_absent_data(str(data))
    folder = output_folder(Path(out))
    with processes() as group:
        outputs = ahead.evaluations_outputs(folder, data, weights)
        if group.first:
            ahead.refuse_other_evaluations(folder, str(data))
            outputs.check()
        pairs: list[EvalPair] = []
        for model, name in zip(models, folders_of(models), strict=True):
            for pair in _of_model(model, tasks, data, folder / name, group, weights, options, quiet, loading):
                pairs.append(pair.model_copy(update={"folder": f"{name}/{pair.folder}"}))
                ended(pairs[-1])
        if all(pair.failed for pair in pairs):
            raise UserError(pairs[0].failed)
        result = Evaluations(data=printable(str(data)), pairs=pairs)
        if group.first:
            outputs.publish(texts({RECORD: result.model_dump_json(indent=1)}), more=True)
            attempts = Attempts()
            with outputs.adding() as place:
                draw_evaluations(as_written(result), place, attempts)
                result = noted(result, place / RECORD, attempts)
    return result


def folders_of(models: Sequence[Model]) -> list[str]:
    """Return a folder name for each model: its spec in portable letters, with a hash if two are equal."""
    specs = [_spec(model) for model in models]
    plain = [re.sub(r"[^A-Za-z0-9._-]+", "-", spec).strip("-.")[-LETTERS:] or "model" for spec in specs]
    alike = Counter(name.casefold() for name in plain)
    return [
        name if alike[name.casefold()] == 1 else f"{name}-{hashlib.sha256(printable(spec).encode()).hexdigest()[:6]}"
        for name, spec in zip(plain, specs, strict=True)
    ]


def _listed(given: Any) -> Sequence[Any]:
    """Return a list; one model or task may stand without it."""
    return list(given) if isinstance(given, list | tuple) else [given]


def _spec(model: Model) -> str:
    return model.spec if isinstance(model, Backbone) else model if isinstance(model, str) else type(model).__name__


def _of_model(
    model: Model, tasks: Sequence[Task], data: str | Path, folder: Path, group: Processes, weights: str | Path | None,
    options: EvalOptions, quiet: bool, loading: dict[str, Any],
) -> Iterator[EvalPair]:  # fmt: skip
    """Measure one model by every task."""
    spec = printable(_spec(model))
    try:
        backbone = opened(model, weights, loading, size=options.pixels)
    except Exception as error:
        if group.world > 1:  # the other processes would wait for this one
            raise
        for task in tasks:
            yield _failed(spec, task, error)
        return
    for task in tasks:
        name = task_name(type(task))
        given = "" if name in WITHOUT_DATA else data
        try:
            # A backbone from the caller may have changed since it was loaded. One process decides for all.
            look = isinstance(model, str) and group.first
            found = group.gather(complete(folder / name, backbone, task, str(given), options) if look else None)[0]
            kept = found is not None
            if found is None:
                found = evaluate(backbone, task, given, out=folder / name, options=options, quiet=quiet)
        except Exception as error:
            if group.world > 1:
                raise
            yield _failed(spec, task, error)
        else:
            yield pair_of(found, name, kept=kept)


def _failed(spec: str, task: Task, error: Exception) -> EvalPair:
    name = task_name(type(task))
    return EvalPair(model=spec, task=name, title=title_of(task), folder=name, failed=_why(error))


def _why(error: Exception) -> str:
    return error.sentence if isinstance(error, UserError) else f"{reason_of(error)}."


def pair_of(result: EvalResult, folder: str, *, kept: bool = False) -> EvalPair:
    """Return the table's entry for a record."""
    return EvalPair(
        model=result.model.spec,
        task=result.task,
        title=result.title,
        folder=folder,
        kept=kept,
        metric=result.headline,
        value=result.metrics.get(result.headline),
        interval=result.intervals.get(result.headline),
        unit=result.units.get(result.headline, ""),
        larger_is_better=result.larger_is_better,
        controls=result.controls,
        counts=result.data.counts,
        registers=result.model.registers,
        weights_sha256=result.model.weights_sha256,
        precision=result.provenance.precision,
    )


def complete(folder: Path, backbone: Backbone, task: Task, data: str, options: EvalOptions) -> EvalResult | None:
    """Return the record in a folder if measuring again would repeat it: everything equal, and its files unchanged.

    Data count as equal if DATA has the same name and the same files: their names, sizes and modification times.
    """
    with suppress(OSError, ValidationError, UserError):
        found = EvalResult.model_validate_json((folder / RECORD).read_bytes())
        known = (
            found.task, found.model.spec, found.model.weights_sha256, found.data.name, found.data.listing,
            found.provenance.precision,
        )  # fmt: skip
        now = (
            task_name(type(task)), backbone.spec, backbone.weights_sha256, data, hash_of_data(data),
            str(backbone.dtype).removeprefix("torch."),
        )  # fmt: skip
        version = found.provenance.vitreg == versions()["vitreg"]
        same = known == now and version and found.settings == settings_of(task, options)
        if same and read_ledger(folder).proves(RECORD):
            return found
    return None
