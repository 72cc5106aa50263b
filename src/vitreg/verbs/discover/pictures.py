"""Which images of `vitreg discover` are shown, and the words on their sheets. `report.sheets.boxes` draws them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from vitreg.machine.runtime import Processes
from vitreg.report.sheets.boxes import Picture, Steps, box_sheets, step_sheets
from vitreg.report.sheets.sheet import Sheet
from vitreg.results import DiscoverResult
from vitreg.verbs.discover.judge import Judged
from vitreg.verbs.discover.model import Photograph
from vitreg.verbs.discover.search import Found
from vitreg.verbs.discover.setting import Setting

NAMES = {"lost": "LOST", "tokencut": "TokenCut", "maskcut": "MaskCut"}
CAPTIONS = {
    "lost": (
        "Inverse degree: share of the patches that a patch is not similar to. The seed has the largest, and its row of the "
        "Gram matrix says how similar the others are to it. Red: seed. Yellow: its similars among the patches of lowest "
        "degree. Blue: patches that are similar to those and hang together with the seed."
    ),
    "tokencut": (
        "Eigenvector: the second smallest eigenvector of the graph of similar patches. Blue: the side of the cut that counts as "
        "object, as far as it hangs together with its strongest patch (red)."
    ),
}
CAPTIONS["maskcut"] = CAPTIONS["tokencut"]


class Gallery:
    """Keeps the first images of a pass: small copies, boxes, and the steps of the method.

    Args:
        pictures: number of images shown with their boxes.
        steps: number of images shown with the steps.
    """

    def __init__(self, pictures: int, steps: int) -> None:
        self._most = (pictures, steps)
        self._pictures: list[tuple[int, Picture]] = []
        self._steps: list[tuple[int, Steps]] = []

    def add(
        self, row: Judged, photograph: Photograph, found: Found, grid: tuple[int, int], patch: tuple[int, int]
    ) -> None:
        """Keep an image if there is room."""
        if len(self._pictures) >= max(self._most):
            return
        overlap = None if row.overlaps is None else float(row.overlaps[0])
        picture = Picture(
            name=row.name, pixels=photograph.shown, size=row.size, found=row.boxes, true=row.true, overlap=overlap
        )
        self._pictures.append((row.index, picture))
        if len(self._steps) < self._most[1]:
            rows, cols = grid
            _, _, width, height = photograph.to_original((0, 0, cols * patch[1], rows * patch[0]))
            steps = Steps(picture=picture, full=(height, width), maps=found.maps, regions=found.regions)
            self._steps.append((row.index, steps))

    def merge(self, group: Processes) -> None:
        """Merge the images of all processes in order and keep the first."""
        pictures = sorted(itertools.chain(*group.gather(self._pictures)), key=lambda each: each[0])
        steps = sorted(itertools.chain(*group.gather(self._steps)), key=lambda each: each[0])
        self._pictures, self._steps = pictures[: self._most[0]], steps[: self._most[1]]

    @property
    def pictures(self) -> list[Picture]:
        """The images that are kept, in their order."""
        return [picture for _, picture in self._pictures]

    def sheets(self, result: DiscoverResult, chosen: Setting) -> Iterator[tuple[str, Sheet]]:
        """Yield file names and sheets."""
        subtitle = f"{result.model.spec}, {chosen.words()}"
        if result.corloc is not None:
            subtitle += f"\nCorLoc {result.corloc.value:.1f} % on {result.corloc.images} images"
        if result.without_box:
            reasons = "; ".join(f"{count}: {why}" for why, count in result.without_box.items())
            subtitle += f"\nNo box in {sum(result.without_box.values())} of {result.images.seen} images ({reasons})"
        if result.by_chance:
            subtitle += (
                f"\nThe box is of patches strewn as by chance in {result.by_chance} of {result.images.seen} images"
            )
        shown = self.pictures
        which = f"The first {len(shown)} images in their order, not chosen."
        yield from _named("boxes", box_sheets(shown, title="Objects found", subtitle=subtitle, caption=which))
        steps = [step for _, step in self._steps]
        caption = f"The first {len(steps)} images, not chosen. Grey beside an image: padding. {CAPTIONS[chosen.method]}"
        title = f"Steps of {NAMES[chosen.method]}"
        yield from _named("steps", step_sheets(steps, title=title, subtitle=subtitle, caption=caption))


def _named(name: str, sheets: list[Sheet]) -> Iterator[tuple[str, Sheet]]:
    for number, sheet in enumerate(sheets, start=1):
        yield (f"{name}-{number}.png" if len(sheets) > 1 else f"{name}.png"), sheet
