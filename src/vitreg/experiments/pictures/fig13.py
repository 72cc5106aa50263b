"""Fig. 13: the steps of LOST. Outliers mark its scores; with registers its steps are smoother."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.maps.roughness import roughness, standing_out
from vitreg.experiments.maps.seen import kept_maps, seen, spread, views
from vitreg.experiments.outliers import without_outliers
from vitreg.experiments.pictures.drawing import short, subjects
from vitreg.experiments.pictures.judging import MARGIN, TWIN, against_twin, by_images, known, measured, of_others
from vitreg.passes.jobs import RUNS
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured
from vitreg.report.paper import NotMeasuredError

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

PROBABILITY = 0.75
DISTURBED = Says(
    id="scores-marked",
    says="Without registers artifacts disturb the steps of LOST (DeiT-III, DINOv2; less so OpenCLIP).",
    criterion=(
        "of an outlier and another patch of its image, LOST gives the outlier the higher score (the patch that resembles fewer others): "
        f"probability above {PROBABILITY}, mean over images with outliers, interval included"
    ),
)
SMOOTHER = Says(
    id="smoother-scores",
    says="Adding registers drastically improves the look of all intermediate steps (DeiT-III, DINOv2).",
    criterion=(
        "the scores differ less between neighbours, relative to their variance (Geary's C), than in "
        f"{TWIN}; difference on the same images, interval below -{100 * MARGIN:g} % of the twin's"
    ),
)
IMAGES = 24  # LOST takes longer than the model
MOST = 2  # photographs of the figure
SCORE, ROW, STEPS, INPUT = "inverse degree", "Gram matrix, row of the seed", "seed and object", "input and boxes"
CAPTION = (
    "The score is the share of the patches that a patch is not similar to. The patch with the largest is the seed (red); its row of the "
    "Gram matrix says how similar the others are to it. Yellow: its similars. Blue: what hangs together with them. Orange: the box. Each "
    "map runs from its minimum to its maximum."
)


def measure(setting: Setting, model: str) -> Measured:
    """Run LOST on the photographs as the model sees them, and look at its scores."""
    maps, scanned, jobs = seen(setting, model)
    pictures = views(setting.jobs.folder / RUNS / jobs["maps"])
    others = [place for place in range(len(pictures)) if place not in maps.shown]
    chosen = sorted([*maps.shown, *others][:IMAGES])

    def work(folder: Path) -> dict[str, Any]:
        from vitreg.verbs.discover.verb import discover

        discover(
            model,
            [pictures[place] for place in chosen],
            out=folder,
            steps=IMAGES,
            pictures=IMAGES,
            **setting.loads(model),
        )
        return {}

    asked = {"verb": "discover", "images": jobs["maps"], "first": chosen}
    folder, key = setting.done(f"steps of LOST of {model}", asked, model, work)
    rows, cols = maps.norms.shape[1:]
    by_place = {int(Path(name).stem): steps[SCORE] for name, steps in steps_of(folder)}
    scores = np.stack([np.asarray(by_place[place], dtype=np.float64)[:rows, :cols] for place in chosen])
    series = {"roughness": roughness(scores), "marked": standing_out(scores, maps.outliers(scanned)[chosen])}
    return measured(model, scanned, maps, {**jobs, "discover": key}, series)


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each model by its outliers, and models with registers against their twins."""
    return [
        *DISTURBED.of_each(measured, _disturbed),
        *SMOOTHER.of_each(
            measured, lambda found: against_twin(SMOOTHER, found, measured, "roughness", "Roughness (Geary's C)")
        ),
    ]


def _disturbed(found: Measured) -> Claim:
    absent = of_others(DISTURBED, found) or without_outliers(DISTURBED, found)
    return absent or by_images(
        DISTURBED, found, known(found.series["marked"]), PROBABILITY, "Probability {value} ({interval})"
    )


def steps_of(folder: Path) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield names of images and their steps by title, from the sheets that `discover` kept.

    Raises:
        ValueError: if they are gone or damaged.
    """
    from vitreg.report.sheets.kept import read_sheets

    for name, sheet in read_sheets(folder / "pictures" / "sheets.npz"):
        if name.startswith("steps"):
            for place, row in enumerate(sheet.rows):
                yield row, {column.title: np.asarray(column.cells[place]) for column in sheet.columns}


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """The steps of a few photographs; a row for each model."""
    return {record.id: ("The same photographs for all models", lambda: _figure(record, jobs))}


def _figure(record: ExperimentRecord, jobs: Path) -> Any:
    from vitreg.report.sheets.sheet import Column, Sheet, draw

    rows = []
    names: list[str] = []
    for found in subjects(record):
        maps, steps = kept_maps(found, jobs), dict(steps_of(jobs / RUNS / found.jobs["discover"]))
        shown = [maps.shown[place] for place in spread(len(maps.shown), MOST)]
        names = [short(maps.names[place]) for place in shown]
        rows.append([steps[f"{place:03}.png"] for place in shown])
    if not rows:
        raise NotMeasuredError("no model was measured")
    titles = {INPUT: "photograph, box", SCORE: "score", ROW: "row of the seed", STEPS: "seed and object"}
    return draw(
        Sheet(
            title=f"{record.label}: {record.title}", rows=[each.subject for each in subjects(record)],
            columns=[
                Column(title=title, group=name, cells=[row[place][step] for row in rows])
                for place, name in enumerate(names) for step, title in titles.items()
            ],
            caption=CAPTION,
        )
    )  # fmt: skip


EXPERIMENT = Experiment(
    id="fig13", label="Fig. 13", title="Steps of LOST", needs=("images",), measure=measure, claims=claims, draw=draw,
    published={"improved": "DeiT-III and DINOv2, drastically", "less": "OpenCLIP"},
    protocol="LOST's scores and seed expansion, drawn for a photograph, without and with registers. Nothing was counted.",
    ours="`discover` with its defaults, on the photographs as the model sees them, so that outliers are those of the scan.",
)  # fmt: skip
