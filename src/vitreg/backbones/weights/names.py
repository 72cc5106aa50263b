"""The names of ViT weights in each library, and the canonical names between them.

Canonical are timm's names: `cls_token`, `reg_token`, `pos_embed`, `blocks.{i}.attn.qkv.weight`, `ls1.gamma`, `mlp.fc1`.
A layout is a list of rules that send each of its names to a canonical name, or to one part of a canonical tensor where
a library splits what timm fuses. The same rules read a file and write a module, so any layout loads into any other.
Names without a rule keep their own: families with tensors of their own (EVA, BEiT, SigLIP) still load from their own
files. Position tables are not touched here; see `positions.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Layout = Literal[
    "dinov2",
    "dinov2-training",
    "dinov3",
    "deit3",
    "mae",
    "timm",
    "openclip",
    "transformers-4",
    "transformers-5",
    "torchvision",
]
View = Literal["same", "tokens", "transposed"]

# How a sentence calls each layout.
TITLES: dict[str, str] = {
    "dinov2": "DINOv2 hub",
    "dinov2-training": "DINOv2 training",
    "dinov3": "DINOv3",
    "deit3": "DeiT-III",
    "mae": "MAE",
    "timm": "timm, DINO or DeiT",
    "openclip": "OpenCLIP",
    "transformers-4": "transformers 4",
    "transformers-5": "transformers 5",
    "torchvision": "torchvision",
}

# The patch projection stands at the root of every ViT: what stands before it in a file is the wrapper's prefix.
_ANCHORS = (
    "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.weight",
    "embeddings.patch_embedding.weight",
    "conv1.weight",
    "conv_proj.weight",
)
# If a file holds several ViTs, prefer the averaged one, as evaluation does, and an image tower over text.
_PREFERRED_ROOTS = (
    "teacher",
    "ema",
    "target_encoder",
    "visual",
    "vision",
    "backbone",
    "encoder",
    "model",
    "module",
    "student",
)


@dataclass(frozen=True, slots=True)
class Route:
    """Where a native tensor goes: part `part` of `parts` along the first axis of the canonical tensor `name`."""

    name: str
    part: int = 0
    parts: int = 1
    view: View = "same"


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    name: str
    part: int = 0
    parts: int = 1
    view: View = "same"


def _rule(native: str, canonical: str, part: int = 0, parts: int = 1, view: View = "same") -> _Rule:
    """Build a rule from templates: `{i}` is the block index, a trailing `.*` weight or bias."""
    pattern = (
        re.escape(native)
        .replace(r"\{i\}", r"(?P<i>\d+)")
        .replace(r"\{c\}", r"\d+")
        .replace(r"\.\*", r"\.(?P<leaf>weight|bias)")
    )
    return _Rule(re.compile(pattern), canonical, part, parts, view)


def _renamed(pairs: Mapping[str, str]) -> list[_Rule]:
    return [_rule(native, canonical) for native, canonical in pairs.items()]


def _blocks(prefix: str, pairs: Mapping[str, str]) -> list[_Rule]:
    return [_rule(f"{prefix}.{native}", f"blocks.{{i}}.{canonical}") for native, canonical in pairs.items()]


def _meta_rules() -> list[_Rule]:
    """Rules of the family of repositories that began with DINO and DeiT: timm's names but for a few."""
    names = {
        "gamma_1": "ls1.gamma",
        "gamma_2": "ls2.gamma",
        "mlp.w12.*": "mlp.fc1.*",
        "mlp.w3.*": "mlp.fc2.*",
    }
    rules = _renamed(dict.fromkeys(("register_tokens", "reg_tokens", "storage_tokens"), "reg_token"))
    for prefix in ("blocks.{i}", "blocks.{c}.{i}"):
        rules += _blocks(prefix, names)
        # DINOv3 and timm's Eva keep the gate and what it gates apart; Eva has biases of queries and values only.
        for part, (dinov3, eva) in enumerate((("w1", "fc1_g"), ("w2", "fc1_x"))):
            rules += [_rule(f"{prefix}.mlp.{name}.*", "blocks.{i}.mlp.fc1.*", part, 2) for name in (dinov3, eva)]
        for part, name in ((0, "q_bias"), (2, "v_bias")):
            rules.append(_rule(f"{prefix}.attn.{name}", "blocks.{i}.attn.qkv.bias", part, 3))
    # Chunked training checkpoints: the index inside a chunk is the global one, so the chunk's number is dropped.
    plain = ("norm1.*", "norm2.*", "attn.qkv.*", "attn.proj.*", "ls1.gamma", "ls2.gamma", "mlp.fc1.*", "mlp.fc2.*")
    return rules + _blocks("blocks.{c}.{i}", {name: name for name in plain})


def _openclip_rules() -> list[_Rule]:
    return [
        _rule("class_embedding", "cls_token", view="tokens"),
        _rule("register_tokens", "reg_token", view="tokens"),
        _rule("positional_embedding", "pos_embed", view="tokens"),
        _rule("proj", "head.weight", view="transposed"),
        *_renamed({"conv1.*": "patch_embed.proj.*", "ln_pre.*": "norm_pre.*", "ln_post.*": "norm.*"}),
        *_blocks(
            "transformer.resblocks.{i}",
            {
                "ln_1.*": "norm1.*",
                "ln_2.*": "norm2.*",
                "attn.in_proj_weight": "attn.qkv.weight",
                "attn.in_proj_bias": "attn.qkv.bias",
                "attn.out_proj.*": "attn.proj.*",
                "mlp.c_fc.*": "mlp.fc1.*",
                "mlp.c_proj.*": "mlp.fc2.*",
                "ls_1.gamma": "ls1.gamma",
                "ls_2.gamma": "ls2.gamma",
            },
        ),
    ]


def _torchvision_rules() -> list[_Rule]:
    return [
        *_renamed(
            {
                "class_token": "cls_token",
                "conv_proj.*": "patch_embed.proj.*",
                "encoder.pos_embedding": "pos_embed",
                "encoder.ln.*": "norm.*",
                "heads.head.*": "head.*",
            }
        ),
        *_blocks(
            "encoder.layers.encoder_layer_{i}",
            {
                "ln_1.*": "norm1.*",
                "ln_2.*": "norm2.*",
                "self_attention.in_proj_weight": "attn.qkv.weight",
                "self_attention.in_proj_bias": "attn.qkv.bias",
                "self_attention.out_proj.*": "attn.proj.*",
                "mlp.0.*": "mlp.fc1.*",
                "mlp.3.*": "mlp.fc2.*",
                "mlp.linear_1.*": "mlp.fc1.*",  # as released before torchvision 0.14
                "mlp.linear_2.*": "mlp.fc2.*",
            },
        ),
    ]


def _transformers_rules(gated: bool) -> list[_Rule]:
    rules = [
        _rule("embeddings.class_embedding", "cls_token", view="tokens"),
        _rule("embeddings.position_embedding.weight", "pos_embed", view="tokens"),
        *_renamed(
            {
                "embeddings.cls_token": "cls_token",
                "embeddings.distillation_token": "dist_token",
                "embeddings.register_tokens": "reg_token",
                "embeddings.mask_token": "mask_token",
                "embeddings.position_embeddings": "pos_embed",
                "embeddings.patch_embeddings.projection.*": "patch_embed.proj.*",
                "embeddings.patch_embeddings.*": "patch_embed.proj.*",
                "embeddings.patch_embedding.*": "patch_embed.proj.*",
                "pre_layrnorm.*": "norm_pre.*",
                "layernorm.*": "norm.*",
                "post_layernorm.*": "norm.*",
            }
        ),
    ]
    names = {
        "norm1.*": "norm1.*",
        "norm2.*": "norm2.*",
        "layernorm_before.*": "norm1.*",
        "layernorm_after.*": "norm2.*",
        "layer_norm1.*": "norm1.*",
        "layer_norm2.*": "norm2.*",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "attention.output.dense.*": "attn.proj.*",
        "attention.o_proj.*": "attn.proj.*",
        "self_attn.out_proj.*": "attn.proj.*",
        "intermediate.dense.*": "mlp.fc1.*",
        "output.dense.*": "mlp.fc2.*",
        "mlp.fc1.*": "mlp.fc1.*",
        "mlp.fc2.*": "mlp.fc2.*",
        "mlp.weights_in.*": "mlp.fc1.*",
        "mlp.weights_out.*": "mlp.fc2.*",
        "mlp.down_proj.*": "mlp.fc2.*",
    }
    for prefix in ("encoder.layer.{i}", "encoder.layers.{i}", "layers.{i}", "layer.{i}", "model.layer.{i}"):
        rules += _blocks(prefix, names)
        for part, (old, new) in enumerate((("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"))):
            for native in (f"attention.attention.{old}.*", f"attention.{new}.*", f"self_attn.{new}.*"):
                rules.append(_rule(f"{prefix}.{native}", "blocks.{i}.attn.qkv.*", part, 3))
        if gated:  # gate and up are the two halves of DINOv2's w12; without a gate, up is an ordinary first layer
            rules.append(_rule(f"{prefix}.mlp.gate_proj.*", "blocks.{i}.mlp.fc1.*", 0, 2))
            rules.append(_rule(f"{prefix}.mlp.up_proj.*", "blocks.{i}.mlp.fc1.*", 1, 2))
        else:
            rules.append(_rule(f"{prefix}.mlp.up_proj.*", "blocks.{i}.mlp.fc1.*"))
    return rules


_RULES: dict[str, list[_Rule]] = {
    "meta": _meta_rules(),
    "openclip": _openclip_rules(),
    "torchvision": _torchvision_rules(),
    "transformers": _transformers_rules(gated=False),
    "transformers-gated": _transformers_rules(gated=True),
}


def roots(keys: Iterable[str]) -> list[str]:
    """Return the prefixes under which a ViT lies, best first: `[""]` for a bare one, `["visual."]` for a CLIP model."""
    keys = set(keys)
    found: set[str] = set()
    for key in keys:
        for anchor in _ANCHORS:
            if key == anchor or key.endswith("." + anchor):
                root = key[: len(key) - len(anchor)]
                # ResNets have a conv1 as well: only next to a class embedding is it a patch projection.
                if anchor != "conv1.weight" or root + "class_embedding" in keys:
                    found.add(root)

    def rank(root: str) -> tuple[int, int, str]:
        places = [i for i, word in enumerate(_PREFERRED_ROOTS) if word in root]
        return (min(places, default=len(_PREFERRED_ROOTS)), len(root), root)

    return sorted(found, key=rank)


def recognise(keys: Iterable[str]) -> Layout | None:
    """Name the layout of a flat state dict by its keys, wherever in it the ViT lies; None where there is no known ViT.

    DINO v1, DeiT and timm's plain ViTs share their names and are all called "timm".
    """
    keys = list(keys)
    found = roots(keys)
    if not found:
        return None
    return _recognise_rooted({key[len(found[0]) :] for key in keys if key.startswith(found[0])})


def _recognise_rooted(keys: set[str]) -> Layout | None:
    if "conv1.weight" in keys:
        return "openclip"
    if "conv_proj.weight" in keys:
        return "torchvision"
    if "patch_embed.proj.weight" not in keys:
        # 5.x renamed the projections of attention in memory; what it saves has the names of 4.x where those were other.
        return "transformers-5" if any(".attention.q_proj." in key for key in keys) else "transformers-4"
    if any(re.match(r"blocks\.\d+\.\d+\.", key) for key in keys):
        return "dinov2-training"
    if "storage_tokens" in keys:
        return "dinov3"
    if "register_tokens" in keys or any(".mlp.w12." in key for key in keys):
        return "dinov2"
    if any(key.startswith("decoder_") for key in keys):
        return "mae"
    if any(key.endswith(".gamma_1") for key in keys) and "pos_embed" in keys:
        return "deit3"
    return "dinov2" if "mask_token" in keys and any(".ls1." in key for key in keys) else "timm"


def routes(keys: Iterable[str]) -> dict[str, Route]:
    """Map each name of a ViT without prefix to its place in the canonical state dict; unknown names to themselves."""
    keys = list(keys)
    layout = _recognise_rooted(set(keys))
    if layout in ("transformers-4", "transformers-5"):
        table = _RULES["transformers-gated" if any(".mlp.gate_proj." in key for key in keys) else "transformers"]
    else:
        table = _RULES.get(layout or "", _RULES["meta"])
    return {key: _route(key, table) for key in keys}


def _route(key: str, table: list[_Rule]) -> Route:
    for rule in table:
        if match := rule.pattern.fullmatch(key):
            groups = match.groupdict()
            name = rule.name.replace("{i}", groups.get("i") or "")
            if name.endswith(".*"):
                name = f"{name[:-1]}{groups['leaf']}"
            return Route(name, rule.part, rule.parts, rule.view)
    return Route(key)


def to_canonical(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Rename and fuse a ViT's tensors (prefix already cut off) to canonical names.

    A fused bias of which a part is absent gets zeros there: SigLIP- and DINOv3-type attention has no bias for the keys.

    Returns:
        (tensors by canonical name, native names behind each canonical name)
    Raises:
        KeyError: if a part of a fused weight is absent.
        ValueError: if two names stand for one tensor.
    """
    parts: dict[str, dict[int, Tensor]] = {}
    counts: dict[str, int] = {}
    sources: dict[str, list[str]] = {}
    for key, route in routes(state).items():
        found = parts.setdefault(route.name, {})
        if route.part in found or counts.setdefault(route.name, route.parts) != route.parts:
            raise ValueError(f"{key} and {sources[route.name][0]} are the same tensor")
        found[route.part] = _view(state[key], route.view)
        sources.setdefault(route.name, []).append(key)
    canonical: dict[str, Tensor] = {}
    for name, found in parts.items():
        if counts[name] == 1:
            canonical[name] = found[0]
            continue
        absent = set(range(counts[name])) - set(found)
        if absent and not name.endswith(".bias"):
            raise KeyError(f"{name}: only {', '.join(sources[name])}")
        like = next(iter(found.values()))
        canonical[name] = torch.cat([found.get(i, torch.zeros_like(like)) for i in range(counts[name])])
    for name, mask in canonical.items():
        # DINOv3 keeps a bias for the keys that its mask sets to zero in every forward.
        bias = canonical.get(name.removesuffix("_mask"))
        if name.endswith(".attn.qkv.bias_mask") and bias is not None and bias.shape == mask.shape:
            canonical[name.removesuffix("_mask")] = bias * mask
    return canonical, sources


def dropped(canonical: Mapping[str, Tensor], routes: Iterable[Route]) -> list[str]:
    """Name the fused tensors that have values in a part for which a module has no place: biases of keys, as a rule."""
    parts: dict[str, tuple[int, set[int]]] = {}
    for route in routes:
        parts.setdefault(route.name, (route.parts, set()))[1].add(route.part)
    return [
        name
        for name, (count, kept) in parts.items()
        if name in canonical
        and any(bool(part.any()) for i, part in enumerate(canonical[name].chunk(count)) if count > 1 and i not in kept)
    ]


def from_canonical(canonical: Tensor, route: Route, shape: torch.Size) -> Tensor:
    """Cut a module's own tensor of the given shape out of a canonical one (the inverse of `to_canonical`)."""
    if route.parts > 1:
        canonical = canonical.chunk(route.parts)[route.part]
    if route.view == "transposed":
        canonical = canonical.transpose(0, 1)
    return canonical.reshape(shape) if route.view == "tokens" else canonical


def _view(value: Tensor, view: View) -> Tensor:
    if view == "transposed":
        return value.transpose(0, 1)
    if view == "tokens":  # [D] or [N, D] -> [1, N, D]
        return value.reshape(1, -1, value.shape[-1])
    return value
