"""`vitreg repairs`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from vitreg.cli.command import IMAGES_HELP, SPEC_HELP, check_place, models_of, named_images, open_with
from vitreg.console.exits import Exit
from vitreg.console.terminal import say
from vitreg.errors import UserError
from vitreg.passes.options import LoadOptions
from vitreg.quantities import number, percent
from vitreg.verbs.repairs.options import RepairsOptions, methods_of

if TYPE_CHECKING:
    from vitreg.results import RepairRow


@dataclass(frozen=True, kw_only=True)
class Repairs:
    """The words of `vitreg repairs`."""

    spec: Annotated[Positional[str], arg(metavar="SPEC", help=f"{SPEC_HELP}, for each of several models")]
    images: Annotated[
        Positional[tuple[str, ...]], arg(metavar="IMAGES...", help=IMAGES_HELP, help_behavior_hint="(at least one)")
    ]
    out: Path = Path("vitreg-repairs")
    """Folder for the results."""
    repairs: OmitArgPrefixes[RepairsOptions] = field(default_factory=RepairsOptions)
    """What is compared."""
    model: OmitArgPrefixes[LoadOptions] = field(default_factory=LoadOptions)

    def check(self) -> None:
        """Refuse mistakes that show before a model is loaded."""
        from vitreg.passes import ahead

        models, options = models_of(self.spec, commas=False), self.repairs
        methods_of(options.methods)
        if self.model.weights is not None and len(models) > 1:
            raise UserError(f"--weights belong to one model, not to {len(models)}; compare the models one by one.")
        for spec in [*models, *([options.twin] if options.twin else [])]:
            self.model.check(spec, self.model.weights)
        ahead.refuse_absent_inputs(named_images(self.images))
        ahead.refuse_absent_truth(boxes=options.boxes, masks=options.masks, labels=options.labels)
        ahead.refuse_other_repairs(self.out)
        truth = (options.boxes, options.masks, options.labels)
        check_place(ahead.repairs_outputs(self.out, self.images, *truth, self.model.weights))

    def __call__(self) -> int:
        """Run the verb. Returns the exit code."""
        from vitreg.verbs.repairs.verb import repairs

        result = repairs(
            models_of(self.spec, commas=False), list(self.images), out=self.out, options=self.repairs,
            weights=self.model.weights, quiet=False, ended=lambda row: say(in_a_line(row)), **self.model.given(),
        )  # fmt: skip
        if result.skipped:
            say(f"{len(result.skipped)} images could not be read; they are listed in result.json.")
        for each in result.undrawn:
            say(each.sentence)
        if not result.repairable:
            say(
                "vitreg: no model has outliers on these images, so there is nothing to repair; --force does it.",
                error=True,
            )
        page = self.out / "report.html"
        open_with(page if page.is_file() else self.out / "result.json")
        return Exit.DONE if result.repairable else Exit.NOTHING_TO_REPAIR


def in_a_line(row: RepairRow) -> str:
    """Return a row as a line: what is left of the outliers, and what it changed."""
    name = f"{row.model}  {row.method}" + (f" ({row.control})" if row.control else "")
    if row.failed:
        return f"{name}: {row.failed}"
    words = [f"outliers {percent(value / 100)}" for value in _values(row, "outliers_peak")]
    words += [f"norm ratio {number(value)}" for value in _values(row, "ratio_peak")]
    if row.method != "none" or row.control:
        words += [f"CLS changed by {number(value)}" for value in _values(row, "cls_change")]
        words += [f"normal tokens by {number(value)}" for value in _values(row, "normal_change")]
        words += [f"latency x {number(value)}" for value in _values(row, "latency")]
        words += ["identical"] if row.identical else []
    said = [*row.notes, *(["forced: it has no outliers"] if row.forced else []), *(["kept"] if row.kept else [])]
    return f"{name}: {', '.join(words)}" + "".join(f"; {each}" for each in said)


def _values(row: RepairRow, column: str) -> list[float]:
    return [row.cells[column].value] if column in row.cells else []
