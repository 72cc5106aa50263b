"""One self-contained HTML page from the records of training runs: when artifacts appeared, and how training went.

The page of one run stands in its folder; several runs share their axes, and what was set differently is listed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vitreg.files import output_folder
from vitreg.records import RunRecord, Watch

from . import charts_run, over_steps, payload, shell
from .page import FILE_NAME
from .words import KINDS

DRAWN_ALONE = ("loss", "lr", "epoch")  # of the training curves: the rest is drawn small


def write_curves(runs: Sequence[RunRecord], directory: Path) -> Path:
    """Write ``directory/report.html`` about one or several runs and return its path.

    Raises:
        UserError: if the folder cannot be written, with the reason of the system.
    """
    return shell.write(output_folder(Path(directory)) / FILE_NAME, render(runs))


def render(runs: Sequence[RunRecord]) -> str:
    """Return the page as text; see ``write_curves``."""
    watched = [run for run in runs if run.watched is not None]
    return shell.render(
        "curves.html.j2",
        runs=[_row(run, place) for place, run in enumerate(runs)],
        several=len(runs) > 1,
        headline=_headline(runs),
        strength=max((_last_strength(run.watched) for run in watched), key=_STRENGTHS.index, default="none"),
        loss=_overlay(runs, "loss", shell.HALF),
        rate=_overlay(runs, "lr", shell.HALF, "learning rate", from_zero=True),
        evaluations=_evaluations(runs),
        outliers=_two(
            lambda w: charts_run.curves(
                [(place, run.name, over_steps.outlier_share(run)) for place, run in enumerate(runs)],
                w, 300, "patch tokens that are outliers", unit="%", from_zero=True,
            ),
            shell.FULL,
        ),
        strips=_strips(runs),
        others=_others(runs),
        differing=_differing(runs),
        data=payload.empty_block(),
    )  # fmt: skip


_STRENGTHS = ("none", "mild", "moderate", "strong")


def _last_strength(watch: Watch | None) -> str:
    return watch.moments[-1].strength if watch and watch.onset is not None else "none"


def _headline(runs: Sequence[RunRecord]) -> str:
    """What the page says first: when artifacts appeared, or in how many of the runs."""
    if len(runs) == 1:
        return runs[0].watched.sentence if runs[0].watched else "The norms were not watched in this run."
    watched = [run for run in runs if run.watched is not None]
    shown = [run for run in watched if run.watched and run.watched.onset is not None]
    if not watched:
        return f"{len(runs)} runs; the norms were not watched."
    if not shown:
        return f"No artifacts at the end of any of {len(watched)} watched runs."
    return f"Artifacts at the end of {len(shown)} of {len(watched)} watched runs."


def _row(run: RunRecord, place: int) -> dict[str, Any]:
    """What the table and the facts say about a run."""
    loss = over_steps.named(run.training, "loss")
    last = [v for v in (loss.values if loss else []) if v is not None][-1:]
    judged = run.evaluations[0] if run.evaluations else None
    end = run.watched.moments[-1] if run.watched else None
    return {
        "place": place,
        "run": run,
        "finished": run.total is not None and run.step >= run.total,
        "loss": last[0] if last else None,
        "judged": _evaluation_words(judged.name) if judged else None,
        "epochs": f"{round(run.epochs, 1):,g}" if run.epochs else None,
        "settings": "\n".join(f"{name} = {json.dumps(value)}" for name, value in run.settings.items()),
        "best": over_steps.best(judged) if judged else None,
        "end": end,
        "kind": KINDS[end.verdict] if end else "not watched",
        "tone": end.strength if end else "none",
    }


def _two(draw: Callable[[int], Markup | None], wide: int) -> Markup | None:
    return shell.two_widths(draw(wide), draw(shell.PHONE))


def _overlay(
    runs: Sequence[RunRecord], name: str, wide: int, label: str | None = None, *, from_zero: bool = False
) -> Markup | None:
    drawn = [(place, run.name, over_steps.named(run.training, name)) for place, run in enumerate(runs)]
    words = label or name.replace("_", " ")
    return _two(lambda w: charts_run.curves(drawn, w, 300, words, from_zero=from_zero), wide)


def _evaluations(runs: Sequence[RunRecord]) -> list[tuple[str, Markup | None]]:
    """A chart for each number that chooses the best checkpoint of some run: runs judged alike share one."""
    names = dict.fromkeys(run.evaluations[0].name for run in runs if run.evaluations)
    charts = []
    for name in names:
        drawn = [
            (place, run.name, run.evaluations[0])
            for place, run in enumerate(runs)
            if run.evaluations and run.evaluations[0].name == name
        ]
        words = _evaluation_words(name)
        charts.append(
            (
                words,
                _two(lambda w, d=drawn, t=words: charts_run.curves(d, w, 300, t, unit="%", mark_best=True), shell.FULL),
            )
        )
    return charts


def _evaluation_words(name: str) -> str:
    known = {"top1": "top-1 accuracy", "knn": "kNN top-1 accuracy", "recall": "mean recall at 5"}
    return known.get(name, name.replace("_", " "))


def _strips(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Norms and outliers by block of every watched run, all on the same axes."""
    watched = [(place, run, run.watched) for place, run in enumerate(runs) if run.watched is not None]
    moments = [moment for _, _, watch in watched for moment in watch.moments]
    spans = [span for _, _, watch in watched if (span := over_steps.norm_span(watch.moments))]
    if not spans:
        return []
    steps = (min(m.step for m in moments), max(m.step for m in moments))
    axis = {"steps": steps if steps[1] > steps[0] else (steps[0] - 0.5, steps[0] + 0.5)}
    span = min(low for low, _ in spans), max(high for _, high in spans)
    top = max((layer.outlier_fraction for m in moments for layer in m.layers), default=0.0) or None
    return [
        {
            "place": place,
            "run": run,
            "norms": _two(lambda w, o=watch: charts_run.norms(o, w, 380 if w == shell.FULL else 300, span=span, **axis), shell.FULL),
            "blocks": _two(lambda w, o=watch: charts_run.outliers_by_block(o, w, top=top, **axis), shell.FULL),
        }
        for place, run, watch in watched
    ]  # fmt: skip


def _others(runs: Sequence[RunRecord]) -> list[tuple[str, Markup | None]]:
    """Everything else that was written down, one small chart each."""
    names = dict.fromkeys(c.name for run in runs for c in run.training if c.name not in DRAWN_ALONE)
    charts = [(name.replace("_", " "), _overlay(runs, name, shell.HALF)) for name in names]
    rest = dict.fromkeys(curve.name for run in runs for curve in run.evaluations[1:])
    for name in rest:
        drawn = [(place, run.name, over_steps.named(run.evaluations, name)) for place, run in enumerate(runs)]
        words = name.replace("_", " ")
        charts.append((words, _two(lambda w, d=drawn, t=words: charts_run.curves(d, w, 300, t, unit="%"), shell.HALF)))
    return [(name, chart) for name, chart in charts if chart is not None]


def _differing(runs: Sequence[RunRecord]) -> list[tuple[str, list[Any]]]:
    """The settings that are not the same in all runs, with the value of each run."""
    keys = sorted({key for run in runs for key in run.settings})
    rows = [(key, [run.settings.get(key) for run in runs]) for key in keys]
    return [(key, values) for key, values in rows if any(value != values[0] for value in values)]
