"""The models of a look that names none: one known for artifacts whose weights lie here already, else the planted pair.

Nothing is fetched, and no network is tried.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to look through.

    Args:
        spec: for `vitreg.load`.
        name: as people call it; the spec if empty.
        weights: a file, where the library would not find its own.
        cached: whether its weights were found in a cache.
    """

    spec: str
    name: str = ""
    weights: Path | None = None
    cached: bool = False

    @property
    def title(self) -> str:
        """The name with the spec."""
        return f"{self.name} ({self.spec})" if self.name else self.spec


PLANTED = (
    Subject("planted:high-norm", "ViT with PLANTED artifacts"),
    Subject("planted:clean", "its clean twin, nothing planted"),
)
"""Shown where no model lies here. The shipped pair does not take its place: it was made for tiles of 32 pixels, and shows a
group in 39 % of scikit-image's photographs only, at 8 x 8 patches."""

KNOWN: tuple[tuple[str, str, str], ...] = (
    ("DINOv2 ViT-B/14", "timm:vit_base_patch14_dinov2.lvd142m", "timm/vit_base_patch14_dinov2.lvd142m"),
    ("DINOv2 ViT-B/14", "hf:facebook/dinov2-base", "facebook/dinov2-base"),
    ("CLIP ViT-B/16", "timm:vit_base_patch16_clip_224.openai", "timm/vit_base_patch16_clip_224.openai"),
    ("CLIP ViT-B/16", "openclip:ViT-B-16@openai", "timm/vit_base_patch16_clip_224.openai"),
    ("CLIP ViT-B/16", "hf:openai/clip-vit-base-patch16", "openai/clip-vit-base-patch16"),
    ("OpenCLIP ViT-B/16", "openclip:ViT-B-16@laion2b_s34b_b88k", "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"),
    ("OpenCLIP ViT-B/16", "timm:vit_base_patch16_clip_224.laion2b", "timm/vit_base_patch16_clip_224.laion2b"),
    ("DINOv2 ViT-L/14", "timm:vit_large_patch14_dinov2.lvd142m", "timm/vit_large_patch14_dinov2.lvd142m"),
    ("DINOv2 ViT-L/14", "hf:facebook/dinov2-large", "facebook/dinov2-large"),
    ("CLIP ViT-L/14", "timm:vit_large_patch14_clip_224.openai", "timm/vit_large_patch14_clip_224.openai"),
    ("CLIP ViT-L/14", "hf:openai/clip-vit-large-patch14", "openai/clip-vit-large-patch14"),
    (
        "DeiT-III ViT-B/16",
        "timm:deit3_base_patch16_224.fb_in22k_ft_in1k",
        "timm/deit3_base_patch16_224.fb_in22k_ft_in1k",
    ),
    ("DINOv2 ViT-g/14", "timm:vit_giant_patch14_dinov2.lvd142m", "timm/vit_giant_patch14_dinov2.lvd142m"),
)
"""Models with artifacts, the most telling of the small ones first: name, spec, repository of the Hugging Face hub."""
FILES = {
    "timm": ("model.safetensors", "pytorch_model.bin"),
    "hf": ("model.safetensors", "pytorch_model.bin"),
    "openclip": ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
}
"""Weights in a repository, by the source that reads them."""
CHECKPOINTS = (
    ("DINOv2 ViT-B/14", "timm:vit_base_patch14_dinov2", "dinov2_vitb14_pretrain.pth"),
    ("DINOv2 ViT-L/14", "timm:vit_large_patch14_dinov2", "dinov2_vitl14_pretrain.pth"),
    ("DINOv2 ViT-g/14", "timm:vit_giant_patch14_dinov2", "dinov2_vitg14_pretrain.pth"),
)
"""Files that torch hub keeps, and the models of timm that they fit."""
NEEDS = {"timm": "timm", "hf": "transformers", "openclip": "open_clip"}


def chosen() -> tuple[tuple[Subject, ...], str]:
    """Return the models of a look that names none, and a sentence on the choice."""
    found = in_the_hub_cache() or in_torch_hub()
    if found is not None:
        return (found,), f"No model was named; {found.name} lies in the local cache."
    return PLANTED, (
        "No model was named, and none known for artifacts lies in the local caches: these are PLANTED artifacts, written "
        "into a model that nobody trained. Name a model with -m."
    )


def in_the_hub_cache(cached: Callable[[str, str], object] | None = None) -> Subject | None:
    """Return the first known model whose weights the Hugging Face hub's library has kept.

    Args:
        cached: (repository, file) → its path, or anything else where it is not kept.
    """
    if cached is None:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache
    for name, spec, repository in KNOWN:
        source = spec.partition(":")[0]
        if find_spec(NEEDS[source]) is None:
            continue
        described = source != "hf" or isinstance(cached(repository, "config.json"), str)
        if described and any(isinstance(cached(repository, file), str) for file in FILES[source]):
            return Subject(spec, name, cached=True)
    return None


@contextmanager
def offline() -> Generator[None, None, None]:
    """Load what lies in the cache without asking the hub whether it has changed."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def in_torch_hub() -> Subject | None:
    """Return the first known model whose checkpoint torch hub has kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = Path(os.environ.get("TORCH_HOME") or Path(cache) / "torch").expanduser()
    for name, spec, file in CHECKPOINTS:
        path = home / "hub" / "checkpoints" / file
        if path.is_file():
            return Subject(spec, name, weights=path, cached=True)
    return None
