"""`vitreg eval SPEC causal IMAGES`: what stands in the record and what a person reads."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.repair.causal.reading_sinks import SIDE, network

import vitreg
from vitreg.backbones import Backbone
from vitreg.data.views.transforms import IMAGENET, Preprocess
from vitreg.errors import UserError
from vitreg.passes.bench import Bench
from vitreg.report.evaluation.page import render
from vitreg.verbs.eval.tasks.causal import Causal
from vitreg.verbs.eval.verb import summary

PLAIN = Preprocess((SIDE, SIDE), (SIDE, SIDE), IMAGENET.mean, IMAGENET.std, crop=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(32):
        pixels = draw.integers(0, 255, (8, 1, 8, 1, 3)).repeat(8, 1).repeat(8, 3).reshape(SIDE, SIDE, 3)
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{'ab'[number % 2]}_{number:02}.png")
    return root


def model(**options):
    return Backbone(network(**options), preprocess=PLAIN)


def labels(folder, path):
    """What the untouched model answers."""
    backbone = model()
    pictures = {each.stem: PLAIN(Image.open(each)) for each in sorted(folder.iterdir())}
    with torch.no_grad():
        classes = backbone.module(torch.stack(list(pictures.values()))).argmax(1)
    path.write_text(json.dumps(dict(zip(pictures, classes.tolist(), strict=True))))
    return path


def test_numbers_stand_beside_as_many_random_patches(folder, tmp_path):
    asked = Causal(labels=labels(folder, tmp_path / "labels.json"))
    found = vitreg.evaluate(model(), asked, folder, workers=0, batch_size=7)
    assert found.headline == "hidden_from_cls"
    low, high = found.intervals["hidden_from_cls"]
    assert found.controls["as many random patches"] < low < found.metrics["hidden_from_cls"] < high
    more = found.metrics["hidden_from_cls"] - found.controls["as many random patches"]
    assert found.metrics["hidden_from_cls_cls_more"] == pytest.approx(more)
    assert found.units["hidden_from_cls_right_more"] == "%"
    assert found.units["hidden_from_cls_kl_more"] == "nats"
    assert found.units["hidden_from_cls"] == ""
    assert found.data.counts == {"test": 16}
    assert [len(table.rows) for table in found.tables] == [13] * 4
    assert "(100 % untouched)" in found.tables[3].title
    assert "So the class token" in " ".join(found.notes)
    assert found.protocol["sinks"] == "outliers"
    assert found.protocol["sinks_an_image"] == 2


def test_a_model_that_does_not_use_its_outliers_is_an_answer_and_no_warning(folder):
    found = vitreg.evaluate(model(reads=False), Causal(), folder, workers=0)
    assert found.metrics["hidden_from_cls"] < found.controls["as many random patches"]
    assert "WARNING" not in summary(found)
    page = render(found)
    assert "No more than by chance" in page
    assert page.index("Hiding the sinks from the class token") < page.index("The number beside its controls")
    assert page.count("Hiding the sinks from the class token") == 1
    assert "says nothing of the model" not in page


@pytest.mark.slow
def test_a_twin_is_measured_on_the_same_images_or_the_reason_is_said(folder):
    found = vitreg.evaluate(model(), Causal(twin="planted:clean"), folder, workers=0, size=SIDE, limit=16)
    beside = [table for table in found.tables if table.title.startswith("Beside planted:clean")]
    assert [len(table.rows) for table in beside] == [13, 13, 13]
    assert "show it of the twin planted:clean" in " ".join(found.notes)
    assert "The twin: planted:clean has no outliers" in " ".join(found.notes)
    absent = vitreg.evaluate(model(), Causal(twin="planted:nothing"), folder, workers=0, limit=8)
    assert "The twin planted:nothing could not be measured: " in " ".join(absent.notes)
    assert all(math.isfinite(value) for value in absent.metrics.values())


def test_batches_do_not_matter(folder, tmp_path):
    one, two = (
        Causal().run(Bench(backbone=model(), data=str(folder), features=tmp_path, workers=0, batch_size=size, limit=12))
        for size in (3, 12)
    )
    assert one.metrics == pytest.approx(two.metrics, rel=1e-3, abs=1e-6)


def test_labels_that_do_not_exist_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="absent"):
        vitreg.evaluate(model(), Causal(labels=tmp_path / "absent.json"), folder, workers=0)
