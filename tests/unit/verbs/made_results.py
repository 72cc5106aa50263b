"""A small record of an evaluation, made by hand."""

from vitreg.records import Provenance
from vitreg.results import EvalData, EvalModel, EvalResult
from vitreg.verbs.eval.settings.whole_image import KnnSettings


def result(**changes):
    fields = {
        "schema": "vitreg.eval/1",
        "task": "knn",
        "title": KnnSettings.title,
        "measured": KnnSettings.measured,
        "model": EvalModel(
            spec="timm:a", library="timm", blocks=2, width=8, registers=0, patch=(8, 8), weights="library", weights_sha256="0"
        ),
        "data": EvalData(name="pictures", counts={"train": 10, "test": 200}),
        "headline": "top1",
        "metrics": {"top1": 71.5},
        "controls": {"chance": 10.0},
        "protocol": {"threshold": 29.18565416651285},
        "provenance": Provenance(
            vitreg="0", command="Python", started="2026-01-01", seconds=1.0, python="3", packages={}, hardware="a CPU",
            device="cpu", precision="float32", processes=1, git=None, seed=0,
        ),
    }  # fmt: skip
    return EvalResult(**{**fields, **changes})
