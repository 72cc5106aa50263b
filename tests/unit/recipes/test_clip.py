"""CLIP against open_clip itself: same weights, same features, same loss, same gradients."""

import math
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.distributed as dist
from tests.apart import on_two

from vitreg.backbones.weights.names import to_canonical
from vitreg.data.batches.batch import TrainBatch
from vitreg.errors import UserError
from vitreg.models.settings import ModelConfig
from vitreg.recipes.clip import Clip, Tokenizer
from vitreg.recipes.recipe import Progress
from vitreg.recipes.settings import ClipConfig, OptimConfig

open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed")

MODEL = ModelConfig(
    width=32, depth=2, heads=2, patch=8, image_size=16, registers=2,
    layer_scale=None, pre_norm=True, norm_eps=1e-5, token_init=0.2, register_init=0.2,
)  # fmt: skip
CONFIG = ClipConfig(embed_dim=12, text_width=16, text_heads=2, text_layers=2, context=8)
NOW = Progress(step=3, total=10, epoch_steps=5, seed=7)
TEXTS = ["a cat", "two dogs on grass", "the sea", "a red bicycle", "snow", "a man reading a book"]


def build(config=CONFIG, model=MODEL, seed=0):
    torch.manual_seed(seed)
    return Clip(model, config).train()


def batch_of(samples=6, context=8, size=16):
    draw = torch.Generator().manual_seed(1)
    return TrainBatch((torch.randn(1, samples, 3, size, size, generator=draw),), Tokenizer(context)(TEXTS[:samples]))


def captions_of(batch):
    assert batch.targets is not None
    return batch.targets


def gradients(recipe, batch, progress=NOW):
    recipe.zero_grad()
    output = recipe(batch, progress)
    output.loss.backward()
    return output, {name: p.grad.clone() for name, p in recipe.named_parameters() if p.grad is not None}


def official():
    """open_clip's own CLIP of the same shape, and ours without registers carrying its weights."""
    torch.manual_seed(0)
    theirs = open_clip.CLIP(
        12,
        open_clip.CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=8, image_size=16),
        open_clip.CLIPTextCfg(context_length=8, width=16, heads=2, layers=2),
    )
    ours = build(model=replace(MODEL, registers=0))
    ours.load_state_dict(translated(theirs.state_dict(), fold=True))
    return theirs, ours


def translated(values, *, fold):
    """open_clip's names to ours; the position of CLS is folded into it where these are weights."""
    state, _ = to_canonical({k.removeprefix("visual."): v for k, v in values.items() if k.startswith("visual.")})
    projection = state.pop("head.weight").T
    positions = state["pos_embed"]
    state["pos_embed"] = positions[:, 1:]
    if fold:
        state["cls_token"] = state["cls_token"] + positions[:, :1]
    result = {f"visual.{name}": value for name, value in state.items()}
    result |= {"projection": projection, "logit_scale": values["logit_scale"].reshape(1)}
    return result | {f"text.{k}": v for k, v in values.items() if k != "logit_scale" and not k.startswith("visual.")}


def test_features_loss_and_gradients_are_those_of_open_clip():
    theirs, ours = (module.double() for module in official())  # in float32, sums in another order round differently
    batch = batch_of()
    batch = replace(batch, views=(batch.views[0].double(),))
    images, texts = (
        theirs.encode_image(batch.views[0][0], normalize=True),
        theirs.encode_text(batch.targets, normalize=True),
    )
    torch.testing.assert_close(ours.encode_image(batch.views[0][0]), images)
    torch.testing.assert_close(ours.encode_text(captions_of(batch)), texts)
    loss = open_clip.ClipLoss()(images, texts, theirs.logit_scale.exp())
    loss.backward()
    output, found = gradients(ours, batch)
    torch.testing.assert_close(output.loss, loss)
    wanted = translated({name: p.grad for name, p in theirs.named_parameters()}, fold=False)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(
            gradient, wanted[name], rtol=1.3e-6, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    top1 = ((images @ texts.T).argmax(1) == torch.arange(6)).float().mean()
    assert output.metrics["batch_top1"] == top1
    torch.testing.assert_close(output.metrics["scale"], theirs.logit_scale.exp().detach())


def test_vit_b16_has_the_weights_of_open_clip():
    with torch.device("meta"):
        recipe = Clip(
            replace(MODEL, size="B", width=None, depth=None, heads=None, patch=16, image_size=224, registers=0),
            ClipConfig(),
        )
    clip_vit_b16 = 149_620_737  # as OpenAI published it; 768 of these are the position of CLS, which CLS takes over
    assert sum(p.numel() for p in recipe.parameters()) == clip_vit_b16 - 768


def test_weights_start_as_open_clips():
    torch.manual_seed(0)
    big = replace(MODEL, width=128, registers=0, token_init=128**-0.5)
    ours = dict(Clip(big, replace(CONFIG, embed_dim=96, text_width=64)).named_parameters())
    theirs = open_clip.CLIP(
        96,
        open_clip.CLIPVisionCfg(layers=2, width=128, head_width=64, patch_size=8, image_size=16),
        open_clip.CLIPTextCfg(context_length=8, width=64, heads=2, layers=2),
    )
    wanted = translated({k: v.detach() for k, v in theirs.named_parameters()}, fold=False)
    assert ours.keys() == wanted.keys()
    for name, value in ours.items():
        spread, theirs_spread = value.std(correction=0).item(), wanted[name].std(correction=0).item()
        tolerance = 6 / math.sqrt(value.numel())  # relative; a draw of n numbers knows its spread to 1 / sqrt(2 n)
        assert spread == pytest.approx(theirs_spread, rel=tolerance, abs=1e-12), name
        assert value.mean().item() == pytest.approx(
            wanted[name].mean().item(), abs=8 * theirs_spread / math.sqrt(value.numel()) + 1e-12
        ), name


def test_every_trainable_parameter_has_a_gradient_and_one_group():
    recipe = build()
    output, found = gradients(recipe, batch_of())
    assert output.loss.isfinite()
    assert output.loss.shape == ()
    assert output.examples == 6
    assert found.keys() == dict(recipe.named_parameters()).keys()
    assert all(gradient.abs().sum() > 0 for gradient in found.values())
    names = [name for group in recipe.parameter_groups(OptimConfig()) for name in group.names]
    assert sorted(names) == sorted(found)


def test_what_decays_is_what_open_clip_decays():
    theirs, ours = official()
    decayed = {n for group in ours.parameter_groups(OptimConfig()) if group.decay_scale for n in group.names}
    fixed = theirs.no_weight_decay()
    flags = {
        name: torch.full_like(p, float(p.ndim >= 2 and name not in fixed)) for name, p in theirs.named_parameters()
    }
    assert decayed == {name for name, flag in translated(flags, fold=False).items() if flag.all()}


@pytest.mark.parametrize(("start", "end"), [(-0.5, 0.0), (2.0, 2.0), (5.0, math.log(100))])
def test_the_scale_stays_from_1_to_100(start, end):
    recipe = build()
    with torch.no_grad():
        recipe.logit_scale.fill_(start)
    recipe.after_step(NOW)
    assert recipe.logit_scale.item() == pytest.approx(end, rel=1e-6)


def test_the_scale_starts_at_that_of_open_clip():
    assert build().logit_scale.tolist() == pytest.approx([2.6593], abs=5e-5)


def test_a_step_is_a_function_of_progress():
    recipe = build(model=replace(MODEL, drop_path=0.5, register_dropout=0.5))
    first, again, other = (recipe(batch_of(), progress).loss for progress in (NOW, NOW, replace(NOW, step=4)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class Recorder(Progress):
    """Writes down the sizes of the groups that it is asked for."""

    sizes: ClassVar[list[int]] = []

    def groups(self, samples, size):
        self.sizes.append(size)
        return super().groups(samples, size)


def test_all_draws_are_those_of_the_group():
    recipe = build(replace(CONFIG, group=2), replace(MODEL, drop_path=0.5, register_dropout=0.5))
    Recorder.sizes.clear()
    recipe(batch_of(), Recorder(step=3, total=10, epoch_steps=5))
    assert Recorder.sizes == [2] * 2, "stochastic depth, registers"


def test_stochastic_depth_acts():
    plain, config = build()(batch_of(), NOW), replace(CONFIG, group=2)
    assert plain.loss != build(model=replace(MODEL, drop_path=0.5))(batch_of(), NOW).loss
    subset = replace(MODEL, drop_path=0.5, drop_path_mode="subset")
    assert build(config)(batch_of(), NOW).loss != build(config, subset)(batch_of(), NOW).loss


def test_loss_falls_on_a_fixed_batch():
    recipe, batch = build(), batch_of()
    optimiser = torch.optim.AdamW([{"params": list(g.params)} for g in recipe.parameter_groups(OptimConfig())], lr=3e-3)
    losses = []
    for step in range(12):
        output = recipe(batch, replace(NOW, step=step))
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        recipe.after_step(NOW)
        losses.append(output.loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_micro_batches_would_change_the_loss_and_it_says_so():
    recipe, batch = build(), batch_of()
    whole = recipe(batch, NOW).loss
    halves = torch.stack([recipe(part, replace(NOW, first=part.first)).loss for part in batch.split(3)]).mean()
    assert halves < whole
    assert "checkpoint-activations" in (recipe.why_whole_batch() or "")


def test_register_settings_act():
    plain = build()(batch_of(), NOW)
    hidden = build(model=replace(MODEL, register_dropout=0.999999))
    without = build(model=replace(MODEL, registers=0))
    shared = {name: value for name, value in hidden.state_dict().items() if name != "visual.reg_token"}
    without.load_state_dict(shared)
    torch.testing.assert_close(hidden(batch_of(), NOW).loss, without(batch_of(), NOW).loss)
    assert not torch.isclose(plain.loss, hidden(batch_of(), NOW).loss)
    apart = build(model=replace(MODEL, register_decorrelation=2.0))(batch_of(), NOW)
    torch.testing.assert_close(apart.loss, plain.loss + apart.metrics["decorrelation"])
    assert apart.metrics["decorrelation"] > 0
    assert "decorrelation" not in plain.metrics


def test_the_image_is_read_where_the_model_says():
    recipe, images = build(model=replace(MODEL, pool="mean")), batch_of().views[0][0]
    tokens = recipe.visual.forward_features(images)
    wanted = torch.nn.functional.normalize(tokens[:, 3:].mean(1) @ recipe.projection, dim=-1)
    torch.testing.assert_close(recipe.encode_image(images), wanted)


def test_backbone_and_shards():
    recipe = build()
    assert recipe.backbone() is recipe.visual
    assert [type(block).__name__ for block in recipe.shards()] == ["Block"] * 2 + ["ResidualAttentionBlock"] * 2


def test_half_precision_compares_in_full():
    recipe, batch = build(), batch_of()
    with torch.autocast("cpu", torch.bfloat16):
        output = recipe(batch, NOW)
        places = torch.cat([recipe.encode_image(batch.views[0][0]), recipe.encode_text(captions_of(batch))])
    torch.testing.assert_close(places.norm(dim=1), torch.ones(12), rtol=0, atol=1e-6)  # bf16 would miss by 1e-3
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(output.loss, recipe(batch, NOW).loss, rtol=0.05, atol=0.05)


def test_the_tokenizer_speaks_clips_language_after_a_journey():
    tokenizer = pickle.loads(pickle.dumps(build(replace(CONFIG, context=77)).tokenizer()))
    ids = tokenizer(["A photo of a cat", "cat " * 100])
    assert ids.shape == (2, 77)
    assert ids.dtype == torch.int64
    assert ids[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    assert ids[1, -2:].tolist() == [2368, 49407], "a long text keeps its end token"
    assert len(pickle.dumps(tokenizer)) < 1000


def test_without_open_clip_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match=r"pip install 'vitreg\[clip\]'"):
        build()


@pytest.mark.parametrize(
    "wrong", [{"text_heads": 3}, {"scale_start": 0.0}, {"scale_start": 200.0}, {"crop_scale": (0.9, 1.1)}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match=r"text_width|scale_max|crop_scale"):
        build(replace(CONFIG, **wrong))


def test_images_without_captions_are_refused():
    with pytest.raises(UserError, match="captions"):
        build()(replace(batch_of(), targets=None), NOW)


def share(rank, folder):
    """One of two processes: half the batch, gradients averaged as DDP does."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    batch = batch_of()
    recipe = build(model=replace(MODEL, drop_path=0.5, register_dropout=0.5))
    part = batch.split(3)[rank]
    output, found = gradients(recipe, part, replace(NOW, first=part.first))
    sums = {"loss": output.loss.detach(), "top1": output.metrics["batch_top1"], **found}
    for value in sums.values():
        dist.all_reduce(value)
        value /= 2
    if rank == 0:
        torch.save(sums, folder / "two.pt")
    dist.destroy_process_group()


def test_two_processes_are_one(tmp_path: Path):
    on_two(share, tmp_path)
    two = torch.load(tmp_path / "two.pt")
    output, found = gradients(build(model=replace(MODEL, drop_path=0.5, register_dropout=0.5)), batch_of())
    torch.testing.assert_close(two.pop("loss"), output.loss.detach())
    torch.testing.assert_close(two.pop("top1"), output.metrics["batch_top1"])
    assert two.keys() == found.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(two[name], gradient, rtol=1e-4, atol=1e-6)
