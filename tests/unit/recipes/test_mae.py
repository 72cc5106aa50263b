"""The masked autoencoder against a transcription with loops over images and patches."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from vitreg.data.batches.batch import TrainBatch
from vitreg.errors import UserError
from vitreg.models.settings import ModelConfig
from vitreg.recipes.mae import Mae
from vitreg.recipes.recipe import Progress
from vitreg.recipes.settings import MaeConfig, OptimConfig

MODEL = ModelConfig(
    width=32, depth=2, heads=2, patch=4, image_size=16, registers=2, layer_scale=None, token_init=0.2, register_init=0.2
)
CONFIG = MaeConfig(decoder_width=24, decoder_depth=1, decoder_heads=2)
NOW = Progress(step=3, total=10, epoch_steps=5, seed=7)


def build(config=CONFIG, model=MODEL, seed=0):
    torch.manual_seed(seed)
    return Mae(model, config).train()


def batch_of(samples=6):
    draw = torch.Generator().manual_seed(1)
    return TrainBatch((torch.randn(1, samples, 3, 16, 16, generator=draw),))


def gradients(recipe, batch, progress=NOW):
    recipe.zero_grad()
    output = recipe(batch, progress)
    output.loss.backward()
    return output, {name: p.grad.clone() for name, p in recipe.named_parameters() if p.grad is not None}


def watched(recipe, batch, progress=NOW):
    """What the decoder was told and what it said in one step: (visible [B, K], pixels [B, P, 48], output)."""
    seen = []
    handle = recipe.decoder.register_forward_hook(lambda _, inputs, pixels: seen.append((inputs[2], pixels)))
    output = recipe(batch, progress)
    handle.remove()
    ((visible, pixels),) = seen
    return visible, pixels, output


def naive(recipe, batch, visible, *, norm_pixels=True):
    """The paper's sentence, image by image and patch by patch."""
    encoder, decoder, errors = recipe.encoder, recipe.decoder, []
    for image, shown in zip(batch.views[0][0], visible.tolist(), strict=True):
        patches = [image[:, r : r + 4, c : c + 4] for r in range(0, 16, 4) for c in range(0, 16, 4)]
        kernel, bias = encoder.patch_embed.proj.weight, encoder.patch_embed.proj.bias
        tokens = [*encoder.cls_token[0], *encoder.reg_token[0]]
        tokens += [(kernel * patches[i]).sum((1, 2, 3)) + bias + encoder.pos_embed[0, i] for i in shown]
        x = torch.stack(tokens)[None]
        for block in encoder.blocks:
            x = block(x)
        x = decoder.embed(encoder.norm(x))[0]
        canvas = [decoder.mask_token[0, 0]] * 16
        for place, token in zip(shown, x[3:], strict=True):  # CLS and two registers come first
            canvas[place] = token
        x = torch.stack([x[0], *(token + decoder.positions[i] for i, token in enumerate(canvas))])[None]
        for block in decoder.blocks:
            x = block(x)
        predicted = decoder.pred(decoder.norm(x))[0, 1:]
        for i in set(range(16)) - set(shown):
            target = torch.stack([patches[i][:, r, c] for r in range(4) for c in range(4)]).flatten()
            if norm_pixels:
                variance = ((target - target.mean()) ** 2).sum() / (len(target) - 1)
                target = (target - target.mean()) / (variance + 1e-6) ** 0.5
            errors.append(((predicted[i] - target) ** 2).mean())
    return torch.stack(errors).mean()


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_loss_and_gradients_are_the_transcription(norm_pixels):
    recipe, batch = build(replace(CONFIG, norm_pixels=norm_pixels)).double(), batch_of(3)
    batch = replace(batch, views=(batch.views[0].double(),))
    visible, _, output = watched(recipe, batch)
    loss = naive(recipe, batch, visible, norm_pixels=norm_pixels)
    torch.testing.assert_close(output.loss.double(), loss, rtol=1e-6, atol=0)
    wanted = torch.autograd.grad(loss, [p for p in recipe.parameters() if p.requires_grad])
    _, found = gradients(recipe, batch)
    for (name, gradient), reference in zip(found.items(), wanted, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-5, atol=1e-7, msg=lambda t, name=name: f"{name}: {t}")


def test_three_quarters_are_hidden_differently_in_every_image():
    visible, _, _ = watched(build(), batch_of(64))
    assert visible.shape == (64, 4)
    assert all(len(set(places)) == 4 for places in visible.tolist())
    counts = torch.bincount(visible.flatten(), minlength=16)  # 64 * 4 / 16 = 16 each, standard deviation 3.5
    assert counts.min() >= 3
    assert counts.max() <= 33
    assert len({tuple(p) for p in visible.tolist()}) > 50


def test_what_is_hidden_is_not_seen():
    recipe, batch = build(), batch_of()
    visible, pixels, output = watched(recipe, batch)
    images = batch.views[0].clone()
    for image, shown in zip(images[0], visible.tolist(), strict=True):
        for i in set(range(16)) - set(shown):
            image[:, i // 4 * 4 : i // 4 * 4 + 4, i % 4 * 4 : i % 4 * 4 + 4] = 100.0 * torch.randn(3, 4, 4)
    _, same, other = watched(recipe, replace(batch, views=(images,)))
    assert torch.equal(pixels, same)
    assert output.loss != other.loss


def test_only_hidden_patches_are_judged():
    visible, pixels, output = watched(build(), batch_of())
    (gradient,) = torch.autograd.grad(output.loss, pixels)
    judged = gradient.abs().sum(-1) > 0  # [B, P]
    assert torch.equal(judged, torch.ones_like(judged).scatter(1, visible, False))


def test_every_trainable_parameter_has_a_gradient_and_one_group():
    recipe = build()
    output, found = gradients(recipe, batch_of())
    assert output.loss.isfinite()
    assert output.loss.shape == ()
    assert output.examples == 6
    assert dict(recipe.named_parameters()).keys() - found.keys() == {"encoder.pos_embed"}, "fixed sines and cosines"
    assert all(gradient.abs().sum() > 0 for gradient in found.values())
    names = [name for group in recipe.parameter_groups(OptimConfig()) for name in group.names]
    assert sorted(names) == sorted(found)


def test_what_decays_is_what_official_mae_decays():
    groups = build().parameter_groups(OptimConfig(decay_tokens=True))
    decayed = {name for group in groups if group.decay_scale for name in group.names}
    # Its groups are timm's add_weight_decay without exceptions: all but vectors and biases.
    trained = {name: p for name, p in build().named_parameters() if p.requires_grad}
    assert decayed == {name for name, p in trained.items() if p.ndim > 1 and not name.endswith(".bias")}


@pytest.mark.parametrize("mode", ["sample", "subset"])
def test_micro_batches_are_the_whole_batch(mode):
    model = replace(MODEL, drop_path=0.5, drop_path_mode=mode, register_dropout=0.5)
    recipe, batch = build(replace(CONFIG, group=2), model).double(), batch_of()
    batch = replace(batch, views=(batch.views[0].double(),))
    assert recipe.why_whole_batch() is None
    whole, wanted = gradients(recipe, batch)
    recipe.zero_grad()
    loss = torch.zeros(())
    for part in batch.split(4):
        output = recipe(part, replace(NOW, first=part.first))
        (output.loss * len(part) / 6).backward()
        loss = loss + output.loss.detach() * len(part) / 6
    torch.testing.assert_close(loss, whole.loss.detach(), check_dtype=False)
    for name, parameter in recipe.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-5, atol=1e-8)


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
    assert Recorder.sizes == [2] * 3, "masks, stochastic depth, registers"


def test_stochastic_depth_acts():
    plain, config = build()(batch_of(), NOW), replace(CONFIG, group=2)
    assert plain.loss != build(model=replace(MODEL, drop_path=0.5))(batch_of(), NOW).loss
    subset = replace(MODEL, drop_path=0.5, drop_path_mode="subset")
    assert build(config)(batch_of(), NOW).loss != build(config, subset)(batch_of(), NOW).loss


def test_loss_falls_on_a_fixed_batch():
    recipe, batch = build(), batch_of()
    optimiser = torch.optim.AdamW([{"params": list(g.params)} for g in recipe.parameter_groups(OptimConfig())], lr=3e-3)
    losses = []
    for _ in range(60):
        output = recipe(batch, NOW)
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        recipe.after_step(NOW)
        losses.append(output.loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_register_settings_act():
    plain = build()(batch_of(), NOW)
    hidden = build(model=replace(MODEL, register_dropout=0.999999))
    without = build(model=replace(MODEL, registers=0))
    shared = {name: value for name, value in hidden.state_dict().items() if name != "encoder.reg_token"}
    without.load_state_dict(shared)
    torch.testing.assert_close(hidden(batch_of(), NOW).loss, without(batch_of(), NOW).loss)
    assert not torch.isclose(plain.loss, hidden(batch_of(), NOW).loss, rtol=1e-6)
    apart = build(model=replace(MODEL, register_decorrelation=2.0))(batch_of(), NOW)
    torch.testing.assert_close(apart.loss, plain.loss + apart.metrics["decorrelation"])
    assert apart.metrics["decorrelation"] > 0
    assert "decorrelation" not in plain.metrics


def test_weights_start_as_official_mae():
    model = replace(MODEL, width=192)
    recipe = build(replace(CONFIG, decoder_width=64), model)
    state = recipe.state_dict()
    for name in ("encoder.blocks.0.attn.qkv", "encoder.blocks.1.mlp.fc1", "decoder.pred", "encoder.patch_embed.proj"):
        weight = state[f"{name}.weight"].flatten(1)
        bound = (6 / sum(weight.shape)) ** 0.5  # Xavier: uniform up to here
        assert 0.98 * bound < weight.abs().max() <= bound, name
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03), name
    assert not state["encoder.blocks.0.attn.qkv.bias"].any()
    place, width = 7, 192  # row 1, column 3: the column in the first half of the channels, sines first
    frequency = 10000 ** -(torch.arange(width / 4) / (width / 4))
    wanted = torch.cat([(3 * frequency).sin(), (3 * frequency).cos(), frequency.sin(), frequency.cos()])
    torch.testing.assert_close(state["encoder.pos_embed"][0, place], wanted, rtol=1e-5, atol=1e-6)


def test_the_backbone_sees_whole_images():
    recipe = build()
    assert recipe.backbone() is recipe.encoder
    assert recipe.backbone().forward_features(batch_of().views[0][0]).shape == (6, 1 + 2 + 16, 32)
    assert len(recipe.shards()) == 2 + 1


def test_half_precision_compares_in_full():
    recipe = build()
    with torch.autocast("cpu", torch.bfloat16):
        output = recipe(batch_of(), NOW)
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(output.loss, recipe(batch_of(), NOW).loss, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "wrong",
    [{"decoder_width": 30, "decoder_heads": 2}, {"decoder_heads": 5}, {"mask_ratio": 1.0}, {"crop_scale": (0.5, 0.2)}],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match=r"decoder_width|mask_ratio|crop_scale"):
        build(replace(CONFIG, **wrong))


def test_a_width_that_holds_no_positions_is_refused():
    with pytest.raises(UserError, match="multiple of 4"):
        build(model=replace(MODEL, width=30))
