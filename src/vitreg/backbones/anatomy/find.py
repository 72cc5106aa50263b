"""Any ViT -> `Anatomy`: tries each library's builder in turn; the error for an unknown model says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from vitreg import plugins
from vitreg.backbones.anatomy.hub import read_hub, read_ours
from vitreg.backbones.anatomy.others import read_open_clip, read_torchvision
from vitreg.backbones.anatomy.parts import Anatomy, AttentionParts
from vitreg.backbones.anatomy.timm import read_timm
from vitreg.backbones.anatomy.transformers import read_transformers
from vitreg.errors import UserError

__all__ = ["Anatomy", "AttentionParts", "find_anatomy", "register", "unwrapped"]

_BUILDERS = (read_ours, read_timm, read_open_clip, read_torchvision, read_transformers, read_hub)

Builder = Callable[[Any], Anatomy]
_registered: dict[type[nn.Module], Builder] = {}


def register(kind: type[nn.Module], anatomy: Builder) -> None:
    """Register the anatomy of a class of models; `vitreg.load` and every verb then take its instances.

    Check it with `vitreg.testing.check_backbone(vitreg.load(model))`.

    Args:
        kind: the class; its subclasses count too, unless registered themselves. An earlier registration is replaced.
        anatomy: an instance -> its `Anatomy`.
    Raises:
        UserError: for what is no class of modules, or no function.
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError(f"register takes a class of nn.Module, not {kind!r}; an instance is described by its class.")
    if not callable(anatomy):
        raise UserError(f"register takes a function from a {kind.__name__} to its Anatomy, not {anatomy!r}.")
    _registered[kind] = anatomy


def _from_registered(module: nn.Module) -> Anatomy | None:
    kind = next((kind for kind in type(module).__mro__ if kind in _registered), None)
    if kind is None:
        return None
    with plugins.blamed("anatomy", kind.__name__, _registered[kind]):
        found = _registered[kind](module)
    if not isinstance(found, Anatomy):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError(f"the function registered for {kind.__name__} returned {found!r}; it returns a vitreg.Anatomy.")
    return found


def _from_plugin(module: nn.Module) -> Anatomy | None:
    """Ask the builders of plug-ins: module -> Anatomy, or None for an unknown model."""
    for name, read in plugins.all_of("anatomy").items():
        with plugins.blamed("anatomy", name):
            found = read(module)
        if found is not None and not isinstance(found, Anatomy):
            raise UserError(
                f"the anatomy '{name}' gives {found!r}; it gives a vitreg.Anatomy, or None for an unknown model."
            )
        if found is not None:
            return found
    return None


def find_anatomy(module: nn.Module) -> Anatomy:
    """Return the anatomy of a Vision Transformer.

    Knows timm (VisionTransformer, Eva, Beit), transformers (ViT, DeiT, Dinov2 with and without registers, DINOv3, CLIP,
    SigLIP, MAE, I-JEPA), open_clip, torchvision, modules shaped like the torch.hub repositories dinov2, dino and deit,
    vitreg's own, classes given to `register`, and anatomies that plug-ins declare. Wrappers are followed:
    DistributedDataParallel, CLIP models to their image tower, `...ForImageClassification` to what they wrap.

    Raises:
        UserError: for any other module, naming the remedy.
    """
    inside = module
    while True:
        inside = unwrapped(inside)
        for read in (_from_registered, *_BUILDERS, _from_plugin):
            anatomy = read(inside)
            if anatomy is not None:
                return anatomy
        wrapped = _unwrap(inside)
        if wrapped is None:
            raise UserError(
                f"{type(module).__module__}.{type(module).__name__} is not a Vision Transformer known here; say what "
                "it is with vitreg.register(CLASS, FUNCTION), or pass an anatomy: Backbone(module, anatomy)."
            )
        inside = wrapped


def unwrapped(module: nn.Module) -> nn.Module:
    """Return what torch.compile, DataParallel and DistributedDataParallel wrap, in any order."""
    while True:
        inner = module._modules.get("_orig_mod")  # not getattr: the wrapper forwards attributes of the wrapped module
        if inner is None and isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def _unwrap(module: nn.Module) -> nn.Module | None:
    """Step into a wrapper (`module`), an open_clip model (`visual`) or its timm tower (`trunk`)."""
    for name in ("module", "visual", "trunk"):
        child = getattr(module, name, None)
        if isinstance(child, nn.Module):
            return child
    return None
