"""A repair's folder opens the model that it was fitted on: after another repair, from any folder, with its file of weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import vitreg
from vitreg import specs
from vitreg.backbones import Backbone
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer
from vitreg.repair.fitting import base_of, fit_repair
from vitreg.repair.record import Base
from vitreg.repair.repair import Repair, load_repair, repaired
from vitreg.verbs.fix.verb import summary

SPEC = "timm:test_vit"  # 6 blocks of width 64 for images of 160 pixels
WORDS = {"precision": "fp32", "device": "cpu"}
IMAGES = torch.randn(8, 3, 160, 160, generator=torch.Generator().manual_seed(0))


def fitted(model: str | Backbone, folder: Path, method: str = "clip-norm", **words: object) -> Path:
    """Fit a repair to whatever stands out, and keep it."""
    loading = {} if isinstance(model, Backbone) else WORDS
    return fit_repair(model, IMAGES, method, force=True, **loading, **words).save(folder)  # type: ignore[arg-type]


def tokens(spec: str, **words: object) -> Tensor:
    return vitreg.load(spec, **WORDS, **words)(IMAGES[:2]).values  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(SPEC, tmp_path_factory.mktemp("first") / "a", "substitute", random=True)


def test_a_repair_of_a_repaired_model_opens_it_from_any_folder(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(first.parent)
    second = fitted("fixed:a", tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    base = load_repair("b").record.base
    assert (base.spec, base.random, base.edits) == (f"fixed:{first}", False, ["substitute"])
    opened = vitreg.load("fixed:b", **WORDS)
    assert opened.edit_names == ("substitute", "clip-norm")
    plain = vitreg.load(SPEC, random=True, **WORDS)
    by_hand = load_repair(second).apply(load_repair(first).apply(plain))
    assert torch.equal(opened(IMAGES).values, by_hand(IMAGES).values)


def test_a_model_repaired_by_a_flag_has_no_spec_and_the_last_line_names_what_works(first: Path, tmp_path: Path) -> None:
    model = vitreg.load(SPEC, random=True, repair=first, **WORDS)
    second = fitted(model, tmp_path / "b")
    base = load_repair(second).record.base
    assert (base.spec, base.random, base.edits) == ("", False, ["substitute"])
    with pytest.raises(UserError, match=r"a model with substitute, which has no name.* add (--)?repair "):
        vitreg.load(f"fixed:{second}")
    line = summary(load_repair(second), second, first).splitlines()[-1]
    assert line.endswith(f"vitreg scan fixed:{first} IMAGES --repair {second}")
    assert tokens(f"fixed:{first}", repair=second).shape == model(IMAGES[:2]).values.shape
    assert "second.apply(first.apply(backbone))" in summary(load_repair(second), second).splitlines()[-1]
    over = fitted(vitreg.load(f"fixed:{first}", repair=second, **WORDS), tmp_path / "c")
    assert load_repair(over).record.base.spec == ""  # "fixed:A + clip-norm" opens nothing


def test_the_last_line_names_the_folder_of_a_first_repair(first: Path) -> None:
    assert summary(load_repair(first), first).splitlines()[-1].endswith(f"vitreg scan fixed:{first} IMAGES")


def test_an_earlier_repair_does_not_vanish(first: Path, tmp_path: Path) -> None:
    second = load_repair(fitted(f"fixed:{first}", tmp_path / "b"))
    plain = vitreg.load(SPEC, random=True, **WORDS)
    with pytest.raises(UserError, match=r"substitute comes first: name the model that it repaired, fixed:A .*b\.apply"):
        second.apply(plain)
    with pytest.raises(UserError, match=r"without a repair, and .* is one repaired by substitute"):
        load_repair(first).apply(vitreg.load(f"fixed:{first}", **WORDS))
    assert second.apply(plain, force=True).edit_names == ("clip-norm",)


def test_a_record_of_an_older_version_opens_without_these_fields(first: Path, tmp_path: Path) -> None:
    second = fitted(f"fixed:{first}", tmp_path / "b")
    held = json.loads((second / "repair.json").read_text())
    for name in ("edits", "weights_size", "allow_partial"):
        del held["base"][name]
    del held["sha256"]
    (second / "repair.json").write_text(json.dumps(held))
    assert vitreg.load(f"fixed:{second}", **WORDS).edit_names == ("substitute", "clip-norm")


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("run:x", "run:{}/x"),
        ("fixed:x", "fixed:{}/x"),
        ("hf:./x", "hf:{}/x"),
        ("timm:local-dir:x", "timm:local-dir:{}/x"),
        ("hub:./x:vit", "hub:{}/x:vit"),
        ("hub:owner/repo:vit", "hub:owner/repo:vit"),
        ("hf:owner/repo", "hf:owner/repo"),
        ("timm:x", "timm:x"),
        ("planted:high-norm@3", "planted:high-norm@3"),
    ],
)
def test_a_folder_that_exists_is_named_by_its_absolute_path(
    spec: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path)
    assert specs.absolute(spec) == wanted.format(tmp_path)


def test_the_model_of_a_run_is_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = VisionTransformer(32, 8, 24, 3, 3)
    shape = {"image_size": 32, "patch": 8, "width": 24, "depth": 3, "heads": 3}
    (tmp_path / "x").mkdir()
    save_file(model.state_dict(), tmp_path / "x" / "model.safetensors")
    (tmp_path / "x" / "config.json").write_text(json.dumps({"schema": "vitreg.run/1", "model": shape}))
    monkeypatch.chdir(tmp_path)
    images = IMAGES[..., :32, :32]
    fit_repair("run:x", images, "clip-norm", force=True, **WORDS).save(tmp_path / "b")  # type: ignore[arg-type]
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert vitreg.load("fixed:../b", **WORDS)(images).values.isfinite().all()


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of images of 96x224 pixels, whose table of 6x14 patches is no square, and without one of its tensors."""
    import timm

    torch.manual_seed(1)
    state = timm.create_model("test_vit", img_size=(96, 224)).state_dict()
    file = tmp_path_factory.mktemp("wide") / "wide.safetensors"
    save_file(state, file)
    save_file(
        {key: value for key, value in state.items() if key != "blocks.1.mlp.fc1.bias"}, file.parent / "part.safetensors"
    )
    return file


@pytest.mark.parametrize("words", [{"weights_size": (96, 224)}, {"image_size": (96, 224)}])
def test_the_size_that_a_table_was_read_for_is_remembered(
    words: dict[str, tuple[int, int]], wide: Path, tmp_path: Path
) -> None:
    model = vitreg.load(SPEC, weights=wide, **words, **WORDS)  # type: ignore[arg-type]
    images = IMAGES[..., :96, :].repeat(1, 1, 1, 2)[..., :224]
    repair = fit_repair(model, images, "clip-norm", force=True)
    repair.save(tmp_path / "b")
    assert (repair.record.base.weights_size, repair.record.base.allow_partial) == ((96, 224), False)
    for other in ({}, {"weights_size": (160, 160)}, {"image_size": (320, 320)}):  # what a verb shows the model
        again = vitreg.load(f"fixed:{tmp_path / 'b'}", **other, **WORDS)
        assert torch.equal(again(images).values, repair.apply(model)(images).values)


def test_a_file_read_for_no_size_is_read_so_again(tmp_path: Path) -> None:
    """Its table of 20x20 is resampled to the 10x10 of the model, also where larger images are shown later."""
    import timm

    torch.manual_seed(2)
    save_file(timm.create_model("test_vit", img_size=320).state_dict(), tmp_path / "large.safetensors")
    folder = fitted(SPEC, tmp_path / "b", weights=str(tmp_path / "large.safetensors"))
    assert load_repair(folder).record.base.weights_size == (160, 160)
    vitreg.load(f"fixed:{folder}", weights_size=320, **WORDS)


def test_a_partial_checkpoint_is_remembered(wide: Path, tmp_path: Path) -> None:
    part = wide.with_name("part.safetensors")
    words = {"weights": str(part), "weights_size": (96, 224), "allow_partial": True}
    folder = fitted(SPEC, tmp_path / "b", **words)
    assert torch.equal(tokens(f"fixed:{folder}"), tokens(SPEC, repair=folder, **words))


def test_a_file_that_changed_since_is_refused(wide: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    shutil.copy(wide, file)
    folder = fitted(SPEC, tmp_path / "b", weights=str(file), weights_size=(96, 224))
    state = load_file(file)
    state["norm.weight"] += 1
    save_file(state, file)
    with pytest.raises(UserError, match="other weights"):
        vitreg.load(f"fixed:{folder}", **WORDS)


@pytest.fixture
def damaged(first: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first, tmp_path / "damaged"))


def test_a_record_with_the_tensors_of_another_repair_is_refused(damaged: Path) -> None:
    save_file({"tokens": torch.zeros(1, 64)}, damaged / "repair.safetensors")
    with pytest.raises(UserError, match=r"damaged: .* fit the repair again"):
        load_repair(damaged)


def test_one_number_changed_is_refused(damaged: Path) -> None:
    held = json.loads((damaged / "repair.json").read_text())
    held["details"]["block"] += 1
    (damaged / "repair.json").write_text(json.dumps(held))
    with pytest.raises(UserError, match=r"damaged: .* fit the repair again"):
        load_repair(damaged)


@pytest.mark.parametrize("details", [{}, {"order": 3, "neurons": {"1": [2]}}, {"order": [[1, 2]], "neurons": [1]}])
@pytest.mark.parametrize("there", [True, False], ids=["tensors", "no tensors"])
def test_what_cannot_be_applied_is_one_sentence(first: Path, details: dict[str, object], there: bool) -> None:
    """A record without a hash, as an older version wrote it."""
    record = load_repair(first).record.model_copy(update={"method": "test-time", "details": details, "sha256": ""})
    repair = Repair(record, {"tokens": torch.zeros(1, 64)} if there else {})
    model = vitreg.load(SPEC, random=True, **WORDS)
    for given in (model, model.module):
        with pytest.raises(UserError, match="this test-time repair is damaged; fit the repair again"):
            repair.apply(given)
    with pytest.raises(UserError, match="this test-time repair is damaged"), repaired(model.module, repair):
        pass


def test_a_model_edited_by_hand_has_no_spec() -> None:
    model = vitreg.load(SPEC, random=True, **WORDS).edited([], "by hand")
    base = base_of(model)
    assert (base.spec, base.edits, base.title) == ("", ["by hand"], "a model with by hand")
    assert not Base(spec="", weights_sha256="", library="timm", blocks=6, width=64).says("edits")
