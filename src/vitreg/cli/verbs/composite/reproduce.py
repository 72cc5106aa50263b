"""`vitreg reproduce`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from vitreg.cli.command import check_place, open_with
from vitreg.console.exits import Exit
from vitreg.console.terminal import say
from vitreg.errors import UserError
from vitreg.experiments.options import ReproduceOptions
from vitreg.passes.options import LoadOptions

if TYPE_CHECKING:
    from vitreg.records.reproduction import ExperimentRecord


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """The words of `vitreg reproduce`."""

    ids: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="ID...",
            help="Experiments, such as fig3 table1.",
            help_behavior_hint="(all without; --list names them)",
        ),
    ] = ()
    model: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(aliases=("-m",), metavar="SPEC", help_behavior_hint="(one for each model; the scale's if unset)"),
    ] = ()
    """A model to look at in place of the scale's."""
    out: Path = Path("vitreg-reproduction")
    """Folder for the results."""
    only: Literal["claims", "figures"] | None = None
    """Judge or draw again from the records of an earlier run in --out."""
    list: bool = False
    """List the experiments, what each shows, needs and costs, and stop."""
    dry_run: bool = False
    """Say what the experiments need and cost, from formulas, and stop."""
    reproduce: OmitArgPrefixes[ReproduceOptions] = field(default_factory=ReproduceOptions)
    """What is looked at."""
    load: OmitArgPrefixes[LoadOptions] = field(default_factory=LoadOptions)

    @property
    def options(self) -> ReproduceOptions:
        """What is looked at, with the models of -m."""
        return replace(self.reproduce, models=self.model)

    def check(self) -> None:
        """Refuse mistakes that show before a model is loaded."""
        from vitreg.experiments.known import experiments_named
        from vitreg.passes import ahead

        experiments_named(self.ids)
        if self.list or self.dry_run:
            return
        ahead.refuse_weights(self.load.weights, len(self.model))
        self._check_models()
        for each in self._absent():
            say(each, error=True)
        check_place(ahead.reproduce_outputs(self.out, *self.reproduce.images, self.load.weights))

    def _check_models(self) -> None:
        """Refuse models of which none can be taken; of several, the others are looked at."""
        refused = []
        for spec in self.options.subjects:
            try:
                self.load.check(spec, self.load.weights)
            except UserError as error:
                refused.append(error)
        if refused and len(refused) == len(self.options.subjects):
            raise refused[0]

    def _absent(self) -> list[str]:
        """Say which data that were named do not exist. Raises UserError where no experiment can do without."""
        from vitreg.experiments.known import experiments_named
        from vitreg.experiments.shared.absent import absent, refuse_absent

        found = absent(self.options)
        refuse_absent(found, experiments_named(self.ids), self.options, bool(self.ids))
        return list(found.values())

    def __call__(self) -> int:
        """Run the verb. Returns the exit code.

        Raises:
            UserError: once all else is written, if no model could be measured, or data that were named do not exist.
        """
        from vitreg.experiments.known import experiments_named

        if self.list or self.dry_run:
            from vitreg.experiments.plan import lines

            for line in lines(experiments_named(self.ids), self.options, named=bool(self.ids)):
                say(line)
            return Exit.DONE
        from vitreg.experiments.reproduce import reproduce

        ended: list[ExperimentRecord] = []

        def tell(each: ExperimentRecord) -> None:
            ended.append(each)
            say(in_lines(each))

        reproduce(
            self.ids, out=self.out, only=self.only, options=self.options, started=lambda job: say(f"{job.name} ..."),
            waits=lambda job: say(f"waiting for another process: {job.name}"), ended=tell,
            weights=self.load.weights, **self.load.given(),
        )  # fmt: skip
        open_with(self.out / "report.html")
        refuse_unmeasured(ended)
        if (left := self._absent()) and self.only is None:
            raise UserError(left[0])
        return Exit.DONE


def refuse_unmeasured(records: Sequence[ExperimentRecord]) -> None:
    """Raise UserError if nothing could be measured of any model that the experiments looked at."""
    from vitreg.experiments.known import EXPERIMENTS

    found = [each for record in records for each in record.measured]
    models = [each for record in records if not EXPERIMENTS[record.id].subjects for each in record.measured]
    asked = models or found
    if asked and all(each.failed for each in asked):
        what = "no model could be measured" if models else "nothing could be measured"
        raise UserError(f"{what}; the first, {asked[0].subject}: {asked[0].failed}")


def in_lines(each: ExperimentRecord) -> str:
    """Return an experiment as lines: what became of each claim."""
    lines = [f"{each.label}: {each.title}"]
    return "\n".join(
        [*lines, *(f"  {claim.outcome}: {claim.subject}: {claim.id}. {claim.reason}" for claim in each.claims)]
    )
