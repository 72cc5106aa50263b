"""`demo`: pairs of models with and without artifacts, in acts: born by training, and planted. Offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from vitreg.console.terminal import say
from vitreg.data.sets.synthetic.photographs import PHOTOGRAPHS, photograph
from vitreg.errors import UserError
from vitreg.passes import ahead
from vitreg.passes.options import split, takes
from vitreg.records import ScanResult
from vitreg.report.demo.page import Act, Shown, write_acts
from vitreg.verbs.demo.acts import NATURAL, Measured, born, measured, planted
from vitreg.verbs.demo.options import DemoOptions
from vitreg.writing.files import output_folder, replacing

CANDIDATES = ("astronaut", "coffee", "cat")


@takes(DemoOptions)
def demo(out: str | Path, *, options: DemoOptions | None = None, **keywords: Any) -> dict[str, ScanResult]:
    """Scan a pair that was born by training and a planted one, and write a page of acts and all reports.

    Args:
        out: folder for `index.html`, the comparisons `born.html` and `planted.html`, the scans in `born/`, `born-reg4/`, `planted/`
            and `clean/`, and the `photographs/` that the planted pair sees.
        options: see `DemoOptions`; keywords override them.
        keywords: kind, the artifact to plant, see `vitreg.specs.PLANTED`.
    Returns:
        the scans by the names of their folders.
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
    say("Nothing is downloaded: the tiles are drawn, and the photographs and crops of them are scikit-image's own.")
    pairs = [measured(born(), folder), measured(planted(kind, folder / "photographs", CANDIDATES), folder)]
    with outputs.adding() as place:
        for each in pairs:
            write_comparison(
                [(role.title, result, role.name) for role, result in zip(each.pair.roles, each.results, strict=True)],
                place / each.pair.comparison,
                title=f"{each.pair.name.capitalize()}: {each.pair.title[0].lower()}{each.pair.title[1:]}",
                note=each.pair.note,
                pictures=each.pictures,
            )
        first, last = map(_act, pairs)
        write_acts(
            [first, Act("natural", "None yet: a pair trained on photographs", NATURAL), last], place / "index.html"
        )
    say()
    return {role.name: result for each in pairs for role, result in zip(each.pair.roles, each.results, strict=True)}


def _act(each: Measured) -> Act:
    """Return a pair as the page shows it."""
    models = [
        Shown(role.title, result, f"{role.name}/report.html")
        for role, result in zip(each.pair.roles, each.results, strict=True)
    ]
    return Act(each.pair.name, each.pair.title, each.pair.note, models, each.pictures, each.pair.comparison)


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
