"""The card of every result: a sentence, what was looked at, and the few numbers that one reads first."""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING

from vitreg.notebook import Brief, Fact
from vitreg.quantities import MISSING, number, percent, with_left_out
from vitreg.records import Curves, LayerRecord, ScanResult, VerdictKind
from vitreg.records.explore import ExploreResult
from vitreg.records.lab import LabReport
from vitreg.records.look import LookResult
from vitreg.records.reproduction import Reproduction
from vitreg.records.zoo import Board
from vitreg.report import words
from vitreg.report.evaluation import words as of_evaluation
from vitreg.report.repairs import words as of_repairs
from vitreg.report.shown.rows import box_counts, rows_of
from vitreg.results import DiscoverResult, DoctorResult, EvalResult, Evaluations, RepairsResult, Table

if TYPE_CHECKING:
    from vitreg.records.base import Result


@singledispatch
def brief_of(result: Result) -> Brief:
    """Return what the card of a result shows."""
    return Brief(title=type(result).__name__, facts=result.__repr_args__())


@brief_of.register
def _scan(result: ScanResult) -> Brief:
    verdict, seen = result.verdict, result.images
    blocks = "" if verdict.first_layer is None else f"from {verdict.first_layer}, most in {verdict.peak_layer}"
    facts = [
        ("model", result.model.spec),
        ("images", with_left_out(seen.seen, len(seen.skipped))),
        ("verdict", f"{words.kind(verdict)}{'' if verdict.kind == 'none' else f', {verdict.strength}'}"),
        *([("blocks", blocks)] if blocks else []),
    ]
    table = [
        {
            "block": layer.index, "median": number(layer.median), "99th percentile": number(layer.p99), "max": number(layer.max),
            **_outliers(verdict.kind, layer),
        }
        for layer in result.layers
    ]  # fmt: skip
    # Of a group that is not established the record keeps no numbers by block: its reason has them.
    sentence = f"{verdict.sentence} {verdict.reason}" if verdict.undecided else verdict.sentence
    return Brief(title="ScanResult", sentence=sentence, facts=facts, table=table, counted="blocks")


def _outliers(kind: VerdictKind, layer: LayerRecord) -> dict[str, str]:
    """The outliers of a block. A verdict none counts none, which is not to say that none was seen: it shows how far norms reach."""
    if kind == "none":
        return {"max / median": number(layer.max_ratio)}
    return {"outliers": percent(layer.outlier_fraction), "their norm / median": number(layer.ratio)}


@brief_of.register
def _look(result: LookResult) -> Brief:
    table = [
        {"photo": row["photo"], "model": row["model"], "what was found": row["sentence"]} for row in rows_of(result)
    ]
    return Brief(title="LookResult", sentence=result.caution, facts=_left_out(result), table=table)


@brief_of.register
def _explore(result: ExploreResult) -> Brief:
    table = [
        {"photo": row["photo"], "model": row["model"], "what was found": row["sentence"]} for row in rows_of(result)
    ]
    return Brief(title="ExploreResult", sentence=result.caution, facts=_left_out(result), table=table)


def _left_out(result: LookResult | ExploreResult) -> list[Fact]:
    """Which photos could not be read, and how models were chosen that nobody named."""
    chosen: list[Fact] = [("models", result.chosen)] if result.chosen else []
    return [*(("left out", each.sentence) for each in result.skipped), *chosen]


@brief_of.register
def _doctor(result: DoctorResult) -> Brief:
    facts = [("model", result.model.spec), ("problem", "yes" if result.problem else "no")]
    return Brief(title="DoctorResult", facts=facts, table=rows_of(result), counted="findings")


@brief_of.register
def _evaluation(result: EvalResult) -> Brief:
    table = [
        {
            "": row["kind"], "name": row["name"], "value": of_evaluation.measure(row["value"], row["unit"]),
            "95 % interval": "" if row["low"] is None else f"{number(row['low'])} to {number(row['high'])}",
        }
        for row in rows_of(result)
    ]  # fmt: skip
    data, counts = result.data, ", ".join(f"{many:,} {side}" for side, many in result.data.counts.items())
    left = f"{counts}{', ' if counts else ''}{len(data.skipped):,} left out"
    facts = [("task", result.task), ("model", result.model.spec), ("data", data.name)]
    facts += [("images", left)] if data.skipped else []
    return Brief(
        title="EvalResult",
        sentence=f"{of_evaluation.sentence(result)} {of_evaluation.verdict(result)}.",
        facts=facts,
        table=table,
    )


@brief_of.register
def _table(result: Table) -> Brief:
    table = [{name: of_evaluation.cell(value) for name, value in row.items()} for row in rows_of(result)]
    return Brief(title=result.title, table=table)


@brief_of.register
def _evaluations(result: Evaluations) -> Brief:
    from vitreg.report.evaluation.table import sentence

    failed = any(pair.failed for pair in result.pairs)
    table = [
        {
            "model": pair.model, "task": pair.task, "value": of_evaluation.measure(pair.value, pair.unit),
            "95 % interval": f"{number(pair.interval[0])} to {number(pair.interval[1])}" if pair.interval else "",
            "best control": f"{pair.control[0]} {of_evaluation.measure(pair.control[1], pair.unit)}" if pair.control else "",
            **({"failed": pair.failed} if failed else {}),
        }
        for pair in result.pairs
    ]  # fmt: skip
    tasks = dict.fromkeys(pair.task for pair in result.pairs)
    said = [sentence([pair for pair in result.pairs if pair.task == task]) for task in tasks]
    return Brief(title="Evaluations", sentence=" ".join(said), facts=[("data", result.data)], table=table)


@brief_of.register
def _discover(result: DiscoverResult) -> Brief:
    interval = "{low} to {high}"
    if result.corloc is None:
        table = [{"": row["kind"], "name": row["name"], "images": row["images"]} for row in box_counts(result)]
    else:
        table = [
            {
                "": row["kind"], "name": row["name"], "CorLoc": words.hundredths(row["corloc"]),
                "95 % interval": "" if row["low"] is None else interval.format(low=number(row["low"]), high=number(row["high"])),
            }
            for row in rows_of(result)
        ]  # fmt: skip
    images = with_left_out(result.images.seen, len(result.images.skipped))
    facts = [("images", images), ("boxes found", result.found), *result.setting.items()]
    said = result.sweep.warning if result.sweep else ""
    if result.corloc is None:
        said = "No true boxes were given, so nothing says how many of these fit."
    return Brief(title="DiscoverResult", sentence=said, facts=facts, table=table)


@brief_of.register
def _repairs(result: RepairsResult) -> Brief:
    table = [
        {
            "model": row.model, "repair": of_repairs.label(row),
            **{each.title: of_repairs.value(each, row.cells.get(each.name)) for each in result.columns},
            **({"failed": row.failed} if any(each.failed for each in result.rows) else {}),
        }
        for row in result.rows
    ]  # fmt: skip
    models = dict.fromkeys(row.model for row in result.rows)
    said = [of_repairs.sentence([row for row in result.rows if row.model == each], result.columns) for each in models]
    images = with_left_out(result.images, len(result.skipped))
    facts = [("data", result.data), ("images", images), ("held-out images", result.held_out)]
    return Brief(title="RepairsResult", sentence=" ".join(said), facts=facts, table=table)


@brief_of.register
def _curves(result: Curves) -> Brief:
    from vitreg.report.run.over_steps import best

    table = []
    for run in result.runs:
        row = {"run": run.name, "recipe": run.recipe, "size": run.size, "registers": run.registers, "step": run.step}
        loss = next(
            (value for value in reversed(run.training[0].values if run.training else []) if value is not None), None
        )
        judged = run.evaluations[0] if run.evaluations else None
        top = best(judged) if judged else None
        row |= {
            "loss": number(loss),
            "best": "" if top is None or judged is None else f"{number(top[1])} ({judged.name})",
        }
        table.append(row | {"norms": run.watched.sentence if run.watched else ""})
    return Brief(title="Curves", table=table, counted="runs")


@brief_of.register
def _reproduction(result: Reproduction) -> Brief:
    from vitreg.report.reproduction.page import sentence

    wanted = ("experiment", "id", "subject", "outcome", "reason")
    table = [{"claim" if name == "id" else name: row[name] for name in wanted} for row in rows_of(result)]
    facts = [("scale", result.scale), ("images", result.images)]
    return Brief(title="Reproduction", sentence=sentence(result), facts=facts, table=table, counted="claims")


@brief_of.register
def _lab_report(result: LabReport) -> Brief:
    facts = [
        ("runs", f"{result.ended} of {result.asked}"),
        *((each.question, each.sentence) for each in result.answers),
    ]
    return Brief(
        title="LabReport",
        sentence=f"{result.title}. {result.sentence}",
        facts=facts,
        table=_runs(result),
        counted="runs",
    )


def _runs(result: LabReport) -> list[dict[str, object]]:
    return [
        {
            **({"cell": row["cell"]} if "cell" in row else {}), "run": row["name"], "registers": row["registers"], "seed": row["seed"],
            "outcome": row["failed"] or row["outcome"], "largest norm / median": number(row["peak_ratio"]),
            "error": number(row["error"]),
        }
        for row in rows_of(result)
    ]  # fmt: skip


@brief_of.register
def _board(result: Board) -> Brief:
    from vitreg.report.zoo.page import sentence
    from vitreg.report.zoo.words import rank

    table = [
        {
            "rank": rank(row), "model": row.model, "verdict": row.failed or row.verdict, "outliers": percent(row.share),
            "95 % interval": MISSING if row.low is None else f"{percent(row.low)} to {percent(row.high)}",
            "their norm / median": number(row.ratio_peak), "registers": row.registers,
        }
        for row in result.rows
    ]  # fmt: skip
    return Brief(
        title="Board", sentence=sentence(result), facts=[("images", result.images)], table=table, counted="models"
    )
