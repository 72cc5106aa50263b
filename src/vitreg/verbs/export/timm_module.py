"""A model of timm as timm builds it again: its entry, and the arguments in which it differs from that entry's defaults."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vitreg.backbones.anatomy.parts import is_a, pair
from vitreg.backbones.loading.fetch import calm
from vitreg.data.views.transforms import Preprocess
from vitreg.errors import UserError
from vitreg.verbs.export.model import Model

# Argument of the entry -> what the model says of it. All are in the model whatever built it.
ARGUMENTS = {
    "num_classes": lambda vit: vit.num_classes,
    "global_pool": lambda vit: vit.global_pool,
    "img_size": lambda vit: list(pair(vit.patch_embed.img_size)),
    "in_chans": lambda vit: vit.patch_embed.proj.in_channels,
}
OF_VIT = {
    "patch_size": lambda vit: list(pair(vit.patch_embed.patch_size)),
    "embed_dim": lambda vit: vit.embed_dim,
    "depth": lambda vit: len(vit.blocks),
    "num_heads": lambda vit: vit.blocks[0].attn.num_heads,
    "class_token": lambda vit: vit.cls_token is not None,
    "reg_tokens": lambda vit: vit.num_reg_tokens,
    "no_embed_class": lambda vit: vit.no_embed_class,
    "pre_norm": lambda vit: not isinstance(vit.norm_pre, torch.nn.Identity),
    "fc_norm": lambda vit: not isinstance(vit.fc_norm, torch.nn.Identity),
    "mlp_ratio": lambda vit: (vit.blocks[0].mlp.fc1.out_features + 0.5) / vit.embed_dim,  # timm rounds the product down
    "init_values": lambda vit: 1e-5 if hasattr(vit.blocks[0].ls1, "gamma") else 0.0,
    "dynamic_img_size": lambda vit: vit.dynamic_img_size,
}
KEPT = ("input_size", "pool_size", "crop_pct", "crop_mode", "interpolation", "mean", "std", "first_conv", "classifier",
        "label_names", "label_descriptions")  # fmt: skip
"""What a pretrained_cfg says of the model itself, and not of where its weights came from."""


def of_timm(model: Model) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config.json of a model of timm, and its weights, with the registers of a repair among them.

    Raises:
        UserError: for a model of another library, one that timm does not build again, or registers it has no place for.
    """
    vit: Any = model.backbone.anatomy.tower
    if model.backbone.anatomy.library != "timm":
        raise model.elsewhere("timm")
    about = dict(getattr(vit.pretrained_cfg, "to_dict", lambda: vit.pretrained_cfg)())
    entry, state = about.get("architecture"), dict(vit.state_dict())
    arguments = _arguments(vit)
    if model.registers is not None:
        state = _with_registers(model, vit, state, model.registers)
        arguments["reg_tokens"] = vit.num_reg_tokens + len(model.registers)
    if entry is None:
        raise UserError(f"{model.backbone.spec} does not say which entry of timm built it; export it to safetensors.")
    arguments = _needed(entry, arguments, state)
    if arguments is None:
        raise UserError(
            f"timm does not build {model.backbone.spec} again from its entry {entry} and the arguments that show in it; "
            "export it to safetensors or onnx."
        )
    prepared = {} if model.preprocess is None else preprocessing(model.preprocess)
    config = {
        "architecture": entry,
        "num_classes": vit.num_classes,
        "num_features": vit.num_features,
        "global_pool": vit.global_pool,
        "model_args": arguments,
        "pretrained_cfg": {
            **{name: about[name] for name in KEPT if about.get(name) is not None},
            **prepared,
            "tag": "vitreg",
            "num_classes": vit.num_classes,
            "fixed_input_size": True,
        },
    }
    return config, state


def _arguments(vit: Any) -> dict[str, Any]:
    found = {}
    for name, read in {**ARGUMENTS, **(OF_VIT if _plain(vit) else {})}.items():
        try:
            found[name] = read(vit)
        except AttributeError:  # a stem, an attention or an MLP of another kind: as the entry builds it
            continue
    return found


def _needed(entry: str, arguments: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any] | None:
    """Return the fewest arguments with which the entry has these weights; None if there are none.

    Most models are their entry with another head; only those that are more need arguments of its inside.
    """
    few = {name: value for name, value in arguments.items() if name in (*ARGUMENTS, "reg_tokens", "dynamic_img_size")}
    wanted = {name: value.shape for name, value in state.items()}
    for tried in (few, arguments):
        if _shapes(entry, tried) == wanted:
            return tried
    return None


def _shapes(entry: str, arguments: dict[str, Any]) -> dict[str, torch.Size] | None:
    import timm

    try:
        with calm(), torch.random.fork_rng(devices=[]):
            built = timm.create_model(entry, pretrained=False, **arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError):
        return None  # an entry that does not take them
    return {name: value.shape for name, value in built.state_dict().items()}


def _plain(vit: Any) -> bool:
    return is_a(vit, "timm.models.vision_transformer", "VisionTransformer")


def _with_registers(
    model: Model, vit: Any, state: dict[str, Tensor], registers: Float[Tensor, "R D"]
) -> dict[str, Tensor]:
    """Return weights with more registers, as they enter block 0.

    Raises:
        UserError: for a model that has no registers of this kind.
    """
    if type(vit).__name__ != "VisionTransformer" or not isinstance(vit.norm_pre, torch.nn.Identity):
        raise UserError(
            f"registers of a repair cannot be weights of {model.backbone.spec}: timm's {type(vit).__name__} has none that "
            "enter the first block as they are; export it to onnx."
        )
    before = [state["reg_token"]] if "reg_token" in state else []
    state["reg_token"] = torch.cat([*before, registers[None]], 1)
    if not vit.no_embed_class:  # the position table has rows for class token and registers: 0 for the new ones
        table, prefix = state["pos_embed"], vit.num_prefix_tokens
        none = table.new_zeros(1, len(registers), table.shape[-1])
        state["pos_embed"] = torch.cat([table[:, :prefix], none, table[:, prefix:]], 1)
    return state


def preprocessing(preprocess: Preprocess) -> dict[str, object]:
    """Return the preprocessing in the words of timm's `pretrained_cfg`."""
    resize, height = preprocess.resize or preprocess.size, preprocess.size[0]  # a pretrained_cfg always resizes
    whole, part = (resize, min(preprocess.size)) if isinstance(resize, int) else (resize[0], height)
    share = part / whole
    if int(part / share) != whole:  # timm divides and rounds down
        share = part / (whole + 0.5)
    mode = "center" if isinstance(resize, int) or preprocess.aspect == "cover" else preprocess.aspect
    return {
        "input_size": [3, *preprocess.size],
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation,
        "crop_pct": share,
        "crop_mode": mode,
    }
