"""Repairs in general: applied, undone, saved, read again, refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import vitreg
from vitreg.backbones import Backbone
from vitreg.errors import UserError
from vitreg.models import planted
from vitreg.repair.fitting import fit_repair
from vitreg.repair.outliers import NothingToRepairError
from vitreg.repair.repair import Repair, load_repair, repaired

pytestmark = pytest.mark.usefixtures("planted_once", "blank_figures")


@pytest.fixture(scope="module")
def model() -> planted.VisionTransformer:
    return planted.build("high-norm", 0)[0]


@pytest.fixture(scope="module")
def repair(model: planted.VisionTransformer, photographs: list[Path]) -> Repair:
    return fit_repair(model, photographs[-16:], "test-time", neurons=6)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 0.05


def test_the_outliers_are_gone_on_held_out_images(repair: Repair, photographs: list[Path]) -> None:
    effect = repair.record.held_out
    assert effect is not None
    assert effect.before > 0.002
    assert repair.record.images + effect.images == len(photographs[-16:])  # none is counted twice
    assert effect.share == effect.worst_share == 0


def test_a_module_keeps_the_form_of_its_outputs_and_its_weights(
    model: planted.VisionTransformer, repair: Repair, images: Tensor
) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    fixed = repair.apply(model)
    assert fixed(images).shape == model(images).shape
    assert not torch.equal(fixed(images), model(images))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_the_added_token_is_a_register_of_a_backbone_and_not_of_its_module(
    model: planted.VisionTransformer, repair: Repair, images: Tensor
) -> None:
    fixed = repair.apply(Backbone(model))
    assert len(fixed(images).layout.registers) == 1
    assert fixed(images).patches.shape == Backbone(model)(images).patches.shape
    torch.testing.assert_close(fixed(images).cls, repair.apply(model)(images), atol=1e-5, rtol=1e-4)


def test_the_very_object_is_repaired_inside_the_block_only(
    model: planted.VisionTransformer, repair: Repair, images: Tensor
) -> None:
    before, wanted, own = model(images), repair.apply(model)(images), dict(model.__dict__)
    with repaired(model, repair) as inside:
        assert inside is model
        assert torch.equal(model(images), wanted)
    assert torch.equal(model(images), before)
    with pytest.raises(RuntimeError, match="stop"), repaired(model, repair):
        raise RuntimeError("stop")
    assert torch.equal(model(images), before)
    assert model.__dict__ == own

    backbone = Backbone(model)
    with repaired(backbone, repair):
        assert len(backbone(images).layout.registers) == 1
        assert torch.equal(backbone.module(images), wanted)
    assert not backbone(images).layout.registers
    assert backbone.module is model


@pytest.mark.slow
def test_a_compiled_module_is_repaired_inside_the_block_only(
    model: planted.VisionTransformer, repair: Repair, images: Tensor
) -> None:
    before, wanted = model(images), repair.apply(model)(images)
    compiled: Any = torch.compile(model, backend="eager")
    with repaired(compiled, repair):
        assert torch.equal(compiled(images), wanted)
    assert torch.equal(compiled(images), before)


def test_it_is_saved_and_read_again(
    tmp_path: Path, model: planted.VisionTransformer, repair: Repair, images: Tensor
) -> None:
    again = load_repair(repair.save(tmp_path / "fixed"))
    assert again.record == repair.record
    assert torch.equal(again.apply(model)(images), repair.apply(model)(images))
    repair.save(tmp_path / "fixed")  # its own files may be replaced
    modes = {each.stat().st_mode & 0o777 for each in (tmp_path / "fixed").glob("repair.*")}
    assert modes == {stat_of_a_new_file(tmp_path)}


def stat_of_a_new_file(folder: Path) -> int:
    (folder / "new").touch()
    return (folder / "new").stat().st_mode & 0o777


def test_a_repair_of_other_weights_or_another_shape_is_refused(repair: Repair) -> None:
    with pytest.raises(UserError, match="other weights"):
        repair.apply(planted.build("high-norm", 1)[0])
    repair.apply(planted.build("high-norm", 1)[0], force=True)
    with pytest.raises(UserError, match=r"other weights .*Repair a model before it is turned to half precision"):
        repair.apply(copy.deepcopy(planted.build("high-norm", 0)[0]).half())
    with pytest.raises(UserError, match="of 12 blocks of width 192"):
        repair.apply(_small())


def _small() -> Backbone:
    return Backbone(planted.VisionTransformer(32, 8, 24, 3, 3))


@pytest.mark.parametrize(("name", "text"), [("repair.json", "{"), ("repair.json", "{}"), ("repair.safetensors", "")])
def test_damaged_files_are_one_sentence(tmp_path: Path, repair: Repair, name: str, text: str) -> None:
    folder = repair.save(tmp_path / "fixed")
    (folder / name).write_text(text)
    with pytest.raises(UserError) as raised:
        load_repair(folder)
    assert str(raised.value).count("\n") == 0


def test_another_version_and_a_truncated_file_are_refused(tmp_path: Path, repair: Repair) -> None:
    folder = repair.save(tmp_path / "fixed")
    tensors = (folder / "repair.safetensors").read_bytes()
    (folder / "repair.safetensors").write_bytes(tensors[:-5])
    with pytest.raises(UserError, match=r"repair\.safetensors"):
        load_repair(folder)
    (folder / "repair.safetensors").write_bytes(tensors)
    record = folder / "repair.json"
    record.write_text(record.read_text().replace("vitreg.repair/1", "vitreg.repair/9"))
    with pytest.raises(UserError, match=r"vitreg\.repair/9"):
        load_repair(folder)
    assert load_file(folder / "repair.safetensors")


def test_a_model_without_outliers_is_left_alone(photographs: list[Path]) -> None:
    clean = planted.clean(0)
    with pytest.raises(NothingToRepairError, match="nothing to repair"):
        fit_repair(clean, photographs[:8])
    forced = fit_repair(clean, photographs[:8], force=True, neurons=5)
    assert forced.record.outliers is not None
    assert forced.record.outliers.forced


def test_one_image_is_too_few(model: planted.VisionTransformer, photographs: list[Path]) -> None:
    with pytest.raises(UserError, match="at least 4 images, and there is 1"):
        fit_repair(model, photographs[:1])


def test_a_repaired_model_is_a_model_in_every_verb(tmp_path: Path, photographs: list[Path]) -> None:
    folder = vitreg.fix(
        "test-time", "planted:high-norm", photographs[-8:], out=tmp_path / "fixed", neurons=6, precision="fp32"
    )
    assert {"repair.json", "repair.safetensors", "norm.png", "attention.png"} <= {
        each.name for each in (tmp_path / "fixed").iterdir()
    }
    by_folder, by_flag, plain = (
        vitreg.load(f"fixed:{tmp_path / 'fixed'}", precision="fp32"),
        vitreg.load("planted:high-norm", repair=tmp_path / "fixed", precision="fp32"),
        vitreg.load("planted:high-norm", precision="fp32"),
    )
    images = torch.randn(1, 3, 224, 224) * 0.05
    assert torch.equal(by_folder(images).values, by_flag(images).values)
    assert torch.equal(folder.apply(plain)(images).values, by_flag(images).values)
    assert by_folder.edits_identity == by_flag.edits_identity != plain.edits_identity
    assert vitreg.load(str(tmp_path / "fixed"), precision="fp32").spec == f"fixed:{tmp_path / 'fixed'}"
    with pytest.raises(UserError, match="other weights"):
        vitreg.load("planted:high-norm@1", repair=tmp_path / "fixed")


def test_a_repair_of_a_module_needs_the_model_s_name(tmp_path: Path, repair: Repair) -> None:
    repair.save(tmp_path / "fixed")
    with pytest.raises(UserError, match=r"no name; name the model and add (--)?repair"):
        vitreg.load(f"fixed:{tmp_path / 'fixed'}")
    assert vitreg.load("planted:high-norm", repair=tmp_path / "fixed").edit_names == ("test-time",)


def test_a_full_disk_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, model: planted.VisionTransformer, photographs: list[Path]
) -> None:
    with Path("/dev/full").open("r+b", buffering=0) as full:
        monkeypatch.setattr("vitreg.repair.subject.tempfile.TemporaryFile", lambda: full)
        with pytest.raises(UserError, match="cannot keep the prepared images: No space left on device"):
            fit_repair(model, photographs[:8])
