"""Extract the ViT from a state dict by canonical names, from wrappers, larger models and any known layout.

A file and a module are read the same way, so matching tensors get the same name. `into_module.py` loads one into the
other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from vitreg.backbones.weights.checkpoints import open_checkpoint
from vitreg.backbones.weights.names import Layout, recognise, roots, routes, to_canonical
from vitreg.backbones.weights.wrappers import plain_names, refuse_additions
from vitreg.errors import UserError

# Parts that features do not pass through: a file may lack them, and a file's copy may be ignored.
_BESIDE = re.compile(
    r"(head|heads|head_dist|fc_norm|pooler|attn_pool|pre_logits|(cls_|distillation_)?classifier|dino_head|ibot_head)\."
    r"|decoder|predictor\.|mask_token$|logit_scale$|logit_bias$|(.*\.)?(position_ids|relative_position_index)$|rope_embed\."
    r"|local_cls_norm\.|.*\.qkv\.bias_mask$"  # of DINOv3: for the local crops of training; already multiplied in
)
_WEIGHTS = re.compile(r"(^|\.)(weight|bias|gamma|pos_embed|\w+_token)$")


@dataclass(frozen=True, slots=True)
class Side:
    """A file's or a module's tensors, with wrappers removed from their names.

    Args:
        vit: tensors of the ViT, without its prefix.
        prefix: of the ViT; empty or ends with a point.
        beside: tensors outside the ViT.
        keys: plain name -> key as it was.
        layout: of the whole.
    """

    vit: dict[str, Tensor]
    prefix: str
    beside: dict[str, Tensor]
    keys: dict[str, str]
    layout: Layout | None

    def native(self, names: Iterable[str]) -> list[str]:
        """Return the keys behind names of the ViT."""
        return [self.keys[self.prefix + name] for name in names]


def beside_features(name: str) -> bool:
    """Whether a tensor of this canonical name does not affect features: heads, decoders, mask tokens."""
    return _BESIDE.match(name) is not None


def read_vit(path: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """Read the ViT in a weights file.

    Returns:
        (tensors by canonical name, sentences about what was chosen among the contents of the file)
    Raises:
        UserError: if the file cannot be read, or holds no ViT of a known layout.
    """
    path = Path(path)
    state, notes = open_checkpoint(path)
    return _canonical(side_of(state, notes, path.name), path.name), notes


def vit_of(module: nn.Module, source: str) -> dict[str, Tensor]:
    """Return the tensors of a ViT of any known library, or of the ViT inside a wrapper, by canonical name.

    Raises:
        UserError: if its names are of no known layout.
    """
    return _canonical(side_of(tensors_of(module), [], source), source)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's state dict without extra state."""
    return {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}


def side_of(state: Mapping[str, Tensor], notes: list[str], source: str, *, lone_modules: bool = True) -> Side:
    """Split a state dict into the ViT (prefix cut off) and the rest."""
    names = plain_names(state, lone_modules=lone_modules)
    plain = {names[key]: value for key, value in state.items()}
    found = roots(plain)
    prefix = found[0] if found else ""
    if len(found) > 1:
        notes.append(f"{source} holds {len(found)} Vision Transformers; took {prefix.rstrip('.') or found[0]!r}.")
    return Side(
        {name.removeprefix(prefix): value for name, value in plain.items() if name.startswith(prefix)},
        prefix,
        {name: value for name, value in plain.items() if not name.startswith(prefix)},
        {name: key for key, name in names.items()},
        recognise(plain),
    )


def aligned(state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str, notes: list[str]) -> tuple[Side, Side]:
    """Return file and module with comparable names. `module` may be a wrapper's or a real name: take the reading with
    more names in common."""
    best, most = None, -1
    said: list[str] = []
    for lone_modules in (False, True):
        heard: list[str] = []
        file = side_of(state, heard, source, lone_modules=lone_modules)
        model = side_of(own, [], "the model", lone_modules=lone_modules)
        common = _places(file.vit) & _places(model.vit)
        if len(common) > most:
            best, most, said = (file, model), len(common), heard
    assert best is not None
    notes += said
    return best


def _places(vit: Mapping[str, Tensor]) -> set[str]:
    return {route.name for route in routes(vit).values()}


def _canonical(side: Side, source: str) -> dict[str, Tensor]:
    if recognise(side.vit) is None:
        refuse_additions(side.keys.values(), (), source)
        raise no_vit(side.vit, source)
    return renamed(side, source)[0]


def renamed(side: Side, source: str, module: Iterable[str] = ()) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Return a ViT's tensors by canonical name, and the names of the side behind each.

    Args:
        module: names of the target ViT, which may itself have adapters.
    Raises:
        UserError: if parts of it are missing, or it is no ViT of floating point numbers.
    """
    refuse_additions(side.vit, module, source)
    try:
        tensors, names = to_canonical(side.vit)
    except KeyError as error:
        raise UserError(f"{source} is incomplete: {error.args[0]}.") from None
    except ValueError as error:
        raise UserError(f"{source} contradicts itself: {error.args[0]}.") from None
    except (RuntimeError, IndexError):
        raise UserError(f"{source} holds tensors that do not have the shapes of a Vision Transformer.") from None
    for name, value in tensors.items():
        if not value.is_floating_point() and _WEIGHTS.search(name) and not beside_features(name):
            kind = str(value.dtype).removeprefix("torch.")
            raise UserError(
                f"{source} holds {names[name][0]} as {kind}; weights are floating point numbers: "
                "dequantise or convert them, or take the original file."
            )
    return tensors, names


def feature_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a ViT that features pass through, by its own names without wrappers."""
    side = side_of(tensors_of(module), [], "")
    return {name: side.vit[name] for name, place in routes(side.vit).items() if not beside_features(place.name)}


def no_vit(state: Mapping[str, Tensor], source: str) -> UserError:
    """Build the error for tensors in which no ViT was found."""
    names = ", ".join(sorted(state)[:3])
    return UserError(f"{source} holds no Vision Transformer in a layout vitreg knows (its tensors: {names}, …).")
