"""Start training from existing weights, with registers added (the paper trains from scratch).

The weights come from any model that `vitreg scan` takes, or from a file. They are converted to our ViT without changing
its function. This is checked if the source is a model: both must compute the same features, with additional registers
hidden.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vitreg.backbones import Backbone, Capture, load
from vitreg.backbones.weights.into_module import load_state, read_vit, vit_of
from vitreg.backbones.weights.positions import fit_positions
from vitreg.errors import UserError
from vitreg.models.settings import SIZES
from vitreg.models.shape import Shape, in_words, shape_of, shape_of_tensors
from vitreg.models.vit import VisionTransformer
from vitreg.quantities import percent
from vitreg.specs import WEIGHTS

# Relative L2 difference of the last block's output. Rounding and another LayerNorm epsilon stay below the first; an
# approximate GELU lies between; above the second it is another network.
SAME, STRANGE = 1e-3, 0.5


@dataclass(frozen=True, slots=True)
class Source:
    """Weights to start from.

    Args:
        name: as shown in messages.
        tensors: float32, by canonical name.
        shape: the architecture they belong to.
        grid: (rows, cols) of their position table, if known.
        backbone: the loaded model; None for a file.
        notes: sentences for the user.
    """

    name: str
    tensors: dict[str, Tensor]
    shape: Shape
    grid: tuple[int, int] | None
    backbone: Backbone | None
    notes: tuple[str, ...]


def start_from(network: VisionTransformer, spec: str | Path | nn.Module) -> list[str]:
    """Load the weights of any ViT into a network. After an error the network is unchanged.

    Positions are resampled to the grid of the network, and a position of CLS becomes part of CLS. Registers that both
    have are copied, the network's others stay. Heads are copied if they have equally many classes.

    Args:
        spec: what `vitreg.load` takes, or a weights file (.safetensors, .pth).
    Returns:
        sentences about adaptations, untrained parts, and the agreement of features.
    Raises:
        UserError: if the weights cannot be loaded, or belong to another architecture; the message names the settings
            for it.
    """
    source = _open(spec)
    _same_build(source, shape_of(network))
    notes = list(source.notes)
    if source.shape.heads is None:
        notes.append(_heads(source, shape_of(network)))
    trial = copy.deepcopy(network).cpu().float().eval()
    tensors = _positions(source, trial, notes)
    copied = _registers(tensors, trial, source.name, notes)
    _layer_scale(tensors, source, trial, notes)
    _biases(tensors, source.name, trial, notes)
    _beside(tensors, source.name, trial, notes)
    remedy = "our ViT has no such parts, so training cannot start from it"
    report = load_state(trial, tensors, source.name, grid=trial.grid, notes=notes, remedy=remedy)
    notes = [*report.notes, *_agreement(source, trial, copied)]
    network.load_state_dict(trial.state_dict())
    return notes


def _open(spec: str | Path | nn.Module) -> Source:
    """Read weights of a file, or build the model of a spec."""
    file = None if isinstance(spec, nn.Module) else Path(spec)
    if file is not None and (file.is_file() or (file.suffix in WEIGHTS and ":" not in str(file))):
        tensors, notes = read_vit(file)
        tensors = {name: value.float() for name, value in tensors.items()}
        return Source(file.name, tensors, shape_of_tensors(tensors), None, None, tuple(notes))
    if str(spec).startswith("hub:"):
        raise UserError(
            f"{spec} runs the code of its repository, which training does not; name a file of its weights, or in Python "
            "pass vitreg.load(SPEC, trust=True).module."
        )
    backbone = load(spec if isinstance(spec, nn.Module) else str(spec), device="cpu", precision="fp32")
    anatomy = backbone.anatomy
    tensors = vit_of(anatomy.tower, backbone.spec)
    eps = anatomy.final_norm.eps if isinstance(anatomy.final_norm, nn.LayerNorm) else None
    own = backbone.original
    shape = shape_of_tensors(tensors, anatomy.heads, eps)
    if isinstance(own, VisionTransformer):
        shape = replace(shape, switches=own.switches)
    table = anatomy.position_table()
    grid = None if table is None else table[1]
    return Source(backbone.spec, tensors, shape, grid, backbone, backbone.notes)


def _same_build(source: Source, ours: Shape) -> None:
    """Refuse weights of another architecture, naming the settings that fit."""
    theirs = source.shape
    if in_words(theirs.switches) != in_words(ours.switches):
        have, has = (in_words(each) or "the usual switches" for each in (theirs.switches, ours.switches))
        raise UserError(f"{source.name} has {have} and this model {has}; to start from it, make them the same.")
    wanted: list[str] = []
    if theirs.width != ours.width:
        wanted.append(f"--model.width {theirs.width}")
    if theirs.depth != ours.depth:
        wanted.append(f"--model.depth {theirs.depth}")
    heads = theirs.heads or (_usual_heads(theirs) if wanted else None)
    if heads not in (None, ours.heads):
        wanted.append(f"--model.heads {heads}")
    if theirs.patch != ours.patch:
        rows, cols = theirs.patch
        if rows != cols:
            raise UserError(f"{source.name} has patches of {rows}x{cols} pixels; ours are square.")
        wanted.append(f"--model.patch {rows}")
    if theirs.mlp != "other":
        if theirs.mlp != ours.mlp:
            wanted.append(f"--model.mlp {theirs.mlp}")
        # Of another width, the same ratio would do: compare what this network would have at that width.
        if theirs.mlp_ratio is None:
            raise UserError(
                f"{source.name} has {theirs.mlp}s of {theirs.hidden} channels, which no --model.mlp-ratio gives."
            )
        if theirs.hidden != ours.hidden and theirs.mlp_ratio != ours.mlp_ratio:
            wanted.append(f"--model.mlp-ratio {theirs.mlp_ratio:g}")
    if theirs.pre_norm != ours.pre_norm:
        wanted.append("--model.pre-norm" if theirs.pre_norm else "--model.no-pre-norm")
    if wanted:
        raise UserError(f"{source.name} is built otherwise than this model; to start from it set {' '.join(wanted)}.")


def _usual_heads(shape: Shape) -> int | None:
    """Return the heads of the named model of this width and depth."""
    return next((heads for width, depth, heads in SIZES.values() if (width, depth) == (shape.width, shape.depth)), None)


def _heads(source: Source, ours: Shape) -> str:
    """Note the number of heads assumed for a file, which does not tell it."""
    usual = _usual_heads(source.shape)
    doubt = (
        f", where models of its width and depth have {usual} (--model.heads {usual})"
        if usual not in (None, ours.heads)
        else ""
    )
    return f"{source.name} does not say how many attention heads its model has; taken are {ours.heads}{doubt}."


def _positions(source: Source, network: VisionTransformer, notes: list[str]) -> dict[str, Tensor]:
    """Return the tensors with a position table for the network's patches only."""
    if network.pos_embed is None:
        return dict(source.tensors)
    if "pos_embed" not in source.tensors:
        raise UserError(f"{source.name} has no learned table of positions, which our ViT needs; start from another.")
    fitted = fit_positions(source.tensors, network.pos_embed.shape[1], network.grid, source.grid)
    if fitted is None:
        count = source.tensors["pos_embed"].shape[1]
        raise UserError(
            f"{source.name} has {count} positions, which is no square grid; set the image size it was made for."
        )
    tensors, fit = fitted
    if fit.resampled:
        notes.append(f"{source.name} has {fit}. Resampled.")
    return tensors


def _registers(tensors: dict[str, Tensor], network: VisionTransformer, name: str, notes: list[str]) -> int | None:
    """Copy the registers that both have; return how many, None if some of the source's were left out."""
    given, own, want = tensors.pop("reg_token", None), network.reg_token, network.num_registers
    had = 0 if given is None else given.shape[1]
    copied = min(had, want)
    if own is not None:
        new = own.detach().clone()
        if given is not None:
            new[:, :copied] = given[:, :copied]
            if network.reg_pos is not None:  # a register enters as the sum of both
                new[:, :copied] -= network.reg_pos.detach()[:, :copied]
        tensors["reg_token"] = new
    if network.reg_pos is not None:
        tensors["reg_pos"] = network.reg_pos.detach()
    if want > had:
        which = f"the {want}" if not had else f"{had} of the {want} are its own, the other {want - had}"
        notes.append(
            f"{name} has {had or 'no'} registers: {which} of this model start untrained, and until they are trained "
            "accuracy may drop, from hardly at all to a lot (timm #2046)."
        )
    elif had > want:
        notes.append(
            f"{name} has {had} registers and this model {want or 'none'}: {f'the first {want} were copied, and ' if want else ''}"
            "what the model kept in the others is lost until it has learned to do without."
        )
    return copied if had <= want else None


def _layer_scale(tensors: dict[str, Tensor], source: Source, network: VisionTransformer, notes: list[str]) -> None:
    """Set LayerScale gains to 1 if the source has none, or fold its gains into the weights if our network has none."""
    ours, theirs = shape_of(network).layer_scale, source.shape.layer_scale
    blocks = range(len(network.blocks))
    if ours and not theirs:
        for i in blocks:
            for name in ("ls1", "ls2"):
                tensors[f"blocks.{i}.{name}.gamma"] = torch.ones(network.width)
        notes.append(f"{source.name} has no LayerScale; its gains start at 1, whatever --model.layer-scale says.")
    if theirs and not ours:
        for i in blocks:
            for gain, layer in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
                gamma = tensors.pop(f"blocks.{i}.{gain}.gamma")
                tensors[f"blocks.{i}.{layer}.weight"] = tensors[f"blocks.{i}.{layer}.weight"] * gamma[:, None]
                tensors[f"blocks.{i}.{layer}.bias"] = tensors[f"blocks.{i}.{layer}.bias"] * gamma
        notes.append(f"{source.name} has LayerScale and this model has not: its gains are multiplied into the weights.")


def _biases(tensors: dict[str, Tensor], name: str, network: VisionTransformer, notes: list[str]) -> None:
    """Add zero biases for layers without a bias in the source."""
    lacking = [
        key
        for key in network.state_dict()
        if key.endswith(".bias") and key not in tensors and f"{key.removesuffix('bias')}weight" in tensors
        and not key.startswith("head.")
    ]  # fmt: skip
    for key in lacking:
        tensors[key] = torch.zeros_like(network.state_dict()[key])
    if lacking:
        kinds = ", ".join(sorted({key.split(".", 2)[-1] if key.startswith("blocks.") else key for key in lacking}))
        notes.append(f"{name} has no {kinds}; they start as zeros.")


def _beside(tensors: dict[str, Tensor], name: str, network: VisionTransformer, notes: list[str]) -> None:
    """Handle the tensors that features do not use: the head and the mask token."""
    own = network.state_dict()
    if "head.weight" in own:
        parts = [name for name in ("head.weight", "head.bias") if name in own]
        # CLIP's projection is no classifier: it has no bias where ours has one.
        given = [tensors.pop(name, None) for name in ("head.weight", "head.bias")]
        theirs = [each for each in given if each is not None]
        head = theirs[0] if len(theirs) == len(parts) else None
        outputs = "classes" if "head.bias" in own else "numbers"
        if head is not None and head.shape == own["head.weight"].shape:
            tensors |= dict(zip(parts, theirs, strict=True))
            notes.append(f"The head of {name} for {len(head)} {outputs} was taken over.")
        else:
            tensors |= {each: own[each] for each in parts}
            if head is not None:
                notes.append(
                    f"{name} has a head for {len(head)} {outputs} and this model one for {len(own['head.weight'])}, "
                    "which starts untrained."
                )
    if "mask_token" in own:
        given = tensors.get("mask_token")
        if given is None or given.numel() != own["mask_token"].numel():
            tensors["mask_token"] = own["mask_token"]


@torch.inference_mode()
def _agreement(source: Source, network: VisionTransformer, copied: int | None) -> list[str]:
    """Compare the last block's output on a random image, with registers hidden that the source lacks."""
    if source.backbone is None or copied is None:
        return []
    notes: list[str] = []
    eps = network.norm_eps
    if source.shape.eps not in (None, eps):
        notes.append(
            f"the LayerNorms of {source.name} add {source.shape.eps:g} to the variance and ours {eps:g}; "
            f"--model.norm-eps {source.shape.eps:g} makes them equal."
        )
    images = torch.randn(1, 3, *network.image_size, generator=torch.Generator().manual_seed(0))
    trace = source.backbone.trace(images, Capture(hidden=(-1,)))
    layout = trace.layout
    theirs = trace.hidden(-1)[:, [*layout.cls, *layout.patch_index.tolist()]]
    ours = _last_hidden(network, images, copied)
    difference = float((ours - theirs).norm() / theirs.norm())
    if not difference <= STRANGE:
        raise UserError(
            f"{source.name} computes something else than our ViT does with the same weights (its features differ by "
            f"{percent(difference)} on a random image), so training cannot start from it."
        )
    if difference > SAME:
        notes.append(
            f"on a random image the features of {source.name} and of this model differ by {percent(difference)}: it computes "
            "something slightly other than our ViT does, such as an approximation of GELU."
        )
    else:
        hidden = " with its own registers hidden" if network.num_registers > copied else ""
        notes.append(
            f"Checked: on a random image this model{hidden} has the features of {source.name} to {difference:.0e}."
        )
    return [note[0].upper() + note[1:] for note in notes]


def _last_hidden(network: VisionTransformer, images: Tensor, copied: int) -> Tensor:
    """Return CLS and patches after the last block; only the first `copied` registers can be attended to."""
    seen: list[Tensor] = []
    handle = network.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    kept = torch.arange(network.num_registers)[None] < copied  # [1, R]
    try:
        network.forward_features(images, registers_kept=kept if network.num_registers > copied else None)
    finally:
        handle.remove()
    start = int(network.cls_token is not None)
    return torch.cat([seen[0][:, :start], seen[0][:, start + network.num_registers :]], dim=1)
