"""A run of `reproduce` with scans, maps, probes, boxes and a training, killed at ten random moments, ends as one that was not."""

import random
import shutil
import signal

import pytest
from tests.unit.experiments.killed import kept, life, opened

import vitreg

pytestmark = pytest.mark.usefixtures("planted_once", "few_resamples", "blank_figures", "undrawn", "tiny_scale", "small")
IDS = (
    "fig2",
    "fig3",
    "fig4a",
    "fig4b",
    "fig5b",
    "fig6",
    "fig9",
    "fig10",
    "fig11",
    "fig12",
    "fig13",
    "table1",
    "table3",
)
MODELS = ("planted:high-norm", "planted:clean", "planted:global-registers")


@pytest.fixture
def small(monkeypatch):
    """What looks at many images looks at few."""
    monkeypatch.setattr("vitreg.experiments.pictures.fig13.IMAGES", 4)
    monkeypatch.setattr("vitreg.experiments.maps.objects.IMAGES", 4)
    monkeypatch.setattr("vitreg.experiments.maps.seen.IMAGES", 6)


@pytest.fixture(scope="module")
def photos(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed") / "photos"
    folder.mkdir()
    for path in photographs[:6]:
        shutil.copy(path, folder)
    return folder


def words(photos, out):
    return {
        "out": out, "models": MODELS, "images": (str(photos),), "batch_size": 2, "workers": 0,
        "classes": "synthetic:scenes@0:80", "boxes": "synthetic:scenes@0:8", "train": "synthetic:scenes@1:32",
    }  # fmt: skip


@pytest.mark.slow
def test_ten_kills_at_random_moments(photos, tmp_path):
    whole, out, draw = tmp_path / "whole", tmp_path / "out", random.Random(0)
    files = opened(lambda: vitreg.reproduce(IDS, **words(photos, whole)))
    moments = [
        ("scanning", draw.randint(1, 2)), ("keeping", 2), ("scanning", draw.randint(1, 2)), ("opening", draw.randint(1, files // 4)),
        ("training", draw.randint(1, 3)), ("training", draw.randint(1, 3)), ("opening", draw.randint(1, files // 8)),
        ("judging", draw.randint(1, 40)), ("writing", draw.randint(1, 30)), ("drawing", draw.randint(1, 8)),
    ]  # fmt: skip
    for event, at in moments:
        done = life(lambda: vitreg.reproduce(IDS, **words(photos, out)), event, at)
        assert done == -signal.SIGKILL, (event, at)
        assert not [path for path in out.glob("jobs/*.json") if '"failed": ""' not in path.read_text()]
    found = vitreg.reproduce(IDS, **words(photos, out))
    assert not found.undrawn
    assert not [each.failed for record in found.experiments for each in record.measured if each.failed]
    assert any(name.endswith("model.safetensors") for name in kept(out))
    assert kept(out) == kept(whole)
