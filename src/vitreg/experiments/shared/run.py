"""A run as every process that shares it needs it, and the records that come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitreg.errors import UserError
from vitreg.experiments.known import experiments_named
from vitreg.experiments.lacking import Need
from vitreg.experiments.options import ReproduceOptions
from vitreg.experiments.runner import run_all
from vitreg.experiments.setting import Setting
from vitreg.experiments.shared.absent import absent
from vitreg.experiments.subjects import models_of, read_by, runs
from vitreg.passes.jobs import Job, Jobs
from vitreg.records.reproduction import ExperimentRecord

PHOTOGRAPHS = "photographs"
OWN_IMAGES = "photographs that scikit-image ships, and crops of them"
READING = ("size", "fit", "limit", "batch_size", "workers")


@dataclass(frozen=True)
class Run:
    """What is asked.

    Args:
        ids: experiments, as the user named them; all without.
        loading: how models are loaded. weights: a checkpoint for the one model named.
    """

    ids: tuple[str, ...]
    folder: Path
    options: ReproduceOptions
    loading: Mapping[str, Any]
    weights: str | Path | None = None

    @property
    def measures(self) -> bool:
        """Whether it measures anything, beside closed forms."""
        return any(each.needs for each in experiments_named(self.ids))

    @property
    def own_images(self) -> bool:
        """Whether it looks at the photographs that scikit-image ships."""
        return "images" in self.reads and not self.options.images and self.options.scale != "paper"

    @property
    def reads(self) -> tuple[Need, ...]:
        """The data that the experiments of the run read, by the names of their options."""
        asked = [each for each in experiments_named(self.ids) if runs(each, self.options, bool(self.ids))]
        return tuple(dict.fromkeys(need for each in asked for need in read_by(each, models_of(each, self.options))))

    @property
    def called(self) -> str:
        """The images that are looked at, in words; empty where there are none."""
        if "images" not in self.reads:
            return ""
        return ", ".join(self.options.images) or (OWN_IMAGES if self.own_images else "")

    def records(
        self, jobs: Jobs, ended: Callable[[ExperimentRecord], object] = lambda record: None
    ) -> Iterator[ExperimentRecord]:
        """Measure what no other process does, and yield the record of each experiment as it ends.

        Args:
            ended: called with each.
        """
        images = (_photographs(jobs),) if self.own_images else self.options.images
        yield from run_all(
            experiments_named(self.ids), self._setting(jobs, images), self.options, named=bool(self.ids), ended=ended
        )

    def _setting(self, jobs: Jobs, images: tuple[str, ...]) -> Setting:
        options, lacking = self.options, absent(self.options)
        data = {name: "" if name in lacking else held for name, held in options.data.items()}
        return Setting(
            jobs=jobs, models=options.subjects, images=() if "images" in lacking else images, called=self.called, absent=lacking,
            scale=options.scale, longer=options.longer, seed=options.seed, **data,
            reading={name: getattr(options, name) for name in READING}, loading=dict(self.loading),
            weights="" if self.weights is None else str(self.weights),
        )  # fmt: skip


def _photographs(jobs: Jobs) -> str:
    """Write scikit-image's photographs, and return where. A job like any other: whole, or done again.

    Raises:
        UserError: if scikit-image is not installed.
    """
    from vitreg.verbs.demo.verb import write_photographs

    def work(folder: Path) -> dict[str, Any]:
        write_photographs(folder / PHOTOGRAPHS)
        return {}

    job = Job("photographs of scikit-image", {"photographs": "scikit-image"})
    row = jobs.do(job, work)
    if row.failed:
        raise UserError(row.failed)
    return str(jobs.files(job) / PHOTOGRAPHS)
