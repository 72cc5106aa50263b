"""The conformance suite of backbones, which every family of models must pass before it is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.backbones.backbone import Backbone
from vitreg.backbones.edits import Edit
from vitreg.backbones.trace import QKV, Capture, Trace
from vitreg.backbones.watch import undisturbed
from vitreg.errors import UserError
from vitreg.testing.anatomies import check_blocks, check_last_norm, check_patch, check_places
from vitreg.testing.editing import editing_checks

_TIGHT = 1e-5
_TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}


def check_backbone(backbone: Backbone, images: Float[Tensor, "3 3 H W"] | None = None) -> dict[str, str]:
    """Check that a backbone keeps every promise made about it.

    The patch is the stride of the projection; blocks run once, in their order; the pixels of a patch change its token;
    traced equals untraced bit for bit; nothing is left behind in the module, also after an exception; the layout
    covers the sequence exactly once; `final_norm(hidden(-1))` is what the model returns; attention rows, with the keys of no
    token, sum to 1 and are
    those of float64 attention of the same q and k, however large the logits; attention times values, sent through the
    block's output projection, is the attention module's output; images that
    are not square; a batch of one equals its row in a batch of three; training flags and random numbers are untouched;
    norms are those of the hidden states; patch embeddings are the convolution's; what is written at any site is read
    there and reaches the end; a token may be added and taken out again, and a key that belongs to no token.

    Args:
        images: three normalised images of a size the model takes; None for random ones of its native size (or of 6x6
            patches where that is much smaller).
    Returns:
        name of the check -> "held", or why it does not apply to this model.
    Raises:
        AssertionError: naming the promise and by how much it was broken.
    """
    images = _default_images(backbone) if images is None else images
    assert len(images) == 3, f"check_backbone wants three images, got {len(images)}"
    check_patch(backbone)
    check_blocks(backbone, images)
    readable = backbone.attention_status().readable
    known = bool(backbone.anatomy.attention)
    everything = Capture(
        hidden="all",
        norms="all",
        qkv="all" if readable else (),
        projected="all" if known else (),
        patch_embeddings=True,
    )
    trace = backbone.trace(images, everything)
    checks: list[tuple[str, Callable[[], str | None]]] = [
        ("untouched", lambda: _untouched(backbone, images, everything)),
        ("same bits", lambda: _same_bits(backbone, images, trace)),
        ("layout", lambda: _layout(backbone, images, trace)),
        ("final norm", lambda: check_last_norm(backbone, trace.hidden(-1), trace.final.values)),
        ("places", lambda: check_places(backbone, images)),
        ("norms", lambda: _norms(backbone, trace)),
        ("patch embeddings", lambda: _patch_embeddings(backbone, images, trace)),
        ("attention", lambda: _attention(backbone, images, trace)),
        ("output projection", lambda: _output_projection(backbone, images, trace)),
        ("batch", lambda: _batch(backbone, images, trace)),
        ("not square", lambda: _not_square(backbone, images)),
        *editing_checks(backbone, images).items(),
    ]
    return {name: check() or "held" for name, check in checks}


def _default_images(backbone: Backbone) -> Tensor:
    (height, width), patch = backbone.anatomy.native_size, backbone.anatomy.patch
    if backbone.anatomy.resizable and (height // patch[0]) * (width // patch[1]) > 400:
        height, width = 6 * patch[0], 6 * patch[1]
    return torch.randn(3, backbone.anatomy.channels, height, width, generator=torch.Generator().manual_seed(0))


def _close(found: Tensor, wanted: Tensor, what: str, tolerance: float = _TIGHT) -> None:
    assert found.shape == wanted.shape, f"{what}: shape {list(found.shape)} instead of {list(wanted.shape)}"
    found, wanted = found.double(), wanted.double()
    error = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
    assert error <= max(tolerance, 0.0), f"{what}: off by {error:.2e} of the largest value, {tolerance:.0e} allowed"


def _slack(backbone: Backbone) -> float:
    return _TOLERANCE.get(backbone.dtype, _TIGHT)


def _same_bits(backbone: Backbone, images: Tensor, trace: Trace) -> None:
    assert torch.equal(backbone(images).values, trace.final.values), "a traced run gives other bits than a plain one"


def _layout(backbone: Backbone, images: Tensor, trace: Trace) -> None:
    layouts = backbone.layouts((images.shape[-2], images.shape[-1]))
    layout = layouts[0]
    for layer in range(backbone.depth):
        assert trace.layout_after(layer) == layouts[layer + 1], (
            f"another layout after block {layer} than Backbone.layouts says"
        )
        shape = (len(images), layouts[layer + 1].length, backbone.anatomy.width)
        assert tuple(trace.hidden(layer).shape) == shape, (
            f"hidden({layer}) is {list(trace.hidden(layer).shape)}, not {shape}"
        )
    registers = backbone.anatomy.register_parameter()
    count = 0 if registers is None else registers.shape[0]
    assert count == len(layout.registers), f"{count} learned registers but {len(layout.registers)} in the layout"
    positions = backbone.anatomy.position_table()
    if positions is not None:
        table, (rows, cols) = positions
        assert tuple(table.shape) == (rows * cols, backbone.anatomy.width), (
            "the position table is not one row per patch"
        )


def _norms(backbone: Backbone, trace: Trace) -> None:
    for layer in range(backbone.depth):
        assert trace.norms(layer).dtype == torch.float32, "norms must be float32"
        _close(trace.norms(layer), trace.hidden(layer).double().norm(dim=-1), f"norms({layer})")


def _patch_embeddings(backbone: Backbone, images: Tensor, trace: Trace) -> str | None:
    found, projection = trace.patch_embeddings, backbone.anatomy.patch_projection
    assert found.shape[1] == trace.layout.num_patches, (
        f"{found.shape[1]} patch embeddings, not {trace.layout.num_patches}"
    )
    if not isinstance(projection, nn.Conv2d):
        return "the number of rows held; the projection is not a convolution to compare with"
    rows, cols = backbone.anatomy.patch
    height, width = trace.layout.grid[0] * rows, trace.layout.grid[1] * cols
    cut = F.unfold(images.to(backbone.device, backbone.dtype)[..., :height, :width], (rows, cols), stride=(rows, cols))
    if projection.weight[0].numel() != cut.shape[1]:
        return "the number of rows held; the projection reads more than the pixels of a patch"
    by_hand = cut.transpose(1, 2) @ projection.weight.detach().flatten(1).T
    if projection.bias is not None:
        by_hand = by_hand + projection.bias.detach()
    _close(found, by_hand, "patch embeddings", _slack(backbone))
    return None


def _attention(backbone: Backbone, images: Tensor, trace: Trace) -> str | None:
    status = backbone.attention_status()
    if not status.readable:
        return status.reason
    lengths = [trace.layout_before(layer).length for layer in range(backbone.depth)]
    rows = backbone.trace(images, Capture(rows={layer: [0, length - 1] for layer, length in enumerate(lengths)}))
    for layer, length in enumerate(lengths):
        queries = [0, length - 1]
        found = trace.attention(layer, list(range(length)))
        assert tuple(found.shape) == (len(images), backbone.anatomy.heads, length, length), f"attention({layer}) shape"
        qkv = trace.qkv(layer)
        nothing = trace.extra_attention(layer, list(range(length))).sum(dim=-1)  # to keys of no token
        _close(found.sum(dim=-1) + nothing, torch.ones_like(nothing), f"attention rows of block {layer} sum to 1")
        slack = max(_TIGHT, qkv.last_bits())
        _close(rows.attention(layer, queries), found[:, :, queries], f"rows kept while running, block {layer}", slack)
        _close(found, _in_float64(qkv)[..., :length], f"attention rows of block {layer} against float64", slack)
    return None


def _in_float64(qkv: QKV) -> Tensor:
    """Attention of the same q and k in float64, computed independently: [B, heads, N, N]."""
    q, k = qkv.q.double(), qkv.k.double().repeat_interleave(qkv.q.shape[1] // qkv.k.shape[1], dim=1)
    logits = q @ k.transpose(-2, -1) * qkv.scale
    if qkv.mask is not None:
        seen = qkv.mask if qkv.mask.dtype == torch.bool else None
        logits = logits + qkv.mask.double() if seen is None else logits.masked_fill(~seen, -torch.inf)
    if qkv.causal:
        logits = logits.masked_fill(torch.ones_like(logits, dtype=torch.bool).triu(1), -torch.inf)
    return logits.softmax(dim=-1)


def _output_projection(backbone: Backbone, images: Tensor, trace: Trace) -> str | None:
    if not backbone.attention_status().readable:
        return backbone.attention_status().reason
    parts = backbone.anatomy.attention
    if not parts or any(part.finish is None for part in parts):
        return "more than a projection stands between attention and the module's output, or it is not known"
    outputs: dict[int, Tensor] = {}
    handles = [part.module.register_forward_hook(_keeper(outputs, layer)) for layer, part in enumerate(parts)]
    try:
        backbone(images)
    finally:
        for handle in handles:
            handle.remove()
    for layer, part in enumerate(parts):
        assert layer in outputs, f"the attention module of block {layer} did not run"
        assert part.finish is not None
        with undisturbed(backbone.module):
            rebuilt = part.finish(trace.qkv(layer).mixed().to(backbone.dtype))
        if backbone.anatomy.sequence_first:
            rebuilt = rebuilt.transpose(0, 1)
        _close(rebuilt, outputs[layer], f"attention · v through the projection of block {layer}", _slack(backbone))
    return None


def _keeper(outputs: dict[int, Tensor], layer: int) -> Callable[..., None]:
    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs[layer] = output[0] if isinstance(output, (tuple, list)) else output

    return keep


def _batch(backbone: Backbone, images: Tensor, trace: Trace) -> None:
    alone = backbone(images[1:2]).values
    _close(alone[0], trace.final.values[1], "a batch of one against its row in a batch of three", _slack(backbone))


def _not_square(backbone: Backbone, images: Tensor) -> str | None:
    rows, cols = backbone.anatomy.patch
    wide = torch.cat([images, images.flip(-1)[..., : 2 * cols]], dim=-1)
    wide = wide[..., : wide.shape[-2] // rows * rows, : wide.shape[-1] // cols * cols]
    if not backbone.anatomy.resizable:
        refusal = _refusal(backbone, wide)
        native = "{}x{}".format(*backbone.anatomy.native_size)
        assert native in refusal, f"a model of one size must refuse others and name {native}, got: '{refusal}'"
        return "refused with its reason: this model takes one size only"
    for pictures in (wide, wide.transpose(-2, -1)) if rows == cols else (wide,):
        size = (pictures.shape[-2], pictures.shape[-1])
        trace = backbone.trace(pictures, Capture(hidden=[-1], patch_embeddings=True))
        grid = (size[0] // rows, size[1] // cols)
        assert trace.layout.grid == grid, f"grid {trace.layout.grid} for an image of {size}, not {grid}"
        assert trace.hidden(-1).shape[1] == trace.layout.length
        assert torch.equal(backbone(pictures).values, trace.final.values), "other bits at a size that is not native"
        assert torch.isfinite(trace.final.values).all(), "values that are not finite at a size that is not native"
    return None


def _refusal(backbone: Backbone, images: Tensor) -> str:
    try:
        backbone(images)
    except UserError as error:
        return str(error)
    return ""


def _untouched(backbone: Backbone, images: Tensor, capture: Capture) -> None:
    """Run, and fail inside a run, in training mode; everything must be unchanged."""
    module = backbone.module
    flags = {name: child.training for name, child in module.named_modules()}
    module.train()
    backbone.anatomy.blocks[0].eval()
    try:
        before, random = _snapshot(module), torch.get_rng_state()
        backbone(images)
        backbone.trace(images, capture)
        if backbone.anatomy.resizable:
            rows, cols = backbone.anatomy.patch
            oblong = torch.zeros(1, backbone.anatomy.channels, 2 * rows, 3 * cols)
            backbone(oblong)
            _fail_inside(backbone, oblong, capture)
        _fail_inside(backbone, images, capture)
        assert torch.equal(torch.get_rng_state(), random), "the random number generator was touched"
        after = _snapshot(module)
        assert after.keys() == before.keys(), "submodules appeared or vanished"
        for name, what in after.items():
            assert what == before[name], f"'{name or 'the model'}' was changed: {_difference(before[name], what)}"
        assert torch._C._len_torch_function_stack() == 0, "a torch function mode was left active"
    finally:
        for name, child in module.named_modules():
            child.training = flags[name]


class _StoppedError(Exception):
    """Raised inside a forward, to check that nothing is left behind."""


def _fail_inside(backbone: Backbone, images: Tensor, capture: Capture) -> None:
    def stop(_hidden: Tensor, _place: Any) -> Tensor:
        raise _StoppedError

    try:
        backbone.trace(images, capture, [Edit("block", -1, stop)])
    except _StoppedError:
        return
    raise AssertionError("an error inside a traced forward was swallowed")


def _snapshot(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Name everything a run could leave behind: attributes, hooks, parameters (identity, storage, version), flags."""
    fast = torch.backends.mha.get_fastpath_enabled()
    found: dict[str, dict[str, Any]] = {}
    for name, child in module.named_modules():
        tensors = [*child.named_parameters(recurse=False), *child.named_buffers(recurse=False)]
        found[name] = {
            "attributes": {key: id(value) for key, value in vars(child).items() if not key.startswith("_")},
            "private": sorted(key for key in vars(child) if key.startswith("_")),
            "hooks": [len(value) for key, value in sorted(vars(child).items()) if key.endswith("_hooks")],
            "children": {key: id(value) for key, value in child._modules.items()},
            "tensors": {key: (id(t), t.data_ptr(), t._version, t.requires_grad) for key, t in tensors},
            "training": child.training,
            "fused path": fast,
        }
    return found


def _difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    return ", ".join(key for key in after if after[key] != before[key])
