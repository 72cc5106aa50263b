"""What the experiments of a run share: models, data, and the verbs, called once for each model through the jobs of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vitreg.errors import UserError
from vitreg.features.key import hash_of_data
from vitreg.passes.jobs import Job, Jobs, Row
from vitreg.records import ScanResult
from vitreg.results import DiscoverResult, EvalResult
from vitreg.specs import whole

R = TypeVar("R", ScanResult, EvalResult, DiscoverResult)
RECORD = "result.json"
HOW_FAST = ("batch_size", "workers")  # change no number


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Models and data of a run.

    Args:
        jobs: of the run's folder.
        models: specs.
        images: paths or a named set; for what needs no truth.
        classes: DATA with classes and two sides; empty where there is none.
        boxes: a named set with true boxes; empty where there is none.
        reading: how images reach a model: size, fit, limit, batch_size, workers, as the keywords of every verb.
        loading: keywords of `vitreg.load`.
    """

    jobs: Jobs
    models: tuple[str, ...]
    images: tuple[str, ...]
    classes: str = ""
    boxes: str = ""
    seed: int = 0
    reading: Mapping[str, Any]
    loading: Mapping[str, Any]

    def scan(self, model: str) -> tuple[ScanResult, str]:
        """Return the scan of a model on the images, and the key of its job.

        Raises:
            UserError: if it failed.
        """
        from vitreg.verbs.scan.verb import scan

        def work(folder: Path) -> dict[str, Any]:
            found = scan(model, list(self.images), out=folder, seed=self.seed, **self.reading, **self.loading)
            return _whole(found.images.interrupted)

        return self._result(
            ScanResult, f"scan of {model}", {"verb": "scan", "images": self.data(*self.images)}, model, work
        )

    def evaluate(self, model: str, task: str, data: str) -> tuple[EvalResult, str]:
        """Return a task's result for a model, with the task's defaults, and the key of its job.

        Raises:
            UserError: if it failed.
        """
        from vitreg.verbs.eval.verb import evaluate

        def work(folder: Path) -> dict[str, Any]:
            evaluate(model, task, data, out=folder, seed=self.seed, **self.reading, **self.loading)
            return {}

        asked = {"verb": "eval", "task": task, "data": self.data(data)}
        return self._result(EvalResult, f"{task} of {model}", asked, model, work)

    def discover(self, model: str) -> tuple[DiscoverResult, str]:
        """Return the objects that LOST finds with a model, and the key of its job.

        Raises:
            UserError: if it failed.
        """
        from vitreg.verbs.discover.verb import discover

        def work(folder: Path) -> dict[str, Any]:
            found = discover(model, self.boxes, out=folder, limit=self.reading["limit"], **self.loading)
            return _whole(found.images.interrupted)

        return self._result(
            DiscoverResult, f"objects of {model}", {"verb": "discover", "images": self.data(self.boxes)}, model, work
        )

    @property
    def folder_of_images(self) -> str:
        """The images as one DATA of `vitreg eval`. Raises UserError where they are several paths."""
        if len(self.images) > 1:
            raise UserError("this experiment reads the images as one folder, archive or named set; name one.")
        return "".join(self.images)  # the only one

    def done(
        self, name: str, asked: dict[str, Any], model: str, work: Callable[[Path], dict[str, Any]]
    ) -> tuple[Path, str]:
        """Do something with a model, unless it is done, and return the folder of what it wrote, and the key of its job.

        Args:
            name: for people. asked: what is done, and with which data. work: gets the folder.
        Raises:
            UserError: if it failed.
        """
        settings = {
            **asked, "model": model, "weights": self.data(whole(model).partition(":")[2]), "seed": self.seed,
            "given": {name: str(value) for name, value in {**self.reading, **self.loading}.items() if name not in HOW_FAST},
        }  # fmt: skip
        job = Job(name, settings)
        row: Row = self.jobs.do(job, work)
        if row.failed:
            raise UserError(row.failed)
        return self.jobs.files(job), job.key

    def _result(
        self, kind: type[R], name: str, asked: dict[str, Any], model: str, work: Callable[[Path], dict[str, Any]]
    ) -> tuple[R, str]:
        folder, key = self.done(name, asked, model, work)
        return kind.model_validate_json((folder / RECORD).read_bytes()), key

    def data(self, *given: str) -> list[str]:
        """Name data with what tells whether its files are the same."""
        return [word for each in given for word in (each, hash_of_data(each))]


def _whole(interrupted: bool) -> dict[str, Any]:
    """Let a job end that saw all its images; one that Ctrl-C stopped goes on in the next run."""
    if interrupted:
        raise KeyboardInterrupt
    return {}
