"""The model that `export` writes: opened in float32, and what of it is in the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.backbones import Backbone
from vitreg.backbones.loading.load import load, refuse_reloading
from vitreg.data.views.transforms import Preprocess
from vitreg.errors import UserError
from vitreg.models.block import Attention, Block
from vitreg.models.vit import VisionTransformer
from vitreg.repair.tokens import AddTokens
from vitreg.tokens import TokenLayout
from vitreg.verbs.export.traced import TOKENS, own_name, own_output

Answers = dict[str, Tensor]
UNPREPARED = "How images are prepared for this model is not known, so the export does not say it."


@dataclass(frozen=True, slots=True)
class Model:
    """A model to export.

    Args:
        backbone: in float32 on the CPU, with its edits.
        network: vitreg's own ViT without what training alone needs, if that is what it is and weights hold all of it.
        registers: [R, D], tokens that a repair adds before block 0; None without any, or where `network` has them.
        size: of the images (height, width).
    """

    backbone: Backbone
    network: VisionTransformer | None
    registers: Float[Tensor, "R D"] | None
    size: tuple[int, int]

    @property
    def preprocess(self) -> Preprocess | None:
        """How images of that size are prepared; None if it is not known."""
        found = self.backbone.preprocess
        return found if found is None else found.with_size(self.size)

    @property
    def layout(self) -> TokenLayout:
        """The roles of its final tokens."""
        return self.backbone.layout(self.size)

    @torch.no_grad()
    def answers(self, images: Float[Tensor, "B C H W"]) -> Answers:
        """Return every output that an export may have, as vitreg computes it."""
        found = {TOKENS: self.backbone(images).values}
        if self.network is not None:
            return answers(self.network, images) | found
        own = own_name(self.backbone, images)
        if own is not None:
            output = own_output(self.backbone.module(images))
            assert output is not None, "it was seen before"
            found[own] = output
        return found

    def elsewhere(self, to: str) -> UserError:
        """Say that a library does not have this kind of model."""
        return UserError(
            f"{self.backbone.spec} is a model of {self.backbone.anatomy.library}, and {to} has none of this form; export it "
            "to safetensors or onnx."
        )


def opened(model: str | nn.Module | Backbone, weights: str | None, loading: Mapping[str, Any]) -> Backbone:
    """Return a model in evaluation mode in float32 on the CPU; one that was given stays as it is.

    Raises:
        UserError: as `vitreg.load` does.
    """
    refuse_reloading(model, weights, loading)
    if isinstance(model, str):
        return load(model, weights=weights, device="cpu", precision="fp32", **loading)
    if isinstance(model, nn.Module):
        return load(_float32(model), weights=weights, **loading)
    if _is_float32(model.original):
        return model
    other = Backbone(
        _float32(model.original), preprocess=model.preprocess, notes=model.notes, weights_source=model.weights_source
    )
    for each in model.edit_sets:
        other = other.edited(each.edits, each.name, leaving=each.leaving)
    other.spec, other.notes = model.spec, model.notes
    return other


def model_of(backbone: Backbone, to: str, size: tuple[int, int] | None) -> Model:
    """Look at what a format can hold of a model.

    Raises:
        UserError: for edits that no weights hold, in a format of weights, and for a size that the model does not take.
    """
    own = isinstance(backbone.original, VisionTransformer)
    native = backbone.anatomy.native_size if size is None else size
    backbone.layout(native)
    try:
        registers = added_registers(backbone)
        network = published(backbone.original, registers) if isinstance(backbone.original, VisionTransformer) else None
    except UserError:
        if to != "onnx":
            raise
        return Model(backbone, None, None, native)
    return Model(backbone, network, None if own else registers, native)


def added_registers(backbone: Backbone) -> Float[Tensor, "R D"] | None:
    """Return the tokens that edits add before block 0; None without edits.

    Raises:
        UserError: for edits that do more: they are not in the weights.
    """
    found = []
    for each in backbone.edit_sets:
        for edit in each.edits:
            if edit.site != "input" or not isinstance(edit.function, AddTokens):
                raise UserError(
                    f"{each.name} changes {backbone.spec} while it runs, and libraries load weights alone; export it to onnx."
                )
            found.append(edit.function.values)
    return torch.cat(found) if found else None


def published(network: VisionTransformer, registers: Float[Tensor, "R D"] | None = None) -> VisionTransformer:
    """Return a copy for inference: without mask token, with the registers' positions added to the registers.

    Args:
        registers: more of them, as they enter block 0.
    Raises:
        UserError: if registers enter another way in this network.
    """
    plain = copy.deepcopy(network).float().eval().requires_grad_(False)
    if plain.reg_token is not None and plain.reg_pos is not None:
        plain.reg_token = nn.Parameter(plain.reg_token + plain.reg_pos, requires_grad=False)
    plain.reg_pos = plain.mask_token = None
    if registers is None:
        return plain
    first = network.blocks[0]
    if not isinstance(network.norm_pre, nn.Identity) or (isinstance(first, Block) and first.bypass is not None):
        raise UserError(
            "registers of this model pass a norm before the first block or enter later, so those of the repair are none of "
            "its weights; export it to onnx."
        )
    before = [] if plain.reg_token is None else [plain.reg_token]
    plain.reg_token = nn.Parameter(torch.cat([*before, registers[None].float()], 1), requires_grad=False)
    plain.num_registers += len(registers)
    for block in plain.blocks:
        if isinstance(block, Block) and isinstance(block.attn, Attention):
            block.attn.num_prefix_tokens += len(registers)
    return plain


@torch.inference_mode()
def answers(network: VisionTransformer, images: Tensor) -> Answers:
    """Return every output of vitreg's own network that an export may have."""
    tokens = network.forward_features(images)
    found = {TOKENS: tokens, "pooled": network.pooled(tokens)}
    return found | {"logits": network.head(found["pooled"])} if isinstance(network.head, nn.Linear) else found


def _is_float32(module: nn.Module) -> bool:
    floating = [each for each in module.state_dict().values() if each.is_floating_point()]
    return all(each.dtype == torch.float32 and each.device.type == "cpu" for each in floating)


def _float32(module: nn.Module) -> nn.Module:
    return module if _is_float32(module) else copy.deepcopy(module).float().cpu()
