"""The public list names models that the libraries have, vitreg reads, and with the registers that it states."""

import functools
from pathlib import Path

import pytest
import torch

from vitreg.backbones.anatomy.find import find_anatomy
from vitreg.errors import UserError
from vitreg.verbs.zoo.named import groups, named, public, published

SOURCES = ("timm", "hf", "openclip", "torchvision")
TYPES = {
    "dinov2-base": "dinov2", "dinov2-with-registers-base": "dinov2_with_registers",
    "dinov3-vits16-pretrain-lvd1689m": "dinov3_vit", "ijepa_vith14_1k": "ijepa", "vit-mae-base": "vit_mae",
    "vit-base-patch16-224": "vit", "vit-base-patch16-224-in21k": "vit", "deit-base-distilled-patch16-224": "deit",
    "clip-vit-base-patch32": "clip_vision_model", "siglip-base-patch16-224": "siglip_vision_model",
}  # fmt: skip
"""The configuration in transformers of each model of the hub."""


def names_of(source):
    return [spec.partition(":")[2] for spec in public() if spec.startswith(f"{source}:")]


def test_there_are_many_of_every_source_each_once_with_a_family():
    assert len(public()) >= 60
    assert {spec.partition(":")[0] for spec in public()} == set(SOURCES)
    assert all(each.groups and each.registers >= 0 for each in public().values())
    assert {"public", "registers", "timm", "dinov2", "dinov3", "clip", "siglip", "deit", "mae"} <= set(groups())
    assert set(groups()["registers"]) == {spec for spec, each in public().items() if each.registers}


def test_timm_has_them_with_weights_and_states_the_licence():
    timm = pytest.importorskip("timm")
    assert set(names_of("timm")) <= set(timm.list_models(pretrained=True))
    stated = {name: timm.get_pretrained_cfg(name).license for name in names_of("timm")}
    assert {name: public()[f"timm:{name}"].license for name in stated} == stated


def test_torchvision_has_them():
    from torchvision import models

    assert set(names_of("torchvision")) <= set(models.list_models(module=models))
    assert all(models.get_model_weights(name).DEFAULT for name in names_of("torchvision"))


def test_open_clip_has_them_with_weights():
    open_clip = pytest.importorskip("open_clip")
    assert {tuple(name.split("@")) for name in names_of("openclip")} <= set(open_clip.list_pretrained())


@pytest.mark.slow
def test_transformers_names_the_repositories_in_its_source():
    transformers = pytest.importorskip("transformers")
    place = Path(transformers.__file__).parent / "models"
    text = "".join(
        path.read_text() for kind in set(TYPES.values()) for path in place.glob(f"{kind.split('_vision')[0]}/*.py")
    )
    assert [name for name in names_of("hf") if name not in text] == []


def built(spec):
    """Build a model without storage."""
    source, _, name = spec.partition(":")
    with torch.device("meta"):
        if source == "timm":
            return pytest.importorskip("timm").create_model(name)
        if source == "torchvision":
            from torchvision import models

            return models.get_model(name, weights=None)
        if source == "openclip":
            return (
                pytest.importorskip("open_clip")
                .create_model(name.partition("@")[0], load_weights=False, device="meta")
                .visual
            )
        transformers = pytest.importorskip("transformers")
        config = transformers.AutoConfig.for_model(TYPES[name.rpartition("/")[2]])
        return transformers.AutoModel.from_config(config)


@functools.cache
def registers_of(spec):
    anatomy = find_anatomy(built(spec))
    return len(anatomy.layout(anatomy.native_size).registers)


SOME = ("timm:vit_base_patch14_reg4_dinov2.lvd142m", "torchvision:vit_b_16", "hf:facebook/dinov2-base")
BY_CONFIG = ("hf:facebook/dinov3-vits16-pretrain-lvd1689m",)
"""Whose registers stand in the configuration on the hub, not in the default one."""


@pytest.mark.parametrize("spec", SOME)
def test_some_build_without_weights_and_have_the_registers_stated(spec):
    assert registers_of(spec) == public()[spec].registers


@pytest.mark.slow
def test_all_build_without_weights_and_have_the_registers_stated():
    stated = {spec: each.registers for spec, each in public().items() if spec not in BY_CONFIG}
    assert {spec: registers_of(spec) for spec in stated} == stated
    assert built(BY_CONFIG[0]) is not None


def test_groups_files_and_specs_are_named_together_each_once(tmp_path):
    (tmp_path / "a.txt").write_text("# mine\nplanted:clean  # the twin\n\n@torchvision\n")
    (tmp_path / "b.json").write_text('{"models": [{"spec": "planted:high-norm"}, {"spec": "planted:clean"}]}')
    found = named(["@torchvision", "planted:clean"], file=tmp_path / "a.txt").models
    assert found == (*(f"torchvision:{name}" for name in names_of("torchvision")), "planted:clean")
    assert named([], file=tmp_path / "b.json").models == ("planted:high-norm", "planted:clean")
    for text in ("", "{", '{"models": 3}', '{"models": [{"name": 1}]}', "[1]"):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(UserError, match=r"c\.json (is no list|names no model)"):
            named([], file=tmp_path / "c.json")
    with pytest.raises(UserError, match="no file of models"):
        named([], file=tmp_path / "d.txt")


def test_rows_of_others_have_a_source_and_their_protocol():
    rows = published()
    assert all(row.source and row.protocol and (row.says or row.low is not None) for row in rows)
    assert all(row.low is None or 0 <= row.low <= row.high <= 1 for row in rows)
