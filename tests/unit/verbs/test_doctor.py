import copy
import dataclasses

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from vitreg.backbones import Edit
from vitreg.backbones.backbone import Backbone
from vitreg.models.vit import VisionTransformer as OurViT
from vitreg.passes.findings import layout_in_words
from vitreg.results import DoctorResult
from vitreg.tokens import TokenLayout
from vitreg.verbs.doctor import doctor, render

REG4 = "vit_medium_patch16_reg4_gap_256"


def small_timm(**changes):
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 3}
    return VisionTransformer(**(settings | changes))


def findings(module):
    return {f.subject: f for f in doctor(Backbone(module))}


@pytest.fixture(scope="module")
def reg4():
    return timm.create_model(REG4, depth=1)


def test_registers_made_equal_by_hand_are_the_only_new_problem(reg4):
    before = {(f.level, f.subject) for f in doctor(Backbone(reg4))}
    assert not [found for found in before if found[0] == "problem"]
    saved = reg4.reg_token.detach().clone()
    try:
        with torch.no_grad():
            reg4.reg_token.copy_(torch.randn(1, 1, 512).expand(1, 4, 512))
        after = {(f.level, f.subject) for f in doctor(Backbone(reg4))}
    finally:
        with torch.no_grad():
            reg4.reg_token.copy_(saved)
    # Untouched ones are at their initialisation, N(0, 1e-6): different, and not trained.
    assert before - after == {("warning", "untrained registers")}
    assert after - before == {("problem", "identical registers")}


def test_layout_of_a_model_with_registers_and_no_class_token(reg4):
    found = findings(reg4)
    assert "260 tokens at 256x256 px" in found["token layout"].message
    assert "0-3: 4 registers; 4-259: 256 patches, 16 rows x 16 columns" in found["token layout"].message
    assert "No class token" in found["token layout"].message
    assert "num_prefix_tokens = 4" in found["names in timm"].message
    assert found["slicing"].level == "warning"
    assert "tokens[:, 1:] would count 3 registers as patches" in found["slicing"].message
    assert "tokens[:, 0] is no class token but a register" in found["slicing"].message
    assert "tokens[:, 4:]" in found["slicing"].remedy
    assert "patches only, without registers" in found["pooled head"].message


def test_the_slice_that_the_doctor_recommends_gives_the_patches(reg4):
    backbone = Backbone(reg4)
    tokens = backbone(torch.randn(1, 3, 256, 256))
    torch.testing.assert_close(tokens.values[:, 4:], tokens.patches)


def test_class_and_registers():
    found = findings(small_timm(reg_tokens=4))
    assert "0: class token (CLS); 1-4: 4 registers; 5-20: 16 patches" in found["token layout"].message
    assert "would count 4 registers as patches" in found["slicing"].message
    assert found["pooled head"].message == "the head reads token 0 only."


def test_a_pooled_head_that_mixes_registers_in_is_a_warning():
    model = small_timm(reg_tokens=2, global_pool="avg", pool_include_prefix=True)
    assert findings(model)["pooled head"].level == "warning"
    # What the finding says is what timm does: the mean changes with the register rows.
    tokens = torch.zeros(1, 19, 32)
    tokens[:, 1:3] = 1
    assert model.pool(tokens).abs().sum() > 0


def test_plain_vit_has_nothing_to_warn_of():
    found = findings(small_timm())
    assert {f.level for f in found.values()} == {"ok", "note"}
    assert found["slicing"].level == "ok"
    assert "pooled head" not in found
    assert "no_weight_decay() covers cls_token and pos_embed" in found["weight decay"].message


def test_distilled_and_classless_models_warn_about_slices():
    distilled = findings(timm.create_model("deit_tiny_distilled_patch16_224", depth=1))
    assert "would count 1 other token as patches" in distilled["slicing"].message
    classless = findings(timm.create_model("vit_base_patch16_siglip_224", depth=1, embed_dim=64, num_heads=2))
    assert "tokens[:, 1:] would drop the first patch" in classless["slicing"].message
    assert classless["slicing"].remedy.startswith("Use all tokens")


def test_a_row_planted_in_the_position_table_is_found_behind_the_class_row():
    model = small_timm(img_size=64)  # 8x8 patches
    with torch.no_grad():
        model.pos_embed[0, 0] *= 100  # the class token's row may be large
        model.pos_embed[0, 1 + 3 * 8 + 5, 7] = 10.0
    found = findings(model)["position table"]
    assert found.level == "warning"
    assert found.message.startswith("1 of 8x8 rows in pos_embed stands out: (row 3, col 5)")
    assert "in channel 7" in found.message


def test_a_non_square_model_is_said():
    found = findings(small_timm(img_size=(32, 48)))
    assert "4 rows x 6 columns" in found["token layout"].message
    assert "int(P ** 0.5) is not a side of the 4x6 grid" in found["slicing"].message
    assert "not square" in found["input size"].message


def test_the_final_norm_is_named_with_the_size_it_gives_every_token():
    model = small_timm()
    with torch.no_grad():
        model.norm.weight.fill_(2.0)
    tokens = Backbone(model)(torch.randn(1, 3, 32, 32)).values
    expected = float(tokens.norm(dim=-1).mean())
    assert expected == pytest.approx(2 * 32**0.5, rel=0.01)
    assert f"norm near {2 * 32**0.5:.3g}" in findings(model)["final norm"].message


def test_weight_decay_follows_the_models_own_list():
    class Forgetful(VisionTransformer):
        def no_weight_decay(self):
            return {"pos_embed", "cls_token"}

    model = Forgetful(img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, reg_tokens=2)
    found = findings(model)["weight decay"]
    assert found.level == "warning"
    assert "does not name reg_token" in found.message


def test_models_of_other_libraries():
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    found = findings(transformers.Dinov2WithRegistersModel(config))
    assert "config.num_register_tokens" in found["names in transformers"].message
    assert found["weight decay"].level == "note"
    assert "embeddings.register_tokens" in found["weight decay"].message

    torchvision = pytest.importorskip("torchvision")
    found = findings(torchvision.models.VisionTransformer(32, 8, 1, 2, 32, 64))
    assert "encoder.ln" in found["names in torchvision"].message
    assert found["position table"].message.endswith("in encoder.pos_embedding.")


def test_registers_behind_the_patches_are_described_and_sliced_rightly():
    layout = TokenLayout(cls=(0,), registers=(7, 8), other=(), patches=slice(1, 7), grid=(2, 3))
    assert layout_in_words(layout) == (
        "0: class token (CLS); 1-6: 6 patches, 2 rows x 3 columns, row by row; 7-8: 2 registers"
    )
    backbone = Backbone(small_timm(reg_tokens=2, img_size=(16, 24)))
    object.__setattr__(backbone, "anatomy", dataclasses.replace(backbone.anatomy, layout=lambda size: layout))
    found = {f.subject: f for f in doctor(backbone)}
    assert "would count 2 registers as patches" in found["slicing"].message
    assert "tokens[:, 1:7]" in found["slicing"].remedy


def test_render_is_plain_text_with_every_finding_and_a_count(reg4):
    found = doctor(Backbone(reg4))
    text = render(found, width=80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.isascii() or "…" in text
    for finding in found:
        assert f"{finding.subject}:" in text
    levels = [f.level for f in found]
    assert text.splitlines()[-1] == ", ".join(
        f"{levels.count(level)} {level}{'s' if level != 'ok' and levels.count(level) > 1 else ''}"
        for level in ("problem", "warning", "note", "ok")
        if level in levels
    )


def test_edits_are_named(reg4):
    backbone = Backbone(reg4)
    edited = backbone.edited([Edit("block", 0, lambda tokens, place: tokens)], "as it was")
    first, *others = doctor(edited)
    assert (first.level, first.subject) == ("note", "edits")
    assert "as it was" in first.message
    assert others == doctor(backbone)


@pytest.mark.parametrize("broken", [False, True])
def test_a_program_gets_the_findings_as_json_and_an_exit_code(vitreg, monkeypatch, reg4, broken):
    model = copy.deepcopy(reg4)
    with torch.no_grad():
        model.reg_token.normal_()
        if broken:
            model.reg_token.copy_(model.reg_token[:, :1].expand_as(model.reg_token))
    monkeypatch.setattr("vitreg.backbones.load", lambda *_, **__: Backbone(model, spec="timm:\x1b[2J"))
    done = vitreg("doctor", "any", "--json")
    result = DoctorResult.model_validate_json(done.stdout)
    assert done.stdout.isascii()
    assert (done.returncode, result.problem) == ((5, True) if broken else (0, False))
    assert [finding.subject for finding in result.findings if finding.level == "problem"] == [
        "identical registers"
    ] * broken
    assert result.findings == doctor(Backbone(model))
    assert result.model.registers == 4
    text = vitreg("doctor", "any")
    assert (text.returncode, text.stdout.strip()) == (done.returncode, render(result.findings))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"cls_token": False}, "the patches only, without registers"), ({"pool": "cls"}, "the head reads token 0 only")],
)
def test_what_the_head_of_our_own_model_pools(settings, said):
    model = OurViT(32, 8, 32, 1, 2, registers=2, **settings)
    assert said in findings(model)["pooled head"].message
