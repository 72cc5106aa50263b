"""What the experiments of a run share: models, data, and the verbs, called once for each model through the jobs of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from vitreg.errors import UserError
from vitreg.experiments.lacking import LACKING, Need
from vitreg.experiments.options import Scale
from vitreg.experiments.trained.model import Trained
from vitreg.experiments.trained.scales import PROTOCOLS, config_of
from vitreg.features.key import hash_of_data
from vitreg.passes.jobs import HOW_FAST, Job, Jobs, Row, Work
from vitreg.records import ScanResult
from vitreg.results import DiscoverResult, EvalResult
from vitreg.specs import whole
from vitreg.training.settings import TrainConfig

R = TypeVar("R", ScanResult, EvalResult, DiscoverResult)
RECORD = "result.json"
FEATURES = "features"  # folder of the features of models trained here
GROWN = {"scan": 2, "position": 3, "pixels": 3}
"""Versions of records that grew: claims need what an earlier version lacks, so it is measured again."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Models and data of a run.

    Args:
        jobs: of the run's folder.
        models: specs.
        images: paths or a named set; for what needs no truth.
        classes: DATA with classes and two sides; empty where there is none.
        boxes: a named set with true boxes; empty where there is none.
        masks, depths: DATA with a class or a distance for every pixel; empty where there is none.
        train, captions: DATA to train on, for CLIP with captions; empty where there is none.
        scale: how models are trained and probed. longer: how many times as long.
        called: the images in words.
        absent: why data that were named cannot be read, by the name of their option; the data themselves are then empty.
        reading: how images reach a model: size, fit, limit, batch_size, workers, as the keywords of every verb.
        loading: keywords of `vitreg.load`.
        weights: a checkpoint for the one model named; empty where models bring their own.
    """

    jobs: Jobs
    models: tuple[str, ...]
    images: tuple[str, ...]
    classes: str = ""
    boxes: str = ""
    masks: str = ""
    depths: str = ""
    train: str = ""
    captions: str = ""
    called: str = ""
    absent: Mapping[Need, str] = field(default_factory=dict)
    scale: Scale = "smoke"
    longer: float = 1.0
    seed: int = 0
    reading: Mapping[str, Any]
    loading: Mapping[str, Any]
    weights: str = ""
    _trained: dict[str, Trained] = field(default_factory=dict, init=False)

    def trained(self, model: Trained) -> tuple[str, str]:
        """Train a model, unless it is trained, and return its SPEC and the key of its job.

        Raises:
            UserError: if it failed.
        """
        job, work = self.training(model)
        row = self.jobs.do(job, work)
        if row.failed:
            raise UserError(row.failed)
        spec = f"run:{self.jobs.files(job)}"
        self._trained[spec] = model
        return spec, job.key

    def training(self, model: Trained) -> tuple[Job, Work]:
        """Return the job that trains a model. Raises UserError where it cannot be trained."""
        from vitreg.experiments.trained.training import training_of

        config = self.config(model)
        return training_of(model, config, self.data(config.data.root), self.loading.get("device"))

    def config(self, model: Trained) -> TrainConfig:
        """Return the run that trains a model. Raises UserError where it cannot be trained."""
        return config_of(model, self.scale, self.trained_on(model), self.longer)

    def trained_on(self, model: Trained) -> str:
        """Return the DATA of a model. Raises UserError if there is none."""
        need: Need = "captions" if model.recipe == "clip" else "train"
        data = self.captions if model.recipe == "clip" else self.train
        if not data:
            raise UserError(self.lacks(need))
        return data

    def lacks(self, need: Need) -> str:
        """Say why data that an experiment needs cannot be read; empty if they can."""
        return "" if getattr(self, need) else self.absent.get(need, LACKING[need])

    def as_trained(self, model: str) -> Trained | None:
        """Return what was trained under a SPEC; None for a model that was not trained here."""
        return self._trained.get(model)

    def scan(self, model: str) -> tuple[ScanResult, str]:
        """Return the scan of a model on the images, and the key of its job.

        Raises:
            UserError: if it failed.
        """
        from vitreg.verbs.scan.verb import scan

        def work(folder: Path) -> dict[str, Any]:
            found = scan(
                model,
                list(self.images),
                out=folder,
                seed=self.seed,
                intervals=True,
                **self.reading,
                **self.loads(model),
            )
            return _whole(found.images.interrupted)

        return self._result(
            ScanResult,
            f"scan of {self._called(model)}",
            {"verb": "scan", "images": self.data(*self.images), "version": GROWN["scan"]},
            model,
            work,
        )

    def probe(self, model: str, task: str, data: str) -> tuple[EvalResult, str]:
        """Return a task's result for a model by the protocol of the scale, and the key of its job.

        Raises:
            UserError: if it failed.
        """
        return self.evaluate(model, task, data, **PROTOCOLS[self.scale].probes.get(task, {}))

    def evaluate(self, model: str, task: str, data: str, **settings: Any) -> tuple[EvalResult, str]:
        """Return a task's result for a model, with the task's defaults, and the key of its job.

        Args:
            settings: of the task, over its defaults.
        Raises:
            UserError: if it failed.
        """
        from vitreg.verbs.eval.verb import evaluate

        def work(folder: Path) -> dict[str, Any]:
            stored = {} if self.as_trained(model) is None else {"features": self.jobs.folder / FEATURES}
            evaluate(
                model, task, data, out=folder, seed=self.seed, **settings, **stored, **self.reading, **self.loads(model)
            )
            return {}

        asked = {"verb": "eval", "task": task, "data": self.data(data), **({"settings": settings} if settings else {})}
        asked |= {"version": GROWN[task]} if task in GROWN else {}
        return self._result(EvalResult, f"{task} of {self._called(model)}", asked, model, work)

    def discover(self, model: str) -> tuple[DiscoverResult, str]:
        """Return the objects that LOST finds with a model, and the key of its job.

        It reads keys; values of DeiT-III and CLIP that were trained here, as the paper does.

        Raises:
            UserError: if it failed.
        """
        from vitreg.verbs.discover.verb import discover

        held = self.as_trained(model)
        how = {"feature": "v"} if held is not None and held.recipe != "dinov2" else {}

        def work(folder: Path) -> dict[str, Any]:
            found = discover(model, self.boxes, out=folder, limit=self.reading["limit"], **how, **self.loads(model))
            return _whole(found.images.interrupted)

        asked = {"verb": "discover", "images": self.data(self.boxes), **how}
        return self._result(DiscoverResult, f"objects of {self._called(model)}", asked, model, work)

    def loads(self, model: str) -> dict[str, Any]:
        """Return how a model is loaded, as keywords of a verb."""
        given = self._weights(model)
        return {**self.loading, **({"weights": given} if given else {})}

    def _weights(self, model: str) -> str:
        return self.weights if model in self.models else ""

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
            **asked, **self._identity(model), "seed": self.seed,
            "given": {name: str(value) for name, value in {**self.reading, **self.loading}.items() if name not in HOW_FAST},
        }  # fmt: skip
        job = Job(name, settings)
        row: Row = self.jobs.do(job, work)
        if row.failed:
            raise UserError(row.failed)
        return self.jobs.files(job), job.key

    def _identity(self, model: str) -> dict[str, Any]:
        """Name a model with what tells whether its weights are the same: of one trained here, the job that did it."""
        held = self.as_trained(model)
        if held is not None:
            return {"model": held.name, "weights": [self.training(held)[0].key]}
        return {"model": model, "weights": self.data(self._weights(model) or whole(model).partition(":")[2])}

    def _called(self, model: str) -> str:
        held = self.as_trained(model)
        return model if held is None else held.name

    def _result(
        self, kind: type[R], name: str, asked: dict[str, Any], model: str, work: Callable[[Path], dict[str, Any]]
    ) -> tuple[R, str]:
        folder, key = self.done(name, asked, model, work)
        try:
            return kind.model_validate_json((folder / RECORD).read_bytes()), key
        except (OSError, ValidationError) as error:
            raise UserError(
                f"{folder / RECORD} is gone or damaged; delete {folder}, and the same command measures again."
            ) from error

    def data(self, *given: str) -> list[str]:
        """Name data with what tells whether its files are the same. Those of a job are named by its key, wherever the run lies."""
        named = [(each, self.jobs.within(each)) for each in given]
        return [word for each, own in named for word in ((each, hash_of_data(each)) if own is None else (own, ""))]


def _whole(interrupted: bool) -> dict[str, Any]:
    """Let a job end that saw all its images; one that Ctrl-C stopped goes on in the next run."""
    if interrupted:
        raise KeyboardInterrupt
    return {}
