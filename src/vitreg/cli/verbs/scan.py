"""`vitreg scan`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes

from vitreg.cli.command import OverImages, check_place, open_result, speaks
from vitreg.console.exits import Exit
from vitreg.console.terminal import say
from vitreg.errors import UserError
from vitreg.quantities import percent
from vitreg.verbs.scan.options import ScanOptions

if TYPE_CHECKING:
    from vitreg.records import ScanResult


@dataclass(frozen=True, kw_only=True)
class Scan(OverImages):
    """The words of `vitreg scan`."""

    out: Path = Path("vitreg-scan")
    """Folder for the results."""
    fail_above: float | None = None
    """Exit with code 3 if more than this share of the patch tokens are outliers."""
    scan: OmitArgPrefixes[ScanOptions] = field(default_factory=ScanOptions)
    """How to scan."""

    def check(self) -> None:
        """Refuse mistakes that show before a model is loaded."""
        from vitreg.passes import ahead

        if self.fail_above is not None and not 0 <= self.fail_above <= 1:
            raise UserError(f"--fail-above is a share between 0 and 1, not {self.fail_above:g}.")
        super().check()
        ahead.refuse_other_scan(self.out)
        check_place(ahead.scan_outputs(self.out, self.images, self.model.weights))

    def __call__(self) -> int:
        """Run the verb. Returns the exit code."""
        from vitreg.verbs.scan.verb import scan

        places = [self.out]
        result = scan(
            self.spec, list(self.images), out=self.out, options=self.scan, quiet=False, written=places.append,
            **self.loading,
        )  # fmt: skip
        if speaks():
            _print(result, places[-1])
        if result.images.interrupted:
            return Exit.INTERRUPTED
        if self.fail_above is not None and result.verdict.outlier_fraction > self.fail_above:
            say(
                f"vitreg: {percent(result.verdict.outlier_fraction)} of the patch tokens are outliers, "
                f"over --fail-above {self.fail_above:g}.",
                error=True,
            )
            return Exit.OVER_BUDGET
        return Exit.DONE


def _print(result: ScanResult, out: Path) -> None:
    from vitreg.verbs.scan.verb import summary

    images = result.images
    if images.interrupted:
        of = f" of {images.planned}" if images.planned else ""
        say(f"Stopped after {images.seen}{of} images; this is what they say.")
    if images.skipped:
        say(f"{len(images.skipped)} images could not be read (listed in result.json); scanned {images.seen}.")
    for note in result.model.notes:
        say(note)
    say(summary(result.verdict))
    for each in result.undrawn:
        say(each.sentence)
    if result.provenance.precision_choice is not None:
        say(result.provenance.precision_choice.sentence)
    open_result(out)
