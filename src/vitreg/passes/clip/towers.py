"""The image and text towers of a CLIP model behind one interface, for open_clip and for our runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vitreg.backbones import Backbone
from vitreg.backbones.anatomy.find import find_anatomy
from vitreg.backbones.loading.fetch import fetch
from vitreg.backbones.watch import undisturbed
from vitreg.backbones.weights.checkpoints import read_checkpoint
from vitreg.backbones.weights.into_module import sha256_of_weights
from vitreg.backbones.weights.wrappers import plain_names
from vitreg.config import decode
from vitreg.documents import read_json
from vitreg.errors import UserError
from vitreg.passes.bench import Bench
from vitreg.passes.view import View
from vitreg.probes.zeroshot import classifier_of
from vitreg.recipes.known import kinds
from vitreg.training.checkpoint import load_newest
from vitreg.training.settings import TrainConfig

_TEXTS = 256  # sentences at a time
_CLASSES = 10  # classes whose sentences are embedded at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class Towers:
    """An image tower and a text tower that embed into one space.

    Args:
        model: open_clip's model or our recipe, with `encode_image` and `encode_text`, on the device and in the dtype of
            the backbone, in evaluation mode.
        tokenize: texts -> ids [B, L].
        place: what the module of the image tower returns -> the common space.
        size: (height, width) of its images; None for any multiple of its patch.
        notes: sentences for the user.
        repaired: the image tower with edits or other weights, which embeds the images in place of the model's own.
    """

    model: nn.Module
    tokenize: Callable[[list[str]], Int64[Tensor, "B L"]]
    size: tuple[int, int] | None
    place: Callable[[Float[Tensor, "B D"]], Float[Tensor, "B E"]] = lambda returned: returned
    notes: tuple[str, ...] = ()
    repaired: nn.Module | None = None

    def encode_images(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B E"]:
        """Return the embedding of each image, L2-normalised, float32 on the CPU."""
        return self._encode(self._repaired_images if self.repaired else self._own.encode_image, images)

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "T E"]:
        """Return the embedding of each text, L2-normalised, float32 on the CPU."""
        parts = [list(texts[start : start + _TEXTS]) for start in range(0, len(texts), _TEXTS)]
        return torch.cat([self._encode(self._own.encode_text, self.tokenize(part)) for part in parts])

    @property
    def _own(self) -> Any:
        return self.model

    def _repaired_images(self, images: Tensor) -> Tensor:
        assert self.repaired is not None
        with undisturbed(self.repaired):
            found = self.repaired(images)
        if not isinstance(found, Tensor) or found.shape[:-1] != images.shape[:1]:
            raise UserError("with this repair the model returns tokens, and no embedding of the image.")
        return self.place(found)

    def _encode(self, embed: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        weight = next(self.model.parameters())
        inputs = inputs.to(weight.device, weight.dtype if inputs.is_floating_point() else None)
        with torch.inference_mode():
            found = F.normalize(embed(inputs).float(), dim=-1).cpu()
        if not found.isfinite().all():
            raise UserError(f"features are not finite in {weight.dtype}; try --precision fp32.")
        return found


def open_towers(backbone: Backbone) -> Towers:
    """Find the text tower that belongs to an image tower, repaired or not, and put both on its device.

    Raises:
        UserError: for a model without a text tower, or with one that cannot be read.
    """
    base = backbone.base or backbone
    prefix, _, name = base.spec.partition(":")
    if prefix == "openclip":
        towers = _of_open_clip(base, name)
    elif prefix == "run":
        towers = _of_run(base, Path(name).expanduser())
    else:
        raise UserError(
            f"{backbone.spec} has no text tower; name an openclip:ARCH[@TAG] or the run:DIR of a training with captions."
        )
    towers.model.to(backbone.device, backbone.dtype).eval().requires_grad_(False)
    return towers if backbone is base else replace(towers, repaired=backbone.module)


def _of_open_clip(backbone: Backbone, name: str) -> Towers:
    """Build both towers as `load` built the image tower, and check that the image tower is the same."""
    import open_clip

    architecture, _, tag = name.partition("@")
    source = backbone.weights_source
    if source == "library" and not tag:
        tag = open_clip.list_pretrained_tags_by_model(architecture)[0]
    pretrained = source == "library"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # as `load` does, for untrained weights
        model: Any = fetch(
            backbone.spec,
            pretrained,
            lambda: open_clip.create_model(architecture, pretrained=tag or None, load_weights=pretrained),
        )
    if source not in ("library", "random"):
        _fill(model, Path(source))
    visual = model.visual
    if sha256_of_weights(find_anatomy(visual).tower) != backbone.weights_sha256:
        raise UserError(f"the weights of {backbone.spec} from '{source}' have another image tower than was loaded.")
    tokenizer: Any = fetch(backbone.spec, True, lambda: open_clip.get_tokenizer(architecture))
    size = visual.image_size
    height, width = size if isinstance(size, tuple | list) else (size, size)
    return Towers(model=model, tokenize=tokenizer, size=(int(height), int(width)))


def _fill(model: nn.Module, file: Path) -> None:
    """Load a checkpoint of both towers. Raises UserError for any other file."""
    state = read_checkpoint(file)
    names = plain_names(state, lone_modules=True)
    state = {names[key]: value for key, value in state.items()}
    wanted = model.state_dict()
    for name in ("input_resolution", "context_length", "vocab_size"):  # numbers that OpenAI's files carry
        state.pop(name, None)
    missing = [name for name in wanted if name not in state]
    strange = [name for name, value in state.items() if name not in wanted or wanted[name].shape != value.shape]
    if missing or strange:
        named = ", ".join([*missing, *strange][:4])
        raise UserError(
            f"{file.name} does not hold both towers of this model as open_clip saves them: {len(missing)} tensors are "
            f"missing and {len(strange)} are of another name or shape, such as {named}."
        )
    model.load_state_dict(state)


def _of_run(backbone: Backbone, run: Path) -> Towers:
    """Take both towers from the newest checkpoint of a run, whose backbone must be the published one."""
    config = read_json(run / "config.json")
    if not isinstance(config, dict) or "train" not in config:
        raise UserError(f"{run} does not say how it was trained, so it has no text tower.")
    settings = decode(TrainConfig, config["train"], where=str(run / "config.json"))
    if settings.recipe.needs != "caption":
        others = " or ".join(name for name, kind in kinds().items() if kind.needs == "caption")
        raise UserError(
            f"{run} was trained as {settings.recipe.kind}, without captions, so it has no text tower; "
            f"name the run of a training with --recipe.kind {others}."
        )
    found = load_newest(run)
    recipe: Any = settings.recipe.build(settings.model, 0)
    recipe.load_state_dict(found.model)
    held = backbone.module.state_dict()
    ours = recipe.backbone().publish(recipe.backbone().state_dict())
    if any(not torch.equal(value.to(held[name]), held[name]) for name, value in ours.items()):
        raise UserError(
            f"the published backbone of {run} is not that of its newest checkpoint, {found.path.name}; resume the run "
            "for one step, or remove the checkpoint."
        )
    return Towers(
        model=recipe, tokenize=recipe.tokenizer(), size=None, notes=found.notes,
        place=lambda pooled: pooled @ recipe.projection.to(pooled),
    )  # fmt: skip


def text_classifier(
    towers: Towers, words: Sequence[str], templates: Literal["openai", "simple"]
) -> Float[Tensor, "C E"]:
    """Embed the sentences of all classes, a few classes at a time."""
    sentences = templates_of(templates)
    rows = []
    for start in range(0, len(words), _CLASSES):
        own = words[start : start + _CLASSES]
        features = towers.encode_texts([sentence(name) for name in own for sentence in sentences])
        rows.append(classifier_of(features.unflatten(0, (len(own), len(sentences)))))
    return torch.cat(rows)


def templates_of(which: Literal["openai", "simple"]) -> Sequence[Callable[[str], str]]:
    """Return the sentences around the name of a class: OpenAI's 80, or 7."""
    import open_clip

    return open_clip.OPENAI_IMAGENET_TEMPLATES if which == "openai" else open_clip.SIMPLE_IMAGENET_TEMPLATES


def view_for(bench: Bench, towers: Towers) -> View:
    """Return the view of pictures for CLIP: short side resized to the input (bicubic), then a centre crop.

    A tower that squashes pictures (SigLIP) keeps its own preprocessing.

    Raises:
        UserError: for a size that the towers do not take.
    """
    own = bench.view()
    view = bench.view(resize_ratio=1.0) if own.pictures.crop else own
    asked = view.pictures.size
    if towers.size is not None and asked != towers.size:
        raise UserError(
            f"{bench.backbone.spec} compares images of {towers.size[0]}x{towers.size[1]} pixels with texts, not "
            f"{asked[0]}x{asked[1]}; leave out --size."
        )
    return view
