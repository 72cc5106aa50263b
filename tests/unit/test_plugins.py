"""Plug-ins: found by a decorator and by entry points of installed packages; a faulty one is one sentence."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitreg
from vitreg import plugins
from vitreg.analysis.outliers import beyond
from vitreg.errors import UserError

pytestmark = pytest.mark.usefixtures("few_resamples", "blank_figures")


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    """Nothing added in a test is there in the next."""
    monkeypatch.setattr(plugins, "_added", {kind: {} for kind in plugins.GROUPS})
    yield
    plugins._declared.cache_clear()


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package: its entry points, as pip writes them, and its module."""

    def install(name, group, points, code):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))
        (tmp_path / f"{name}.py").write_text(code)
        plugins._declared.cache_clear()

    monkeypatch.syspath_prepend(tmp_path)
    yield install
    for name in [name for name in sys.modules if name.startswith("plugged_")]:
        del sys.modules[name]


IQR = """
import numpy as np
from vitreg.analysis.outliers import beyond

def iqr(histogram, side, factor=3.0):
    low, high = histogram.quantile(0.25), histogram.quantile(0.75)
    return beyond(histogram, side, high + factor * (high - low))
"""


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        values = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
    return folder


def iqr(histogram, side, factor=3.0):
    high = histogram.quantile(0.75)
    return beyond(histogram, side, high + factor * (high - histogram.quantile(0.25)))


def test_a_detector_of_a_script_gives_the_verdict(vitreg, photos, tmp_path):
    plugins.plugin("detector", "iqr")(iqr)
    done = vitreg("scan", "planted:high-norm", photos, "--detector", "iqr:4", "--size", "64", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert '"iqr:4"' in (tmp_path / "out" / "result.json").read_text()


def test_a_detector_of_an_installed_package_is_found_by_its_name(installed):
    from vitreg.analysis.outliers import detector
    from vitreg.testing import check_detector

    installed("plugged_iqr", "vitreg.detectors", {"iqr": "plugged_iqr:iqr"}, IQR)
    check_detector(detector("iqr"))
    assert "plugged_iqr" in sys.modules
    with pytest.raises(UserError, match=r"no detector 'iqrr'. Did you mean 'iqr'"):
        detector("iqrr")


def test_a_package_is_not_imported_before_its_name_is_asked_for(installed):
    from vitreg.analysis.outliers import detector

    installed("plugged_late", "vitreg.detectors", {"late": "plugged_late:iqr"}, "raise RuntimeError('too early')")
    assert "late" in plugins.names("detector")
    assert detector("mad") is not None
    with pytest.raises(
        UserError, match="'late' of the package plugged_late cannot be imported: RuntimeError: too early"
    ):
        detector("late")


def test_a_name_that_two_packages_declare_is_refused(installed):
    for name in ("plugged_one", "plugged_two"):
        installed(name, "vitreg.detectors", {"same": f"{name}:iqr"}, IQR)
    with pytest.raises(UserError, match="declared by the package plugged_one and the package plugged_two"):
        plugins.find("detector", "same")


def test_ours_cannot_be_taken(installed):
    from vitreg.analysis.outliers import detector, mad

    installed("plugged_mad", "vitreg.detectors", {"mad": "plugged_mad:iqr"}, IQR)
    assert detector("mad") is mad


def test_a_name_of_ours_is_refused_and_not_passed_over():
    from vitreg.analysis.outliers import detector
    from vitreg.verbs.eval.registry import settings_of

    plugins.plugin("detector", "mad")(iqr)
    with pytest.raises(UserError, match="the detector 'mad' is vitreg's own"):
        detector("ratio")
    plugins.plugin("source", "timm")(iqr)
    with pytest.raises(UserError, match="the source 'timm' is vitreg's own"):
        vitreg.load("planted:clean")
    plugins.plugin("task", "knn")(iqr)
    with pytest.raises(UserError, match="the task 'knn' is vitreg's own"):
        settings_of("position")


def test_a_detector_without_a_parameter_takes_none():
    from vitreg.analysis.outliers import detector

    plugins.plugin("detector", "plain")(lambda histogram, side: iqr(histogram, side))
    with pytest.raises(UserError, match="the plain detector takes no parameter"):
        detector("plain:3")


SOURCE = """
import torch
from vitreg.data import IMAGENET
from vitreg.models.vit import VisionTransformer

def build(name, pretrained):
    torch.manual_seed(0)
    return VisionTransformer(32, 8, 24, int(name), 2, registers=2)
"""


def test_a_source_of_an_installed_package_builds_models(installed):
    from vitreg.testing import check_backbone

    installed("plugged_zoo", "vitreg.sources", {"zoo": "plugged_zoo:build"}, SOURCE)
    backbone = vitreg.load("zoo:3", device="cpu")
    assert (backbone.spec, backbone.depth, len(backbone.layout((32, 32)).registers)) == ("zoo:3", 3, 2)
    check_backbone(backbone)
    with pytest.raises(UserError, match=r"no source 'zo:' of models. Did you mean 'zoo:3'"):
        vitreg.load("zo:3")
    with pytest.raises(
        UserError, match="the source 'zoo' of the package plugged_zoo failed: ValueError: invalid literal"
    ):
        vitreg.load("zoo:three")


def test_what_a_source_gives_is_looked_at():
    plugins.plugin("source", "odd")(lambda name, pretrained: torch.zeros(3))
    with pytest.raises(UserError, match="'odd' gives Tensor for 'x', not a module"):
        vitreg.load("odd:x")


@pytest.mark.parametrize("name", ["", "two words", "a:b", "--flag "])
def test_a_name_that_the_command_line_could_not_take_is_refused(name):
    with pytest.raises(UserError, match="cannot name a detector"):
        plugins.plugin("detector", name)
    with pytest.raises(UserError, match=r"no kind of plug-in 'detectr'. Did you mean 'detector'"):
        plugins.plugin("detectr", "iqr")


TASK = """
from dataclasses import dataclass
from vitreg.verbs.eval.settings.task import TaskSettings

@dataclass(frozen=True, kw_only=True)
class Counted(TaskSettings):
    \'\'\'Count images. DATA is a folder.

    Example: vitreg eval SPEC counted DATA
    \'\'\'

    times: int = 1
    \'\'\'How often each counts.\'\'\'

    def run(self, bench):
        from vitreg.verbs.eval.task import Outcome
        images, _ = bench.judged()
        return Outcome(headline="images", metrics={"images": float(self.times * len(images))}, units={"images": ""},
                       controls={}, counts={"test": len(images)}, protocol={}, notes=("A count has no control.",))
"""


@pytest.fixture
def sides(photos):
    for side in ("train", "val"):
        (photos / side / "a").mkdir(parents=True)
        (photos / side / "b").mkdir()
        for number in range(2):
            (photos / side / "ab"[number] / f"{number}.png").write_bytes((photos / f"{number}.png").read_bytes())
    for number in range(3):
        (photos / f"{number}.png").unlink()
    return photos


def test_a_task_of_an_installed_package_is_a_task_like_any_other(installed, vitreg, sides, tmp_path):
    installed("plugged_tasks", "vitreg.tasks", {"counted": "plugged_tasks:Counted"}, TASK)
    done = vitreg("eval", "planted:clean", "counted", sides, "--times", "3", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "images  6" in done.stdout
    assert '"task": "counted"' in (tmp_path / "out" / "result.json").read_text()
    assert "Count images." in vitreg("eval", "--help").stdout
    assert "--times" in vitreg("eval", "SPEC", "counted", "--help").stdout
    assert "Did you mean 'counted'" in vitreg("eval", "planted:clean", "countd", sides).stderr


def test_a_task_that_is_none_is_refused(installed, vitreg, sides):
    installed(
        "plugged_odd", "vitreg.tasks", {"odd": "plugged_odd:odd", "other": "plugged_odd:Counted"}, TASK + "odd = 3"
    )
    assert "the task 'odd' is 3, not a dataclass" in vitreg("eval", "planted:clean", "odd", sides).stderr
    assert "its name must be 'counted'" in vitreg("eval", "planted:clean", "other", sides).stderr


FAULTY = """
from dataclasses import dataclass
from typing import Literal

from vitreg.recipes.registry import RecipeConfig, recipe
from vitreg.verbs.eval.settings.task import TaskSettings

def raises(*given):
    raise RuntimeError("the cable is loose\\nand the fuse has blown")

def nothing(*given):
    return None

@dataclass(frozen=True, kw_only=True)
class Torn(TaskSettings):
    '''Tear.'''
    run = raises

@dataclass(frozen=True, kw_only=True)
class Bent(TaskSettings):
    '''Bend.'''
    check = raises
    run = nothing

@dataclass(frozen=True, kw_only=True)
class Void(TaskSettings):
    '''Void.'''
    run = nothing

@recipe("torn")
@dataclass(frozen=True, kw_only=True, slots=True)
class TornRecipe(RecipeConfig):
    '''Tear.'''
    kind: Literal["torn"] = "torn"
    group: int = 1
    build = raises
    view = raises
"""


def one_sentence(done, kind, name, words="RuntimeError: the cable is loose"):
    assert done.returncode == 2, done.stderr
    sentence = f"the {kind} '{name}' of the package plugged_faulty failed: {words}.\n"
    assert done.stderr.endswith(sentence), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("kind", "name", "points", "words"),
    [
        ("detector", "torn", "raises", ["scan", "planted:clean", "PHOTOS", "--detector", "torn"]),
        ("source", "torn", "raises", ["doctor", "torn:x"]),
        ("anatomy", "torn", "raises", ["doctor", "torchvision:resnet18", "--random"]),
        ("task", "torn", "Torn", ["eval", "planted:clean", "torn", "PHOTOS"]),
        ("task", "bent", "Bent", ["eval", "planted:clean", "bent", "PHOTOS"]),
        ("recipe", "torn", "TornRecipe", ["train", "deit3-smoke", "--recipe.kind", "torn", "--data.root", "PHOTOS", "--run.batch", "2"]),
    ],
)  # fmt: skip
def test_what_a_plugin_raises_is_one_sentence(installed, vitreg, sides, tmp_path, kind, name, points, words):
    installed("plugged_faulty", plugins.GROUPS[kind], {name: f"plugged_faulty:{points}"}, FAULTY)
    out = [] if words[0] == "doctor" else ["--out", tmp_path / "out"]
    one_sentence(vitreg(*[sides if word == "PHOTOS" else word for word in words], *out), kind, name)


def test_what_a_plugin_gives_is_looked_at(installed, sides):
    import vitreg

    installed("plugged_faulty", "vitreg.detectors", {"void": "plugged_faulty:nothing"}, FAULTY)
    with pytest.raises(UserError, match="the detector 'void' gives NoneType, not a Detection"):
        vitreg.scan("planted:clean", sides, detector="void")
    plugins.plugin("anatomy", "odd")(lambda module: 3)
    with pytest.raises(UserError, match=r"the anatomy 'odd' gives 3; it gives a vitreg.Anatomy"):
        vitreg.load(torch.nn.Linear(3, 3))


def test_the_traceback_of_a_plugin_is_the_cause_and_faults_of_vitreg_are_not_blamed_on_it():
    def faulty():
        raise KeyError("own")

    plugins.plugin("task", "mine")(faulty)
    words = f"the task 'mine' of the module {__name__} failed: KeyError: 'own'"
    with pytest.raises(UserError, match=words) as error, plugins.blamed("task", "mine"):
        faulty()
    assert isinstance(error.value.__cause__, KeyError)
    with pytest.raises(ZeroDivisionError), plugins.blamed("recipe", "none", np.float64, inside=True):
        exec("1 / 0", {"__name__": "vitreg.somewhere"})


def test_the_help_lists_the_detectors_that_there_are(installed, vitreg):
    installed("plugged_iqr", "vitreg.detectors", {"iqr": "plugged_iqr:iqr"}, IQR)
    for words in (["scan", "--help"], ["eval", "SPEC", "tokens", "--help"]):
        text = " ".join(vitreg(*words).stdout.replace("│", " ").split())
        assert re.search(
            r"One of mixture, mad\[:k\], ratio\[:factor\], absolute\[:cutoff\],[^.]* iqr \(default: mixture\)\.", text
        )
    assert "plugged_iqr" not in sys.modules


def blocks_of(heading):
    """The whole examples of a section of the page, as they stand there."""
    text = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
    section = text[text.index(f"## {heading}") :].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def test_the_examples_of_the_page_run_and_are_short(sides, tmp_path):
    from vitreg.passes.bench import Bench
    from vitreg.testing import check_task

    images = sorted(sides.glob("val/*/*.png"))
    for heading in ("A detector", "A source of models", "An anatomy", "A task", "A repair"):
        (code,) = blocks_of(heading)
        assert code.count("\n") < 40
        names = {"images": images}
        exec(code, names)
        if heading == "A task":
            bench = Bench(
                backbone=vitreg.load("planted:clean", device="cpu"), data=str(sides), features=tmp_path, workers=0
            )
            found = check_task(names["Alike"](), bench)
            assert 0 < found.metrics["alike"] <= 1
            assert vitreg.evaluate("planted:clean", "alike", sides, workers=0).metrics == found.metrics
