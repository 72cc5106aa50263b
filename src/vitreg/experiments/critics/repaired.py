"""Repairs: registers added at test time remove outliers; repairing norms does not repair sinks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitreg.experiments.experiment import Drawings, Ends, Experiment, Says
from vitreg.experiments.outliers import note_of, of_verdict, without_outliers
from vitreg.quantities import number, percent
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting
    from vitreg.results import RepairCell

METHODS = ("test-time", "clip-norm")
KEPT = ("outliers_peak", "ratio_peak", "attention_sinks", "cls_change", "position_probe", "pixel_probe", "top1")
TENTH, MOVED, HALF, MARGIN = 0.1, 0.05, 0.5, 2.0
WITHOUT_TRAINING = Says(
    id="test-time-registers",
    says="A register added at test time takes the outliers away, and the class token stays as it is.",
    criterion=f"after `test-time`, fitted on other images, at most a tenth of the outliers is left, and 1 - cosine of the class token is "
    f"below {MOVED:g}; intervals",
    paper="outliers gone, zero-shot accuracy 76.4 % with and without",
    by="Jiang et al., NeurIPS 2025, arXiv 2506.08010",
)
NORM_ONLY = Says(
    id="norm-not-sink",
    says="Repairing norms does not repair sinks: attention goes to these patches as before.",
    criterion="after `clip-norm` the norm of the outliers over that of others falls, and they keep more than half of their attention; "
    "intervals",
    paper="QK-norm and others cut spikes from 3818 to between 92 and 520, and leave sinks at 41 to 61 %",
    by="Sun, Canziani, LeCun & Zhu, ICML 2026, arXiv 2603.05498",
)
NO_BETTER = Says(
    id="repaired-not-better",
    says="Where outliers are gone, patches know no more of their place and of their pixels.",
    criterion=f"after `test-time`, which takes outliers away: position is found in less than {MARGIN:g} % of the patches more, and less "
    f"than {MARGIN:g} points more of the pixels are explained, with 97.5 % certainty each; not held if one certainly is",
    by="Lappe & Giese, NeurIPS 2025, arXiv 2505.05892, who say it of trained registers",
)


def measure(setting: Setting, model: str) -> Measured:
    """Fit both repairs to half of the images, and measure them on the other half."""
    scanned, scan = setting.scan(model)
    numbers: dict[str, float | None] = of_verdict(scanned)
    jobs = {"scan": scan}
    if numbers["outliers"]:
        folder, jobs["repairs"] = setting.done(
            f"repairs of {model}", {"verb": "repairs", "methods": METHODS, "images": setting.data(*setting.images)}, model,
            lambda folder: _repaired(setting, model, folder),
        )  # fmt: skip
        numbers |= _numbers(folder)
    return Measured(subject=model, note=note_of(model), numbers=numbers, jobs=jobs)


def _repaired(setting: Setting, model: str, folder: Path) -> dict[str, Any]:
    from vitreg.verbs.repairs.verb import repairs

    repairs(
        model, list(setting.images), out=folder, methods=METHODS, controls=False, seed=setting.seed, **setting.reading,
        **setting.loads(model),
    )  # fmt: skip
    return {}


def _numbers(folder: Path) -> dict[str, float | None]:
    from vitreg.results import RepairsResult

    rows = RepairsResult.model_validate_json((folder / "result.json").read_bytes()).rows
    found: dict[str, float | None] = {}
    for row in rows:
        cells: dict[str, RepairCell] = {name: row.cells[name] for name in KEPT if name in row.cells}
        for name, cell in cells.items():
            found |= {
                f"{row.method}: {name}": cell.value,
                f"{row.method}: {name}_low": cell.low,
                f"{row.method}: {name}_high": cell.high,
            }
            found |= {
                f"{row.method}: {name}_change_low": cell.change_low,
                f"{row.method}: {name}_change_high": cell.change_high,
            }
    return found


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each model that has outliers."""
    return [
        *WITHOUT_TRAINING.of_each(measured, _without_training),
        *NORM_ONLY.of_each(measured, _norm_only),
        *NO_BETTER.of_each(measured, _no_better),
    ]


def _lacking(says: Says, found: Measured, *names: str) -> Claim | None:
    absent = without_outliers(says, found)
    if absent is not None:
        return absent
    missing = [name for name in names if found.numbers.get(name) is None]
    if missing:
        return says.untestable(
            found.subject, f"`repairs` gave no interval here, or no number at all, for {missing[0]}."
        )
    return None


def _read(found: Measured, *names: str) -> list[float]:
    return [found.numbers[name] or 0.0 for name in names]


def _ends(found: Measured, name: str) -> Ends:
    """Return the ends of a number; 0 for the lower one where an earlier record lacks it."""
    return found.numbers.get(f"{name}_low") or 0.0, found.numbers[f"{name}_high"] or 0.0


def _without_training(found: Measured) -> Claim:
    names = (
        "none: outliers_peak", "test-time: outliers_peak", "test-time: outliers_peak_high", "test-time: cls_change",
        "test-time: cls_change_high",
    )  # fmt: skip
    absent = _lacking(WITHOUT_TRAINING, found, *names)
    if absent is not None:
        return absent
    before, after, most, moved, at_most = _read(found, *names)
    if not before:
        return WITHOUT_TRAINING.untestable(
            found.subject, "The images that were measured hold no outliers to take away."
        )
    low, high = (end / before for end in _ends(found, "test-time: outliers_peak"))
    gone = WITHOUT_TRAINING.decided(
        found.subject, after / before, (low, high),
        f"{number(after)} % of the patches are outliers (at most {number(most)}) instead of {number(before)}", below=TENTH, write=percent,
    )  # fmt: skip
    same = WITHOUT_TRAINING.decided(
        found.subject, moved, _ends(found, "test-time: cls_change"),
        f"The class token moves by {number(moved)} (at most {number(at_most)})", below=MOVED,
    )  # fmt: skip
    return WITHOUT_TRAINING.together([gone, same])


def _norm_only(found: Measured) -> Claim:
    changed = [
        f"clip-norm: {name}_change_{end}" for name in ("ratio_peak", "attention_sinks") for end in ("low", "high")
    ]
    names = ("none: ratio_peak", "clip-norm: ratio_peak", "none: attention_sinks", "clip-norm: attention_sinks")
    absent = _lacking(NORM_ONLY, found, *names, *changed)
    if absent is not None:
        return absent
    (ratio, fixed, attention, kept), ends = _read(found, *names), _read(found, *changed)
    norms = NORM_ONLY.decided(
        found.subject,
        fixed - ratio,
        (ends[0], ends[1]),
        f"Norms fall from {number(ratio)} to {number(fixed)} times the others'",
        below=0.0,
    )
    words = f"Their attention goes from {number(attention)} to {number(kept)} % (change {number(ends[2])} to {number(ends[3])})"
    sinks = NORM_ONLY.decided(found.subject, kept - attention, (ends[2], ends[3]), words, above=-HALF * attention)
    return NORM_ONLY.together([norms, sinks])


def _no_better(found: Measured) -> Claim:
    names = [
        f"test-time: {probe}_change_{end}" for probe in ("position_probe", "pixel_probe") for end in ("low", "high")
    ]
    absent = _lacking(NO_BETTER, found, "test-time: outliers_peak_change_high", *names)
    if absent is not None:
        return absent
    falls, low, high, pixels_low, pixels_high = _read(found, "test-time: outliers_peak_change_high", *names)
    if falls >= 0:
        return NO_BETTER.untestable(found.subject, "The repair did not take outliers away, so it shows nothing.")
    parts = (
        (low, high, "of the patches more are placed"),
        (pixels_low, pixels_high, "points more of the pixels are explained"),
    )
    return NO_BETTER.together(
        [
            NO_BETTER.decided(
                found.subject, (one + other) / 2, (one, other), f"{number(one)} to {number(other)} % {words}".replace("% points", "points"),
                below=MARGIN,
            )
            for one, other, words in parts
        ]
    )  # fmt: skip


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """It has no figure."""
    return {}


EXPERIMENT = Experiment(
    id="repaired-norms", label="After the paper", title="Repairs without training", needs=("images",), measure=measure,
    claims=claims, draw=draw,
    published={"DINOv2-L, LOST on VOC 2007": {"no registers": 32.2, "trained": 56.2, "test-time": 53.8}},
    protocol="Neurons that write outliers are moved to an added token (Jiang et al.); norms are cut by normalisation (Sun et al., in "
    "language models).",
    ours="`repairs` with test-time and clip-norm: fitted on one half of the images, measured on the other, probes fitted anew.",
)  # fmt: skip
