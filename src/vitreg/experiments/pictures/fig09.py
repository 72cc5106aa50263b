"""Fig. 9: what the class token and the registers attend to. Registers differ, and some attend to objects."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitreg.errors import UserError
from vitreg.experiments.experiment import Drawings, Experiment, Says
from vitreg.experiments.maps.objects import on_objects
from vitreg.experiments.maps.seen import CLS, Seen, kept_maps, seen, spread
from vitreg.experiments.pictures.drawing import attention_scale, short, subjects
from vitreg.experiments.pictures.judging import NOT_READ, by_images, hundredths, known, measured
from vitreg.quantities import percent
from vitreg.records.reproduction import Claim, ExperimentRecord, Measured

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting

MORE = 1.25
APART = 0.25  # registers that were drawn at random and never trained differ by a tenth
DIFFER = Says(
    id="registers-differ",
    says="Registers do not have a completely aligned behaviour: their attention maps differ.",
    criterion=(
        f"of two registers, on average at least {100 * APART:.0f} % of the attention to patches lies on other patches (half the sum of "
        "absolute differences of maps that sum to 1); mean over images, interval included"
    ),
)
UNLIKE = Says(
    id="unlike-class-token",
    says="Registers attend to other parts of the feature map than the class token.",
    criterion=f"of a register and the class token, at least {100 * APART:.0f} % lies on other patches; mean over images, interval included",
)
OBJECTS = Says(
    id="objects-attended",
    says="Some registers attend to objects in the scene.",
    criterion=(
        "the register that attends to the true boxes most in one half of the images gives them, in the other half, at least a quarter "
        "more than their share of the patches; mean over images, interval included"
    ),
)
MOST = 4  # photographs
SINGLE = "It has a single register."
UNBOXED = "It needs images with true boxes; name a set with --boxes."
UNSEEN = "Its attention could not be measured in true boxes; the note above says why."
CAPTION = (
    "Attention of the class token and of each register to the patches in the last block, mean over heads. One colour scale for all; "
    "values above it have the last colour."
)


def measure(setting: Setting, model: str) -> Measured:
    """Compare the maps of registers with one another and with that of the class token, and with true boxes if there are any."""
    maps, scanned, jobs = seen(setting, model)
    series, more, unread = {}, {}, ""
    registers = [_whole(maps.attention[name]) for name in maps.registers]
    if len(registers) > 1:
        series["apart"] = np.mean([_moved(a, b) for a, b in combinations(registers, 2)], axis=0)
    if registers and CLS in maps.attention:
        series["from_class_token"] = np.mean([_moved(each, _whole(maps.attention[CLS])) for each in registers], axis=0)
    if registers and setting.boxes:
        try:
            share, area, more["objects"] = on_objects(setting, model)
            series |= {"on_objects": _chosen_blind(share), "objects_area": area}
        except UserError as error:  # such as a set without boxes; the other claims are about other images
            unread = f"No attention in true boxes: {error.sentence.rstrip('.')}"
    found = measured(model, scanned, maps, {**jobs, **more}, series)
    return found.model_copy(
        update={
            "numbers": found.numbers | {"boxes": float(bool(setting.boxes)), "registers_read": float(len(registers))},
            "note": "; ".join(filter(None, (found.note, unread))),
        }
    )


def claims(measured: Sequence[Measured]) -> list[Claim]:
    """Judge each model that has registers."""
    return [
        *DIFFER.of_each(measured, _differ),
        *UNLIKE.of_each(measured, _unlike),
        *OBJECTS.of_each(measured, _objects),
    ]


def _differ(found: Measured) -> Claim:
    absent = _absent(DIFFER, found)
    if absent is None and found.numbers["registers"] == 1:
        absent = DIFFER.outcome(found.subject, None, SINGLE)
    return absent or by_images(
        DIFFER, found, known(found.series["apart"]), APART, _words("Two registers"), write=hundredths
    )


def _unlike(found: Measured) -> Claim:
    absent = _absent(UNLIKE, found)
    if absent is None and "from_class_token" not in found.series:
        absent = UNLIKE.outcome(found.subject, None, "It has no class token.")
    return absent or by_images(
        UNLIKE,
        found,
        known(found.series["from_class_token"]),
        APART,
        _words("A register and the class token"),
        write=hundredths,
    )


def _objects(found: Measured) -> Claim:
    absent = _absent(OBJECTS, found)
    if absent is None and "on_objects" not in found.series:
        absent = OBJECTS.outcome(found.subject, None, UNSEEN if found.numbers.get("boxes") else UNBOXED)
    if absent is not None:
        return absent
    ours, area = (np.asarray(found.series[name]) for name in ("on_objects", "objects_area"))
    words = (
        "{value} times ({interval}) as much attention to boxes as their share of the patches, "
        + f"which is {percent(area.mean())}"
    )
    told = (ours >= 0) & (area > 0)
    return by_images(OBJECTS, found, ours[told] / area[told], MORE, words)


def _absent(says: Says, found: Measured) -> Claim | None:
    if not found.numbers["registers"]:
        return says.outcome(found.subject, None, "It has no registers.")
    read = found.numbers.get("registers_read") or {"apart", "from_class_token"} & set(found.series)
    return None if read else says.outcome(found.subject, None, NOT_READ)


def _words(who: str) -> str:
    return who + " differ in {value} ({interval}) of their attention"


def _whole(maps: np.ndarray) -> np.ndarray:
    """Scale maps so that each sums to 1, [n, P]."""
    flat = np.nan_to_num(maps.astype(np.float64)).reshape(len(maps), -1)
    return flat / flat.sum(axis=1, keepdims=True)


def _moved(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The share of attention that lies elsewhere: total variation distance of each pair of maps."""
    return 0.5 * np.abs(one - other).sum(axis=1)


def _chosen_blind(share: np.ndarray) -> np.ndarray:
    """Return, for each image, the share of the register that has most in the other half of the images."""
    if len(share) < 2:
        return np.full(len(share), np.nan)
    even = np.arange(len(share)) % 2 == 0
    found = np.empty(len(share))
    for half in (even, ~even):
        found[half] = share[half, share[~half].mean(axis=0).argmax()]
    return found


def draw(record: ExperimentRecord, jobs: Path) -> Drawings:
    """Photographs, and beside each the maps of the class token and of the registers, a figure for each model with registers."""
    drawn = [(place, each) for place, each in enumerate(subjects(record)) if each.numbers["registers"]]
    return {f"{record.id}-{place}": (each.subject, partial(_figure, each, jobs)) for place, each in drawn}


def _figure(found: Measured, jobs: Path) -> Any:
    from vitreg.report.sheets.sheet import Column, Sheet, draw

    maps: Seen = kept_maps(found, jobs)
    places = [maps.shown[place] for place in spread(len(maps.shown), MOST)]
    queries = {name: each[places] * maps.tokens for name, each in maps.attention.items()}
    pictures = [maps.pictures[place] for place in spread(len(maps.shown), MOST)]
    columns = [
        Column(title="photograph", cells=pictures),
        *(Column(title=name, cells=list(each)) for name, each in queries.items()),
    ]
    return draw(
        Sheet(
            title="Fig. 9: Class token and registers", subtitle=found.subject, rows=[short(maps.names[place]) for place in places],
            columns=columns, scale=attention_scale(list(queries.values())), caption=CAPTION,
        )
    )  # fmt: skip


EXPERIMENT = Experiment(
    id="fig9", label="Fig. 9", title="What registers attend to", needs=("images",), uses=("boxes",),
    measure=measure, claims=claims, draw=draw,
    published={"model": "DINOv2 ViT-L with registers", "registers": "sometimes attend to different parts, some to objects"},
    protocol="Attention maps of the class token and of registers, drawn for a photograph. Nothing was counted.",
    ours="The same maps in the last block, mean over heads, each scaled to sum to 1. With --boxes SET, the share that lies in true boxes.",
)  # fmt: skip
