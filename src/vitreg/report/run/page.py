"""One self-contained HTML page from the records of training runs: when artifacts appeared, and the training curves.

The page of one run lies in its folder; several runs share their axes, and the settings that differ are listed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vitreg.records import Curve, RunRecord, Watch
from vitreg.report import shell
from vitreg.report.attempts import Attempts
from vitreg.report.ranges import usable
from vitreg.report.run import birth, maps, over_steps
from vitreg.report.run import charts as charts_run
from vitreg.report.run.figures import write_curves_figure
from vitreg.report.scan import payload
from vitreg.report.scan.page import FILE_NAME
from vitreg.report.words import KINDS, PERCENT
from vitreg.writing.files import output_folder

DRAWN_ALONE = ("loss", "lr", "epoch")  # training curves with a large chart; the others are drawn small


def draw_curves(runs: Sequence[RunRecord], directory: Path, attempts: Attempts) -> None:
    """Draw the picture and the page of one or several runs into a folder.

    Args:
        attempts: collects drawings that fail; the page lists them.
    Raises:
        UserError: if the folder cannot be written.
    """
    attempts("curves.png", lambda: write_curves_figure(runs, directory))
    attempts(FILE_NAME, lambda: write_curves(runs, directory, attempts))


def write_curves(runs: Sequence[RunRecord], directory: Path, attempts: Attempts | None = None) -> Path:
    """Write ``directory/report.html`` about one or several runs and return its path.

    Args:
        attempts: collects charts that fail, beside earlier failures; the page lists all of them.
    Raises:
        UserError: if the folder cannot be written, with the reason of the system.
    """
    return shell.write(output_folder(Path(directory)) / FILE_NAME, render(runs, attempts))


def render(runs: Sequence[RunRecord], attempts: Attempts | None = None) -> str:
    """Return the page as text; see ``write_curves``."""
    attempts = Attempts() if attempts is None else attempts
    watched = [run for run in runs if run.watched is not None]
    charts = _Charts(runs, attempts)
    view = {
        "runs": [_row(run, place) for place, run in enumerate(runs)],
        "several": len(runs) > 1,
        "headline": _headline(runs),
        # A run without artifacts says so in its sentence.
        "unfinished": [run for run in runs if _unfinished(run) and not _plain(run.watched)],
        "strength": max((_last_strength(run.watched) for run in watched), key=_STRENGTHS.index, default="none"),
        "loss": charts.of_training("loss"),
        "rate": charts.of_training("lr", "learning rate", from_zero=True),
        "evaluations": charts.evaluations(),
        "outliers": charts.outliers(),
        "births": charts.births(),
        "strips": charts.strips(),
        "others": charts.others(),
        "differing": _differing(runs),
        "data": payload.empty_block(),
    }
    return shell.render("curves.html.j2", undrawn=attempts.failed, **view)


_STRENGTHS = ("none", "mild", "moderate", "strong")


def _last_strength(watch: Watch | None) -> str:
    return watch.moments[-1].strength if watch and watch.onset is not None else "none"


def _unfinished(run: RunRecord) -> bool:
    return run.total is not None and run.step < run.total


def _plain(watch: Watch | None) -> bool:
    """Whether a run was watched and never showed artifacts."""
    return watch is not None and all(moment.verdict == "none" for moment in watch.moments)


def _headline(runs: Sequence[RunRecord]) -> str:
    """The headline: when artifacts appeared, or in how many of the runs."""
    if len(runs) == 1:
        return runs[0].watched.sentence if runs[0].watched else "The norms were not watched in this run."
    watched = [run for run in runs if run.watched is not None]
    shown = [run for run in watched if run.watched and run.watched.onset is not None]
    if not watched:
        return f"{len(runs)} runs; the norms were not watched."
    running = any(_unfinished(run) for run in watched)
    when = "so far in" if running else "at the end of"
    if shown:
        return f"Artifacts {when} {len(shown)} of {len(watched)} watched runs."
    return f"No artifacts {when} any of {len(watched)} watched runs."


def _kind(run: RunRecord) -> str:
    if run.watched is None:
        return "not watched"
    if _unfinished(run) and _plain(run.watched):
        return "no artifacts so far"
    return KINDS[run.watched.moments[-1].verdict]


def _row(run: RunRecord, place: int) -> dict[str, Any]:
    """A run's entry in the table and the facts."""
    loss = over_steps.named(run.training, "loss")
    last = [v for v in (loss.values if loss else []) if v is not None][-1:]
    judged = run.evaluations[0] if run.evaluations else None
    end = run.watched.moments[-1] if run.watched else None
    return {
        "place": place,
        "run": run,
        "unfinished": _unfinished(run),
        "loss": last[0] if last else None,
        "judged": _evaluation_words(judged.name) if judged else None,
        "epochs": f"{round(run.epochs, 1):,g}" if run.epochs else None,
        "settings": "\n".join(f"{name} = {json.dumps(value)}" for name, value in run.settings.items()),
        "best": over_steps.best(judged) if judged else None,
        "end": end,
        "kind": _kind(run),
        "tone": end.strength if end else "none",
    }


class _Charts:
    """The charts of a page; a chart that fails is listed in `attempts.failed`, and the others are drawn."""

    def __init__(self, runs: Sequence[RunRecord], attempts: Attempts) -> None:
        self.runs, self.attempts = runs, attempts

    def two(self, name: str, draw: Callable[[int], Markup | None], wide: int) -> Markup | None:
        """Draw a chart in two widths, for a desktop and a phone."""
        return self.attempts(f"chart of {name}", lambda: shell.two_widths(draw(wide), draw(shell.PHONE)))

    def curve(
        self, words: str, curves: Sequence[tuple[int, str, Curve | None]], wide: int, **how: Any
    ) -> Markup | None:
        """Draw a line per run; `how` as in `charts.curves`."""
        return self.two(words, lambda width: charts_run.curves(curves, width, 300, words, **how), wide)

    def of_training(self, name: str, label: str | None = None, *, from_zero: bool = False) -> Markup | None:
        """Draw a number logged during training."""
        drawn = [(place, run.name, over_steps.named(run.training, name)) for place, run in enumerate(self.runs)]
        return self.curve(label or name.replace("_", " "), drawn, shell.HALF, from_zero=from_zero)

    def outliers(self) -> Markup | None:
        """Draw the share of outliers of all runs."""
        drawn = [(place, run.name, over_steps.outlier_share(run)) for place, run in enumerate(self.runs)]
        return self.curve("patch tokens that are outliers", drawn, shell.FULL, unit=PERCENT, from_zero=True)

    def evaluations(self) -> list[tuple[str, Markup | None]]:
        """Draw each metric that chooses the best checkpoint of some run; runs with the same metric share a chart."""
        names = dict.fromkeys(run.evaluations[0].name for run in self.runs if run.evaluations)
        charts = []
        for name in names:
            drawn = [
                (place, run.name, run.evaluations[0])
                for place, run in enumerate(self.runs)
                if run.evaluations and run.evaluations[0].name == name
            ]
            words = _evaluation_words(name)
            charts.append((words, self.curve(words, drawn, shell.FULL, unit=_unit(name), mark_best=True)))
        return charts

    def births(self) -> list[dict[str, Any]]:
        """Draw what was recorded of the birth of artifacts, run by run, over the same steps."""
        watched = [(run, run.watched, birth.panels(run)) for run in self.runs if run.watched is not None]
        steps = charts_run.step_span([m.step for _, watch, _ in watched for m in watch.moments] or [0])
        found = []
        for run, watch, panels in watched:
            drawn = [
                self.two(f"{each.name} of {run.name}", partial(birth.chart, each, watch, steps=steps), shell.FULL)
                for each in panels
            ]
            kept = self.attempts(f"norm maps of {run.name}", partial(maps.chart, watch))
            block = maps.peak_block(watch) if kept is not None else None
            found.append(
                {"run": run, "charts": [each for each in drawn if each is not None], "maps": kept, "block": block}
            )
        return [each for each in found if each["charts"]]

    def strips(self) -> list[dict[str, Any]]:
        """Draw norms and outliers by block of every watched run, on the same axes."""
        watched = [(place, run, run.watched) for place, run in enumerate(self.runs) if run.watched is not None]
        moments = [moment for _, _, watch in watched for moment in watch.moments]
        spans = [span for _, _, watch in watched if (span := over_steps.norm_span(watch.moments))]
        if not spans:
            return []
        steps = usable(min(m.step for m in moments), max(m.step for m in moments))
        span = min(low for low, _ in spans), max(high for _, high in spans)
        top = max((layer.outlier_fraction for m in moments for layer in m.layers), default=0.0) or None

        def norms(watch: Watch, width: int) -> Markup | None:
            return charts_run.norms(watch, width, 380 if width == shell.FULL else 300, span=span, steps=steps)

        return [
            {
                "place": place,
                "run": run,
                "norms": self.two(f"norms of {run.name}", partial(norms, watch), shell.FULL),
                "blocks": self.two(
                    f"outliers by block of {run.name}",
                    partial(charts_run.outliers_by_block, watch, top=top, steps=steps),
                    shell.FULL,
                ),
            }
            for place, run, watch in watched
        ]

    def others(self) -> list[tuple[str, Markup | None]]:
        """Draw every other logged number as a small chart."""
        names = dict.fromkeys(c.name for run in self.runs for c in run.training if c.name not in DRAWN_ALONE)
        charts = [(name.replace("_", " "), self.of_training(name)) for name in names]
        for name in dict.fromkeys(curve.name for run in self.runs for curve in run.evaluations[1:]):
            drawn = [(place, run.name, over_steps.named(run.evaluations, name)) for place, run in enumerate(self.runs)]
            words = name.replace("_", " ")
            charts.append((words, self.curve(words, drawn, shell.HALF, unit=_unit(name))))
        return [(name, chart) for name, chart in charts if chart is not None]


def _unit(name: str) -> str:
    return "" if over_steps.is_loss(name) else PERCENT


def _evaluation_words(name: str) -> str:
    known = {"top1": "top-1 accuracy", "knn": "kNN top-1 accuracy", "recall": "mean recall at 5"}
    known |= {"val_loss": "loss of the validation side"}
    return known.get(name, name.replace("_", " "))


def _differing(runs: Sequence[RunRecord]) -> list[tuple[str, list[Any]]]:
    """Return the settings that differ between the runs, with the value of each run."""
    keys = sorted({key for run in runs for key in run.settings})
    rows = [(key, [run.settings.get(key) for run in runs]) for key in keys]
    return [(key, values) for key, values in rows if any(value != values[0] for value in values)]
