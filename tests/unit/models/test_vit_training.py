"""What training asks of our ViT: masks, hidden and late registers, several sizes at once, recomputation."""

import pytest
import torch
from torch import nn

from vitreg.models.depth import draw_depth
from vitreg.models.vit import VisionTransformer
from vitreg.recipes.recipe import Progress


def small(**options) -> VisionTransformer:
    """A network in which every parameter matters, also those that start at zero or one."""
    model = VisionTransformer(64, 16, 48, 3, 4, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def test_masked_patches_are_replaced_before_their_position_is_added():
    model = small(registers=2, mask_token=True)
    images, mask = torch.randn(2, 3, 64, 64), torch.rand(2, 16, generator=torch.Generator().manual_seed(1)) < 0.4
    with torch.inference_mode():
        plain, masked = model.embed(images), model.embed(images, mask)
    for image in range(2):
        for patch in range(16):
            wanted = model.mask_token[0] + model.pos_embed[0, patch] if mask[image, patch] else plain[image, 3 + patch]
            torch.testing.assert_close(masked[image, 3 + patch], wanted)
    torch.testing.assert_close(masked[:, :3], plain[:, :3])
    with torch.inference_mode():
        before = model.forward_features(images, mask=mask)
        hidden = mask.unflatten(1, (4, 4)).repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None]
        after = model.forward_features(images.masked_fill(hidden, 7.0), mask=mask)
    torch.testing.assert_close(after, before)  # what lies under the mask does not matter
    with pytest.raises(ValueError, match="mask_token"):
        small().forward_features(images, mask=mask)


@pytest.mark.parametrize("options", [{}, {"cls_token": False}, {"register_depth": 1}])
def test_a_hidden_register_does_not_exist_for_the_other_tokens(options):
    model = small(registers=3, **options)
    start = int(model.cls_token is not None)
    kept = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        tokens = model.forward_features(images, registers_kept=kept)
        for image, row in enumerate(kept.tolist()):
            left = [register for register, keep in enumerate(row) if keep]
            without = small(registers=len(left), **options)
            state = dict(model.state_dict())
            if left:
                state["reg_token"] = state["reg_token"][:, left]
            else:
                del state["reg_token"]
            without.load_state_dict(state)
            wanted = without.forward_features(images[image : image + 1])[0]
            others = [*range(start), *(start + register for register in left), *range(start + 3, start + 19)]
            torch.testing.assert_close(tokens[image, others], wanted, atol=1e-5, rtol=1e-5)


def test_hidden_registers_get_no_gradient_from_the_others():
    model = small(registers=3)
    tokens = model.forward_features(torch.randn(2, 3, 64, 64), registers_kept=torch.tensor([[True, False, True]] * 2))
    tokens[:, [0, *range(4, 20)]].square().sum().backward()
    assert (model.reg_token.grad[0].abs().amax(dim=-1) > 0).tolist() == [True, False, True]


def test_before_their_block_registers_pass_by_unseen():
    model, without = small(registers=3, register_depth=2), small()
    without.load_state_dict({name: value for name, value in model.state_dict().items() if name != "reg_token"})
    outputs: dict[tuple[str, int], torch.Tensor] = {}
    for name, network in (("late", model), ("none", without)):
        for number, block in enumerate(network.blocks):
            block.register_forward_hook(lambda _m, _i, out, key=(name, number): outputs.update({key: out}))
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        model(images), without(images)
    others = [0, *range(4, 20)]
    for number in (0, 1):
        assert outputs["late", number].shape == (2, 20, 48)
        torch.testing.assert_close(outputs["late", number][:, others], outputs["none", number], atol=1e-5, rtol=1e-5)
        assert (outputs["late", number][:, 1:4] == model.reg_token).all()
    assert (outputs["late", 2][:, others] - outputs["none", 2]).abs().max() > 1e-3
    assert (outputs["late", 2][:, 1:4] - model.reg_token).abs().max() > 1e-3


@pytest.mark.parametrize("mode", ["none", "sample", "subset"])
@pytest.mark.parametrize("options", [{}, {"register_depth": 2}], ids=["plain", "late registers"])
def test_stacks_of_several_sizes_at_once_equal_each_alone(mode, options):
    model = small(registers=2, layer_scale=0.5, mask_token=True, mlp="swiglu", **options).double()
    stacks = [torch.randn(4, 3, 64, 64), torch.randn(8, 3, 32, 32), torch.randn(4, 3, 32, 64)]
    stacks = [stack.double() for stack in stacks]
    masks = [torch.rand(4, 16) < 0.5, None, None]
    progress = Progress(step=3, total=9, epoch_steps=3)
    depths = [None] * 3
    if mode != "none":
        depths = [draw_depth(0.4, 3, 4, mode, 4, progress, views=v, purpose=str(v)) for v in (1, 2)] + [None]
    kept = [None, torch.rand(8, 2) < 0.5, None]
    together = model.forward_stacks(stacks, masks=masks, depths=depths, registers_kept=kept)
    alone = [
        model.forward_features(images, mask=mask, depth=depth, registers_kept=keep)
        for images, mask, depth, keep in zip(stacks, masks, depths, kept, strict=True)
    ]
    weights = [torch.randn_like(tokens) for tokens in together]
    gradients = []
    for outputs in (together, alone):
        loss = sum((tokens * weight).sum() for tokens, weight in zip(outputs, weights, strict=True))
        gradients.append(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True))
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_several_sizes_at_once_multiply_each_weight_once(monkeypatch):
    model = small(registers=1)
    calls = []
    linear = nn.functional.linear
    with torch.inference_mode():
        tokens = [model.embed(images) for images in (torch.randn(2, 3, 64, 64), torch.randn(4, 3, 32, 32))]
        monkeypatch.setattr(nn.functional, "linear", lambda *given: calls.append(given[0].shape) or linear(*given))
        model.encode(tokens)
    assert calls == [(2 * 18 + 4 * 6, width) for _ in model.blocks for width in (48, 48, 48, 192)]


def test_recomputed_blocks_give_the_same_gradients_and_keep_less():
    model = small(registers=2, layer_scale=0.5)
    images = torch.randn(4, 3, 64, 64)
    depth = draw_depth(0.5, 3, 4, "subset", 4, Progress(step=0, total=9, epoch_steps=3))
    results, kept = [], []
    for recompute in (False, True):
        for block in model.blocks:
            block.checkpoint = recompute
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: s.append(t.numel()) or t, lambda t: t):
            loss = model.forward_features(images, depth=depth).square().sum()
        results.append(torch.autograd.grad(loss, list(model.parameters())))
        kept.append(sum(saved))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    assert kept[1] < kept[0] / 2


def test_some_patches_only_are_encoded_as_if_the_others_were_not_there():
    model = small(registers=2)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        tokens = model.embed(images)[:, [0, 1, 2, 5, 9, 17]]  # CLS, registers, three patches
        together = model.encode([tokens])[0]
        one = model.norm(model.blocks[2](model.blocks[1](model.blocks[0](tokens[1:]))))
    torch.testing.assert_close(together[1:], one, atol=1e-5, rtol=1e-5)


def test_under_bfloat16_autocast_the_residual_stream_stays_float32():
    model = small(registers=2, layer_scale=0.5)
    images, stream = torch.randn(4, 3, 64, 64), []
    model.blocks[1].register_forward_hook(lambda _m, _i, out: stream.append(out.dtype))
    whole = model.forward_features(images)
    for mode in ("sample", "subset"):
        depth = draw_depth(0.4, 3, 4, mode, 4, Progress(step=0, total=9, epoch_steps=3))
        exact = model.forward_features(images, depth=depth)
        with torch.autocast("cpu", torch.bfloat16):
            half = model.forward_features(images, depth=depth)
        assert stream[-1] == torch.float32
        torch.testing.assert_close(half.float(), exact, atol=0.1, rtol=0.05)
        assert (exact - whole).abs().max() > 0.1
