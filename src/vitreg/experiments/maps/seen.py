"""Maps of the photographs of a run: `maps`, called once for each model and kept, for all experiments that show pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from PIL import Image

from vitreg.experiments.maps.roughness import lone_peaks
from vitreg.passes.jobs import RUNS
from vitreg.records import ScanResult
from vitreg.records.reproduction import Measured
from vitreg.report.npz import read_npz, write_npz

if TYPE_CHECKING:
    from vitreg.experiments.setting import Setting
    from vitreg.verbs.maps.result import MapsResult

IMAGES = 64  # the first ones: enough for an interval, and a model looks at them in seconds
SHOWN = 8  # photographs kept to be shown
KEPT, VIEWS = "maps.npz", "views"
CLS = "CLS"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Maps of n photographs by one model. Patches without a token are NaN.

    Args:
        names: of the photographs.
        shown: which of them figures show.
        attention: "CLS", "register 1", ... -> attention of that token to the patches in the last block, mean over heads.
        tokens: N, among which the last block spreads its attention.
        norms: after the block where outliers stand out most, or the last one if there are none.
        last: norms after the last block.
        pca: first principal component after the last block, in standard deviations.
        unread: why there is no attention; empty where there is some.
        pictures: the shown photographs as the model saw them.
    """

    names: tuple[str, ...]
    shown: tuple[int, ...]
    attention: dict[str, Float32[np.ndarray, "n rows cols"]]
    tokens: int
    norms: Float32[np.ndarray, "n rows cols"]
    last: Float32[np.ndarray, "n rows cols"]
    pca: Float32[np.ndarray, "n rows cols"]
    unread: str
    pictures: list[UInt8[np.ndarray, "H W 3"]]

    def on_peaks(self) -> Float64[np.ndarray, " n"] | None:
        """Return the share of the class token's attention to the patches that lies on lone peaks; None without attention."""
        if CLS not in self.attention:
            return None
        attention = self.attention[CLS].astype(np.float64)
        peaks = np.where(lone_peaks(attention), attention, 0.0)
        return np.nansum(peaks, axis=(1, 2)) / np.nansum(attention, axis=(1, 2))

    @property
    def registers(self) -> list[str]:
        """The registers whose attention was read."""
        return [name for name in self.attention if name.startswith("register")]

    def outliers(self, scanned: ScanResult) -> Bool[np.ndarray, "n rows cols"]:
        """Return the patches beyond the threshold of the scan; none for a verdict none."""
        cut, peak = scanned.verdict.threshold, scanned.verdict.peak_layer
        if scanned.verdict.kind == "none" or cut is None or peak is None:
            return np.zeros(self.norms.shape, dtype=bool)
        side = next(layer.side for layer in scanned.layers if layer.index == peak)
        return self.norms <= cut if side == "low" else self.norms >= cut


def seen(setting: Setting, model: str) -> tuple[Seen, ScanResult, dict[str, str]]:
    """Return the maps of a model and its scan, and the keys of their jobs.

    Raises:
        UserError: if one of them failed.
    """
    scanned, scan = setting.scan(model)
    peak = scanned.verdict.peak_layer
    layers = (scanned.model.blocks - 1 if peak is None else peak, scanned.model.blocks - 1)
    limit = min(IMAGES, setting.reading["limit"] or IMAGES)

    def work(folder: Path) -> dict[str, Any]:
        from vitreg.verbs.maps.verb import maps

        reading = {name: value for name, value in setting.reading.items() if name != "limit"}
        what = ("attention", "registers", "pca", "norm")
        result = maps(
            model, list(setting.images), what=what, layer=layers, limit=limit, **reading, **setting.loads(model)
        )
        keep(result, folder)
        return {}

    asked = {"verb": "maps", "images": setting.data(*setting.images), "layers": layers, "first": limit}
    folder, key = setting.done(f"maps of {model}", asked, model, work)
    return read(folder), scanned, {"scan": scan, "maps": key}


def kept_maps(found: Measured, jobs: Path) -> Seen:
    """Return the maps behind the numbers of a subject.

    Raises:
        ValueError: if the file is gone or damaged.
    """
    return read(jobs / RUNS / found.jobs["maps"])


def views(found_in: Path) -> list[Path]:
    """Return the photographs as a model saw them, in their order."""
    return sorted((found_in / VIEWS).glob("*.png"))


def keep(result: MapsResult, folder: Path) -> None:
    """Write the maps of the peak and of the last block into a folder, and the photographs as the model saw them."""
    peak, last = result.maps[0], result.maps[-1]
    unread = next(
        (note for note in result.notes if "no attention maps;" in note),
        "",
    )
    assert peak.norm is not None
    assert last.norm is not None
    assert last.pca is not None
    words = {
        "names": list(result.images), "shown": representative(result.images), "tokens": last.tokens,
        "attention": list(last.attention), "unread": unread,
    }  # fmt: skip
    arrays = {
        "words": np.frombuffer(json.dumps(words).encode(), np.uint8), "norms": peak.norm, "last": last.norm, "pca": last.pca
    } | {f"attention {place}": each for place, each in enumerate(last.attention.values())}  # fmt: skip
    (folder / VIEWS).mkdir(exist_ok=True)
    for place, each in enumerate(last.inputs):
        Image.fromarray(each).save(folder / VIEWS / f"{place:03}.png")
    write_npz(folder / KEPT, arrays)


def read(folder: Path) -> Seen:
    """Read what `keep` wrote. Raises ValueError if the file is gone or damaged."""

    def build(arrays: np.lib.npyio.NpzFile) -> Seen:
        words = json.loads(arrays["words"].tobytes())
        return Seen(
            names=tuple(words["names"]), shown=tuple(words["shown"]), tokens=words["tokens"], unread=words["unread"],
            attention={name: arrays[f"attention {place}"] for place, name in enumerate(words["attention"])},
            norms=arrays["norms"], last=arrays["last"], pca=arrays["pca"],
            pictures=[np.asarray(Image.open(views(folder)[place])) for place in words["shown"]],
        )  # fmt: skip

    return read_npz(folder / KEPT, build)


def representative(names: Sequence[str]) -> list[int]:
    """Choose images to show, evenly over their order; crops, whose names go on from that of a whole picture, are left out."""
    stems = [Path(name).stem for name in names]
    whole = [place for place, stem in enumerate(stems) if not any(stem.startswith(f"{other}-") for other in stems)]
    return [whole[place] for place in spread(len(whole), SHOWN)]


def spread(among: int, most: int) -> list[int]:
    """Return at most so many of the numbers below `among`, evenly.

    >>> spread(10, 5)
    [0, 2, 4, 6, 8]
    """
    return list(range(among)) if among <= most else [place * among // most for place in range(most)]
