"""Any ViT -> `Anatomy`: asks the builder of each library in turn, and says what to do where none knows the model."""

from __future__ import annotations

from torch import nn

from vitreg.backbones.anatomy.hub import read_hub, read_ours
from vitreg.backbones.anatomy.others import read_open_clip, read_torchvision
from vitreg.backbones.anatomy.parts import Anatomy, AttentionParts
from vitreg.backbones.anatomy.timm import read_timm
from vitreg.backbones.anatomy.transformers import read_transformers
from vitreg.errors import UserError

__all__ = ["Anatomy", "AttentionParts", "describe", "unwrapped"]

_BUILDERS = (read_ours, read_timm, read_open_clip, read_torchvision, read_transformers, read_hub)


def describe(module: nn.Module) -> Anatomy:
    """Return what must be known about a Vision Transformer to look into it.

    Knows timm (VisionTransformer, Eva, Beit), transformers (ViT, DeiT, Dinov2 with and without registers, DINOv3, CLIP,
    SigLIP, MAE, I-JEPA), open_clip, torchvision, modules shaped like the torch.hub repositories dinov2, dino and deit,
    and vitreg's own. Wrappers are followed: DistributedDataParallel, CLIP models to their image tower,
    `...ForImageClassification` to what they wrap.

    Raises:
        UserError: for any other module, naming the remedy.
    """
    inside = module
    while True:
        inside = unwrapped(inside)
        for read in _BUILDERS:
            anatomy = read(inside)
            if anatomy is not None:
                return anatomy
        wrapped = _unwrap(inside)
        if wrapped is None:
            raise UserError(
                f"{type(module).__module__}.{type(module).__name__} is not a Vision Transformer known here; describe "
                "it in a vitreg.backbones.anatomy.find.Anatomy and pass that: Backbone(module, anatomy)."
            )
        inside = wrapped


def unwrapped(module: nn.Module) -> nn.Module:
    """Return what torch.compile, DataParallel and DistributedDataParallel wrap, in any order."""
    while True:
        inner = module._modules.get("_orig_mod")  # not getattr: the wrapper answers for what it wraps
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
