"""What can go wrong with a ViT, found in its weights and its library alone, without an image.

Token bookkeeping is where most code that uses registers breaks, so the findings say which index is what, what the
library calls it, and which common slice would be wrong for this model. The numbers come from `analysis.lint`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from vitreg.analysis import lint
from vitreg.backbones.anatomy.parts import Anatomy, parameter_name
from vitreg.backbones.backbone import Backbone
from vitreg.backbones.weights.vit_state import feature_weights
from vitreg.errors import UserError
from vitreg.models.shipped import card_of, in_words
from vitreg.records import Finding
from vitreg.tokens import TokenLayout

MOST_RUNS = 6  # runs of consecutive indices listed in one sentence
CLASS_NAMES = ("cls_token", "class_token", "class_embedding", "dist_token", "distillation_token")


def findings(backbone: Backbone) -> list[Finding]:
    """Examine a model without images.

    Returns:
        Findings on the card of a shipped model, training and values of the weights, token layout, the library's names,
        slicing, registers, position table, pooling, final norm, attention, input sizes and weight decay. Level `problem`:
        the model does not work as intended; `warning`: likely to mislead; `note`: good to know; `ok`: checked and fine.
    """
    anatomy = backbone.anatomy
    layout = anatomy.layout(anatomy.native_size)
    return [
        *_edits(backbone),
        *_card(backbone),
        *_training(backbone),
        lint.values(feature_weights(anatomy.tower)),
        _layout(anatomy, layout),
        *_changes(backbone),
        _names(anatomy, layout),
        _slicing(layout),
        *_registers(anatomy),
        _positions(anatomy),
        *_pooling(anatomy, layout),
        _norm(anatomy),
        _attention(backbone),
        _sizes(anatomy, layout),
        _decay(anatomy),
    ]


def _edits(backbone: Backbone) -> list[Finding]:
    """Report that a model is edited: the findings are about its weights, which edits do not change."""
    if not backbone.edit_names:
        return []
    return [
        Finding(
            level="note",
            subject="edits",
            message=f"This model is edited while it runs ({', '.join(backbone.edit_names)}). "
            "What follows is about its weights and its layout without edits.",
        )
    ]


def _card(backbone: Backbone) -> list[Finding]:
    """Report where a shipped model comes from."""
    card = card_of(backbone.spec)
    if card is None:
        return []
    remedy = f"Give it {card.made_for} for images. To train it again: {card.command}"
    return [Finding(level="note", subject="card", message=in_words(card), remedy=remedy)]


def refuse_broken_weights(backbone: Backbone, aim: str = "verdict on") -> None:
    """Refuse a model whose weights are not finite or all zero, before any image is read: no result would mean anything.

    Args:
        aim: what is refused; the sentence begins `no {aim} MODEL`.
    Raises:
        UserError: with the finding of `doctor`.
    """
    found = lint.values(feature_weights(backbone.anatomy.tower))
    if found.level == "problem":
        raise UserError(f"no {aim} {backbone.spec}: {found.message} {found.remedy}")


def layout_in_words(layout: TokenLayout) -> str:
    """List which indices play which role, in the order of the sequence."""
    (rows, cols), there = layout.grid, layout.patch_index[layout.present].tolist()
    count = f"{rows * cols}" if layout.whole else f"{len(there)} of {rows * cols}"
    in_order = ", row by row" if there == sorted(there) else ", not row by row"
    parts = [(min(there), f"{_runs(there)}: {count} patches, {rows} rows x {cols} columns{in_order}")]
    for indices, one, many in (
        (layout.cls, "class token (CLS)", "class tokens"),
        (layout.registers, "register", "registers"),
        (layout.other, "other token (such as distillation)", "other tokens"),
    ):
        if indices:
            parts.append((indices[0], f"{_runs(indices)}: {one if len(indices) == 1 else f'{len(indices)} {many}'}"))
    return "; ".join(text for _, text in sorted(parts))


def changes_of_tokens(layouts: Sequence[TokenLayout]) -> list[str]:
    """Say after which blocks the tokens change: one sentence, or none if they never do.

    Args:
        layouts: layout of the tokens that enter block 0, then of those after each block.
    """
    changes = []
    for block, (before, after) in enumerate(pairwise(layouts)):
        if before != after:
            there = int(after.present.sum())
            changes.append(
                f"{after.length} tokens after block {block}, {there} of {after.num_patches} patches among them"
            )
    return [f"{layouts[0].length} tokens enter block 0; {'; '.join(changes)}."] if changes else []


def _training(backbone: Backbone) -> list[Finding]:
    """Report first if the forward pass uses untrained weights."""
    if not backbone.untrained:
        return []
    asked = backbone.weights_source == "random"
    return [
        Finding(
            level="warning" if asked else "problem",
            subject="untrained weights",
            message=backbone.untrained,
            remedy="What is said of its values is about their initialisation."
            if asked
            else "Load a file that holds the whole model, without --allow-partial.",
        )
    ]


def _layout(anatomy: Anatomy, layout: TokenLayout) -> Finding:
    size, patch = anatomy.native_size, anatomy.patch
    missing = [w for w, found in (("class token", layout.cls), ("registers", layout.registers)) if not found]
    return Finding(
        level="ok",
        subject="token layout",
        message=f"{layout.length} tokens at {size[0]}x{size[1]} px (height x width, patch {patch[0]}x{patch[1]}): "
        + layout_in_words(layout)
        + (f". No {' and no '.join(missing)}" if missing else "")
        + ".",
    )


def _changes(backbone: Backbone) -> list[Finding]:
    """Report the blocks at which tokens are added or removed."""
    said = changes_of_tokens(backbone.layouts(backbone.anatomy.native_size))
    return [Finding(level="note", subject="tokens by block", message=sentence) for sentence in said]


def _names(anatomy: Anatomy, layout: TokenLayout) -> Finding:
    """The library's names for the tokens, and where it returns the block output before the final norm."""
    start, patches = layout.first_patch, _slice_of(layout)
    tower: Any = anatomy.tower
    remedy = ""
    if anatomy.library in ("timm", "vitreg"):
        prefix = getattr(tower, "num_prefix_tokens", start)
        message = f"model.forward_features(x) returns all tokens after `norm`; num_prefix_tokens = {prefix} stand first"
        if layout.registers:
            message += f", {len(layout.registers)} of them registers, learned as `reg_token`"
        message += ". Patches: forward_features(x)[:, model.num_prefix_tokens:]."
        remedy = "Block outputs before the norm: forward_intermediates(x, norm=False), which returns the patches only."
    elif anatomy.library == "transformers":
        message = f"last_hidden_state holds all tokens; patches: last_hidden_state{patches}"
        if layout.registers:
            message += ", that is [:, 1 + config.num_register_tokens:]; registers are learned as `register_tokens`"
        message += ". hidden_states come before the final norm, last_hidden_state after it (CLIP: before it)."
    elif anatomy.library == "open_clip":
        message = "the tower returns one pooled vector; with output_tokens = True also the patches, without CLS."
        remedy = "These tokens come after ln_post; for values before it trace the model."
    elif anatomy.library == "torchvision":
        message = "forward returns class logits only; all tokens, CLS first, leave `encoder` after encoder.ln."
    elif anatomy.library == "hub":
        message = _hub_names(layout) + f" In the whole sequence the patches are {patches}."
    else:
        message = f"in the whole sequence the patches are {patches}."
    return Finding(level="note", subject=f"names in {anatomy.library}", message=message, remedy=remedy)


def _hub_names(layout: TokenLayout) -> str:
    returned = "x_norm_clstoken, x_norm_patchtokens, x_prenorm (all tokens, before the norm)"
    if layout.registers:
        returned += ", x_norm_regtokens (x_storage_tokens in DINOv3)"
    return f"forward_features returns a dict in DINOv2 and DINOv3: {returned}; a tensor in DINO and DeiT."


def _slicing(layout: TokenLayout) -> Finding:
    """Compare the slices people usually write with the model's layout."""
    start, length = layout.first_patch, layout.length
    right = "all tokens" if length == layout.num_patches else f"tokens{_slice_of(layout)}"
    wrong: list[str] = []
    if not isinstance(layout.patches, slice):
        right = "at the places that vitreg.load(...).layout(size).patch_index lists"
        wrong.append("no slice holds the patches and nothing else, row by row")
    counted = [
        f"{len(found)} {word}{'s' * (len(found) > 1)}"
        for word, indices in (("register", layout.registers), ("other token", layout.other))
        if (found := [i for i in indices if i >= 1])
    ]
    if counted:
        wrong.append(f"tokens[:, 1:] would count {' and '.join(counted)} as patches")
    if start == 0:
        wrong.append("tokens[:, 1:] would drop the first patch")
    if not layout.cls:
        wrong.append(f"tokens[:, 0] is no class token but a {layout.role(0)}")
    if layout.grid[0] != layout.grid[1]:
        wrong.append(f"int(P ** 0.5) is not a side of the {layout.grid[0]}x{layout.grid[1]} grid")
    elif start > 0 and math.isqrt(length - 1) ** 2 != length - 1:
        wrong.append(f"reshaping the {length - 1} tokens after the first to a square fails")
    if not wrong:
        return Finding(level="ok", subject="slicing", message=f"the patches are {right}, as most code assumes.")
    return Finding(
        level="warning",
        subject="slicing",
        message="; ".join(wrong) + ".",
        remedy=f"Use {right} for this model, or vitreg.load(...)(images).patches for any."
        if isinstance(layout.patches, slice)
        else "Use vitreg.load(...)(images).patches.",
    )


def _registers(anatomy: Anatomy) -> list[Finding]:
    values = anatomy.register_parameter()
    if values is None or not len(values):
        return []
    return lint.registers(values, parameter_name(anatomy.tower, values) or "the register parameter")


def _positions(anatomy: Anatomy) -> Finding:
    found = anatomy.position_table()
    if found is None:
        return Finding(
            level="ok",
            subject="position table",
            message="the model learns no table of absolute positions, so none of its rows can stand out.",
        )
    table, grid = found
    return lint.positions(table, grid, parameter_name(anatomy.tower, table) or "the position table")


def _pooling(anatomy: Anatomy, layout: TokenLayout) -> list[Finding]:
    """Whether the library's pooled output mixes registers with patches; no finding without registers."""
    if not layout.registers and not layout.other:
        return []
    tower: Any = anatomy.tower
    extra = "registers" if layout.registers else "other tokens"
    if anatomy.library in ("timm", "vitreg"):
        pool = getattr(
            tower, "global_pool", {"mean": "avg"}.get(getattr(tower, "pool", ""), "token")
        )  # of timm, of ours
        included = bool(getattr(tower, "pool_include_prefix", False))
        if pool == "map":  # timm's Eva pools every token by attention, VisionTransformer the patches only
            included = included or not hasattr(tower, "pool_include_prefix")
        if pool == "token":
            text, included = "the head reads token 0 only", False
        elif not pool:
            text, included = "the model does not pool", False
        else:
            which = f"all tokens, {extra} included" if included else f"the patches only, without {extra}"
            text = f"the head pools ('{pool}') over {which}"
        level = "warning" if included else "ok"
        remedy = "Pool forward_features(x)[:, model.num_prefix_tokens:] yourself." if included else ""
        return [Finding(level=level, subject="pooled head", message=text + ".", remedy=remedy)]
    if anatomy.library == "transformers" and type(tower).__name__ == "Dinov2WithRegistersModel":
        return [
            Finding(
                level="note",
                subject="pooled head",
                message="pooler_output is CLS. Dinov2WithRegistersForImageClassification averages the patches without "
                "registers; older versions of transformers counted registers as patches, and gave other logits.",
            )
        ]
    return [
        Finding(
            level="note",
            subject="pooled head",
            message=f"a mean over all tokens would mix {extra} into the patches.",
            remedy="Average the patches only: vitreg.load(...)(images).patches.mean(1).",
        )
    ]


def _norm(anatomy: Anatomy) -> Finding:
    norm = anatomy.final_norm
    kind = type(norm).__name__
    if isinstance(norm, nn.Identity):
        return Finding(
            level="note",
            subject="final norm",
            message="the tokens the library returns come straight from the last block: no norm stands behind it.",
        )
    gain, shift = getattr(norm, "weight", None), getattr(norm, "bias", None)
    size = _expected_norm(gain, shift, anatomy.width)
    return Finding(
        level="note",
        subject="final norm",
        message=f"after the final {kind} every token has a norm near {size:.3g}, whatever it was before: outliers "
        "that are many times larger at the output of a block all but vanish.",
        remedy="Measure norms before it (vitreg scan does); a threshold from a paper belongs to block outputs, and to "
        "the model it was read from.",
    )


def _attention(backbone: Backbone) -> Finding:
    """Whether the attention we read is the model's own, checked by two forward passes on synthetic inputs."""
    status = backbone.attention_status()
    if not status.readable:
        absent = backbone.anatomy.heads is None
        return Finding(level="note" if absent else "warning", subject="attention", message=status.reason)
    how = "as the model computes it" if status.source == "sdpa" else "from the q, k, v projections"
    rows, cols = backbone.anatomy.layout(backbone.anatomy.native_size).grid
    return Finding(
        level="ok",
        subject="attention",
        message=f"read {how}; recomputed attention times v differs by {max(status.error, 1e-7):.0e} of the largest value at "
        f"most, over all blocks, at {rows}x{cols} patches and fewer.",
    )


def _expected_norm(gain: Tensor | None, shift: Tensor | None, width: int) -> float:
    """Norm of a token with unit variance in every channel, after gain and shift."""
    with torch.no_grad():
        square = float(gain.float().pow(2).sum()) if isinstance(gain, Tensor) else float(width)
        square += float(shift.float().pow(2).sum()) if isinstance(shift, Tensor) else 0.0
    return math.sqrt(square)


def _sizes(anatomy: Anatomy, layout: TokenLayout) -> Finding:
    size, grid = anatomy.native_size, layout.grid
    if not anatomy.resizable:
        return Finding(
            level="note",
            subject="input size",
            message=f"takes {size[0]}x{size[1]} px only: its positions are tied to the {grid[0]}x{grid[1]} grid.",
        )
    left = (size[0] % anatomy.patch[0], size[1] % anatomy.patch[1])
    if any(left):
        return Finding(
            level="warning",
            subject="input size",
            message=f"the native {size[0]}x{size[1]} px are no multiple of the {anatomy.patch[0]}x{anatomy.patch[1]} "
            f"patch: {left[0]} rows and {left[1]} columns of pixels at the lower and right edge are not seen.",
            remedy="Give --size a multiple of the patch if they matter; the library drops them too.",
        )
    learned = anatomy.position_table() is not None
    how = "the position table is resampled for others" if learned else "positions are computed for others"
    shape = "" if grid[0] == grid[1] else " The native grid is not square: code that takes a square root of P fails."
    return Finding(
        level="ok" if grid[0] == grid[1] else "note",
        subject="input size",
        message=f"native {size[0]}x{size[1]} px, {grid[0]}x{grid[1]} patches; {how}. Norm thresholds do not carry over "
        f"from one size to another.{shape}",
    )


def _decay(anatomy: Anatomy) -> Finding:
    tower = anatomy.tower
    special = [(n, p.dim()) for n, p in tower.named_parameters() if n.rsplit(".", 1)[-1] in CLASS_NAMES]
    registers, table = anatomy.register_parameter(), anatomy.position_table()
    for values in (registers, table[0] if table else None):
        name = parameter_name(tower, values) if values is not None and len(values) else None
        if name is not None:
            special.append((name, tower.get_parameter(name).dim()))
    listed: Any = getattr(tower, "no_weight_decay", None)
    return lint.weight_decay(special, None if listed is None else set(listed()), anatomy.library)


def _slice_of(layout: TokenLayout) -> str:
    """The slice that gives the patches of a sequence, or why there is none."""
    if not isinstance(layout.patches, slice):
        return " scattered between other tokens" if layout.whole else " not all there"
    start, stop = layout.patches.start, layout.patches.stop
    return f"[:, {start}:]" if stop == layout.length else f"[:, {start}:{stop}]"


def _runs(indices: Sequence[int]) -> str:
    """Indices in words: 1-4, 6, 8-12; the first few runs where there are many."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    words = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return ", ".join(words if len(words) <= MOST_RUNS else [*words[:MOST_RUNS], "..."])
