"""`vitreg zoo`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from vitreg.cli.command import IMAGES_HELP, check_place, open_result, open_with
from vitreg.console.exits import Exit
from vitreg.console.terminal import say
from vitreg.errors import UserError
from vitreg.passes.options import ModelOptions
from vitreg.quantities import count
from vitreg.verbs.zoo.options import ZooOptions

if TYPE_CHECKING:
    from vitreg.records.zoo import BoardRow


@dataclass(frozen=True, kw_only=True)
class Zoo:
    """The words of `vitreg zoo`."""

    images: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="IMAGES...", help=IMAGES_HELP, help_behavior_hint="(none for records alone)"),
    ] = ()
    model: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(
            aliases=("-m",), metavar="SPEC", help_behavior_hint="(one for each; @public, @dinov2 and so on for groups)"
        ),
    ] = ()
    """A model, a group of the public list, or the folder of a scan."""
    out: Path = Path("vitreg-zoo")
    """Folder for the results."""
    badge: Path | None = None
    """Write badge.svg and a section for the model card of this scan (its folder) into --out, and stop."""
    zoo: OmitArgPrefixes[ZooOptions] = field(default_factory=ZooOptions)
    """What is scanned."""
    load: OmitArgPrefixes[ModelOptions] = field(default_factory=ModelOptions)

    @property
    def options(self) -> ZooOptions:
        """What is scanned, with the models of -m."""
        return replace(self.zoo, models=self.model)

    def check(self) -> None:
        """Refuse mistakes that show before a model is loaded."""
        from vitreg.passes import ahead
        from vitreg.verbs.compare import read_scan
        from vitreg.verbs.zoo.named import asked_for

        if self.badge is not None:
            if self.images or self.model:
                raise UserError("--badge takes the folder of one scan, and neither images nor models.")
            read_scan(self.badge.parent if self.badge.name == "result.json" else self.badge)
            check_place(ahead.badge_outputs(self.out, self.badge))
            return
        for spec in asked_for(self.images, self.options).models:
            self.load.check(spec, None)
        ahead.refuse_absent_inputs(self.images)
        check_place(ahead.zoo_outputs(self.out, *self.images))

    def __call__(self) -> int:
        """Run the verb. Returns the exit code."""
        if self.badge is not None:
            from vitreg.verbs.zoo.card import badge

            open_with(badge(self.badge, out=self.out))
            return Exit.DONE
        from vitreg.verbs.zoo.verb import zoo

        board = zoo(
            self.images, out=self.out, options=self.options, quiet=False, started=lambda job: say(f"{job.name} ..."),
            waits=lambda job: say(f"waiting for another process: {job.name}"), ended=_Ended(), **self.load.given(),
        )  # fmt: skip
        for each in board.undrawn:
            say(each.sentence)
        failed = [row for row in board.rows if row.failed]
        if failed:
            say(f"{len(failed)} of {count(len(board.rows), 'model')} failed; the board names each with its reason.")
        open_result(self.out)
        if len(failed) == len(board.rows):
            raise UserError(f"no model could be scanned; the first, {failed[0].model}: {failed[0].failed}")
        return Exit.DONE


class _Ended:
    """Prints each row, and how long the rest will take if it goes on so."""

    def __init__(self) -> None:
        self.begun = time.monotonic()

    def __call__(self, row: BoardRow, done: int, of: int) -> None:
        from vitreg.report.zoo.words import in_a_line

        passed = time.monotonic() - self.begun
        left = f" ({timedelta(seconds=round(passed / done * (of - done)))} left)" if done < of and passed > 1 else ""
        say(f"{done} of {of}: {in_a_line(row)}{left}")
