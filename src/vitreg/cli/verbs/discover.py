"""`vitreg discover`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from vitreg.cli.command import IMAGES_HELP, OfModel, check_place, named_images, notice, open_with, speaks
from vitreg.console.exits import Exit
from vitreg.console.terminal import say
from vitreg.data.sets.spelling import spelled
from vitreg.verbs.discover.options import DiscoverOptions
from vitreg.verbs.discover.setting import refuse_blind_sweep
from vitreg.writing.files import missing


@dataclass(frozen=True, kw_only=True)
class Discover(OfModel):
    """The words of `vitreg discover`."""

    images: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="IMAGES...",
            help=f"{IMAGES_HELP}; or voc2007:ROOT, voc2012:ROOT[@LIST], coco20k:ROOT[@LIST] with their boxes",
            help_behavior_hint="(at least one)",
        ),
    ]
    boxes: Path | None = None
    """True boxes: a folder of VOC annotations (.xml) or a COCO instances file (.json)."""
    out: Path = Path("vitreg-discover")
    """Folder for the results."""
    discover: OmitArgPrefixes[DiscoverOptions] = field(default_factory=DiscoverOptions)
    """How to look for objects."""

    def check(self) -> None:
        """Refuse mistakes that show before a model is loaded."""
        from vitreg.data.boxes.named import is_named
        from vitreg.passes import ahead

        super().check()
        if is_named(self.images):
            notice(self.images[0], spelled(self.images[0]))
            return  # a named set, which the verb checks before it loads a model
        setting, grid = self.discover.chosen()
        refuse_blind_sweep(setting, grid, boxes=self.boxes is not None)
        ahead.refuse_absent_inputs(named_images(self.images))
        if self.boxes is not None and not self.boxes.expanduser().exists():
            raise missing(self.boxes, "file or folder of boxes")
        check_place(ahead.discover_outputs(self.out, self.images, self.boxes, self.model.weights))

    def __call__(self) -> int:
        """Run the verb. Returns the exit code."""
        from vitreg.verbs.discover.verb import discover, summary

        places = [self.out]
        result = discover(
            self.spec, named_images(self.images), boxes=self.boxes, out=self.out, options=self.discover, quiet=False,
            written=places.append, **self.loading,
        )  # fmt: skip
        if speaks():
            say(summary(result))
            drawn = places[-1] / "pictures"
            pictures = sorted(drawn.glob("boxes*.png")) or sorted(drawn.glob("*.png"))
            open_with(pictures[0] if pictures else places[-1] / "boxes.json")
        return Exit.INTERRUPTED if result.images.interrupted else Exit.DONE
