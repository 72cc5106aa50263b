"""`demo`: a ViT with planted artifacts and its clean twin, scanned on the photographs that scikit-image ships. Offline."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from PIL import Image

from vitreg.backbones import Backbone, load
from vitreg.console.terminal import say
from vitreg.data.sets.synthetic.photographs import PHOTOGRAPHS, photograph
from vitreg.errors import UserError
from vitreg.machine.runtime import processes
from vitreg.passes import ahead
from vitreg.passes.batches import batches_of
from vitreg.passes.options import split, takes
from vitreg.passes.portrait import portrait_from_record
from vitreg.records import Example, ScanResult
from vitreg.verbs.demo.options import DemoOptions
from vitreg.verbs.scan.verb import scan, summary
from vitreg.writing.files import output_folder, replacing

CANDIDATES, SHOWN = ("astronaut", "coffee", "cat"), 2  # the two with most outliers are shown side by side


@takes(DemoOptions)
def demo(out: str | Path, *, options: DemoOptions | None = None, **keywords: Any) -> dict[str, ScanResult]:
    """Scan the planted model and its clean twin side by side and write both reports and a page that compares them.

    Args:
        out: folder for `index.html`, `planted/`, `clean/` and the `photographs/` that were scanned.
        options: see `DemoOptions`; keywords override them.
        keywords: kind, the artifact to plant, see `vitreg.specs.PLANTED`.
    Raises:
        UserError: for an unknown kind, an unwritable folder, or if scikit-image is not installed.
    """
    from vitreg.report import write_comparison

    kind = split(DemoOptions, options, keywords, "demo", loads=False)[0].kind
    folder = output_folder(Path(out))
    outputs, *scans = ahead.demo_outputs(folder)
    for each in (outputs, *scans):
        each.check()
    outputs.publish(lambda place: write_photographs(place / "photographs"))
    photographs = sorted((folder / "photographs").glob("*.png"))
    say(f"{len(photographs)} photographs and crops of them (scikit-image's own). Nothing is downloaded.")
    results, backbones = {}, {}
    for name, spec in (("planted", f"planted:{kind}"), ("clean", "planted:clean")):
        label = (
            f"ViT with PLANTED {kind} artifacts"
            if name == "planted"
            else "its clean twin: same weights, nothing planted"
        )
        say(f"\n{label} ({spec})")
        backbones[name] = load(spec)
        results[name] = scan(backbones[name], [folder / "photographs"], out=folder / name, quiet=False)
        say(textwrap.indent(summary(results[name].verdict), "  "))
    pictures = _pictures(folder / "photographs", backbones, results)
    with outputs.adding() as place:
        write_comparison(
            [("Planted artifacts", results["planted"], "planted"), ("Clean twin", results["clean"], "clean")],
            place / "index.html",
            title=f"The same photographs, with and without {kind} artifacts",
            note="Both ViTs have the same weights; artifacts were planted into the first to show what they look like. "
            "Neither was trained.",
            pictures=pictures,
        )
    say()
    return results


def _pictures(
    folder: Path, backbones: dict[str, Backbone], results: dict[str, ScanResult]
) -> list[tuple[str, list[Example]]]:
    """The same photographs by both models: norms after the block where the planted outliers are clearest."""
    peak = results["planted"].verdict.peak_layer
    layer = results["planted"].model.blocks - 1 if peak is None else peak
    with processes() as group:
        batches = {
            name: batches_of([folder / f"{each}.png" for each in CANDIDATES], backbone, group)
            for name, backbone in backbones.items()
        }
    drawn = [
        (
            name,
            [
                portrait_from_record(backbones[k], name, batches[k], place, results[k], layer)
                for k in ("planted", "clean")
            ],
        )
        for place, name in enumerate(CANDIDATES)
    ]
    return sorted(drawn, key=lambda each: -int(each[1][0].outliers.sum()))[:SHOWN]


def write_photographs(folder: Path) -> list[Path]:
    """Write scikit-image's photographs and four overlapping crops of each as PNG files.

    Raises:
        UserError: if scikit-image is not installed.
    """
    folder.mkdir(exist_ok=True)
    paths = []
    for name in PHOTOGRAPHS:
        try:
            image = photograph(name)
        except ImportError:
            raise UserError("the demo needs scikit-image for its photographs: pip install 'vitreg[demo]'.") from None
        for part, picture in _crops(image):
            path = folder / f"{name}{part}.png"
            with replacing(path) as temporary:
                picture.save(temporary, format="png")
            paths.append(path)
    return paths


def _crops(image: Image.Image) -> list[tuple[str, Image.Image]]:
    image.thumbnail((640, 640))
    width, height = image.size
    w, h = int(0.6 * width), int(0.6 * height)
    corners = {
        "-top-left": (0, 0),
        "-top-right": (width - w, 0),
        "-bottom-left": (0, height - h),
        "-bottom-right": (width - w, height - h),
    }
    return [("", image), *((part, image.crop((x, y, x + w, y + h))) for part, (x, y) in corners.items())]
