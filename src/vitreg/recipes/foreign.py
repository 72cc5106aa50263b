"""A model of another library as the network of a recipe: its tokens, their pooling, and a head.

The model is whatever `vitreg.load` understands. Its weights are trained in the library's own module. Its dropout and
stochastic depth stay off: they draw from global generators, which would differ in a resumed run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.backbones import Backbone, load
from vitreg.backbones.anatomy.find import Anatomy, find_anatomy
from vitreg.data.views.transforms import Preprocess
from vitreg.errors import UserError
from vitreg.models.settings import UNTRAINED, ModelConfig
from vitreg.models.vit import VisionTransformer
from vitreg.specs import RUN_HEAD
from vitreg.tokens import TokenLayout


class ForeignNetwork(nn.Module):
    """A Vision Transformer of any library, with the methods of vitreg's own that recipes call.

    Parameters that the final tokens do not depend on, such as the library's own head, are not trained.

    Args:
        module: the vision tower.
        image_size: side of the images in pixels; other sizes are interpolated as the library does.
        pool: what the head reads: the first class token, or the mean patch.
        num_classes: of the head; 0 has none.
        preprocess: how its library prepares a photograph; None where that is not known.
        origin: recorded in config.json: "base", "base_weights", "base_sha256".
    Raises:
        UserError: for a size that the model does not take, or where there is no class token to pool.
    """

    def __init__(
        self,
        module: nn.Module,
        image_size: int,
        *,
        pool: Literal["cls", "mean"] = "cls",
        num_classes: int = 0,
        preprocess: Preprocess | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.module = module.eval().requires_grad_(True)
        self.image_size, self.pool, self.preprocess = (image_size, image_size), pool, preprocess
        self.origin = dict(origin or {})
        self._own_layout = layout = self.layout()
        if pool == "cls" and not layout.cls:
            raise UserError(f"{self.origin.get('base', 'this model')} has no class token; set model.pool mean.")
        special = sorted((*layout.cls, *layout.registers, *layout.other))
        self.before = sum(place == index for place, index in enumerate(special))  # tokens before the patches
        self.after = len(special) - self.before
        self._leave_unused()
        self.head = nn.Linear(self.width, num_classes) if num_classes else nn.Identity()
        if isinstance(self.head, nn.Linear):
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)
        self.learned = frozenset(name for name, parameter in self.named_parameters() if parameter.requires_grad)

    @classmethod
    def of(cls, model: ModelConfig, num_classes: int = 0) -> ForeignNetwork:
        """Load the base that the settings name.

        Raises:
            UserError: as `vitreg.load` does, and for a size that the model does not take.
        """
        assert model.base is not None
        random = model.base_weights == UNTRAINED
        weights = None if random else model.base_weights
        backbone = load(model.base, weights=weights, random=random, device="cpu", precision="fp32")
        origin = {
            "base": backbone.spec,
            "base_weights": model.base_weights,
            "base_sha256": backbone.weights_sha256,
        }
        return cls(
            backbone.module, model.image_size, pool=model.pool, num_classes=num_classes,
            preprocess=backbone.preprocess, origin=origin,
        )  # fmt: skip

    @property
    def anatomy(self) -> Anatomy:
        """The anatomy of the module. A copy finds its own: an anatomy belongs to one module."""
        found = self.__dict__.get("_anatomy")
        if found is None:
            found = self.__dict__["_anatomy"] = find_anatomy(self.module)
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Leave the anatomy out of copies."""
        return {key: value for key, value in self.__dict__.items() if key != "_anatomy"}

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        """The transformer blocks, in the order they run."""
        return self.anatomy.blocks

    @property
    def width(self) -> int:
        """D, channels of a token."""
        return self.anatomy.width

    def layout(self, image_size: tuple[int, int] | None = None) -> TokenLayout:
        """Return the roles of the tokens of an image of (height, width) pixels.

        Raises:
            UserError: for a size that the model does not take.
        """
        return Backbone(self.module, self.anatomy).layout(image_size or self.image_size)

    def forward_features(
        self, images: Float[Tensor, "B 3 H W"], *, depth: Any = None, registers_kept: Any = None
    ) -> Float[Tensor, "B N D"]:
        """Return the final tokens. Stochastic depth and hidden registers are for vitreg's own ViT."""
        if depth is not None or registers_kept is not None:
            raise ValueError("a model of another library has neither stochastic depth nor hidden registers as values")
        return self.anatomy.encode(images)

    def forward_stacks(
        self, stacks: Sequence[Float[Tensor, "_B 3 _H _W"]], *, masks: Any = None, depths: Any = None,
        registers_kept: Any = None,
    ) -> list[Float[Tensor, "_B _N D"]]:  # fmt: skip
        """Return the final tokens of stacks of images of one size each."""
        if any(value is not None for given in (masks, depths, registers_kept) for value in given or ()):
            raise ValueError("a model of another library takes no masks, stochastic depth or hidden registers")
        return [self.forward_features(stack) for stack in stacks]

    def pooled(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B D"]:
        """Return what the head reads of the final tokens: the first class token, or the mean patch that is there."""
        layout = self._own_layout
        if tokens.shape[1] == layout.length:
            patches = layout.take(tokens)
            mean = patches if layout.whole else patches[:, layout.present]
            return tokens[:, layout.cls[0]] if self.pool == "cls" else mean.mean(dim=1)
        if not isinstance(layout.patches, slice):
            rows, cols = self.image_size
            raise UserError(
                f"{self.origin.get('base', 'this model')} has its patches between other tokens, or drops some, so that its "
                f"tokens are known for images of {rows}x{cols} pixels only; train it with views of that size."
            )
        if self.pool == "cls":
            return tokens[:, 0 if self.before else -self.after]
        return tokens[:, self.before : tokens.shape[1] - self.after].mean(dim=1)

    def classify(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B C"]:
        """Return the head's answer to the final tokens."""
        return self.head(self.pooled(tokens))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        """Return the head's answer."""
        return self.classify(self.forward_features(images))

    def train(self, mode: bool = True) -> ForeignNetwork:
        """Leave the module in evaluation mode; only the head follows."""
        super().train(mode)
        self.module.eval()
        return self

    def publish(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the part of a state dict that a run publishes: the trained tensors, under the library's own names."""
        kept = {name: value.detach() for name, value in state.items() if name in self.learned}
        return {
            f"{RUN_HEAD}{name}" if name.startswith("head.") else name.removeprefix("module."): value
            for name, value in kept.items()
        }

    def record(self) -> dict[str, Any]:
        """Return the network's entry in config.json."""
        classes = {"num_classes": self.head.out_features} if isinstance(self.head, nn.Linear) else {}
        return {**self.origin, "image_size": self.image_size[0], "pool": self.pool, **classes}

    def layers_above(self, name: str) -> int:
        """Count the layers between a parameter and the output, as `parameters.layers_above` does for vitreg's own ViT."""
        inside = {id(block): number for number, block in enumerate(self.blocks)}
        numbers = {path: inside[id(part)] for path, part in self.named_modules() if id(part) in inside}
        depth = len(numbers)
        for path, number in numbers.items():
            if name.startswith(f"{path}."):
                return depth - number
        last = {path for path, part in self.named_modules() if part in (self.anatomy.final_norm, self.head)}
        return 0 if name.rpartition(".")[0] in last else depth + 1

    def projects_patches(self, name: str) -> bool:
        """Whether a parameter is of the patch projection."""
        return any(
            name.startswith(f"{path}.") for path, part in self.named_modules() if part is self.anatomy.patch_projection
        )

    def _leave_unused(self) -> None:
        """Freeze parameters that the final tokens do not depend on: they get no gradient, and DDP would wait for
        one."""
        images = torch.zeros(1, self.anatomy.channels, *self.image_size)
        parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        with torch.enable_grad():
            reached = torch.autograd.grad(self.forward_features(images).sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, reached, strict=True):
            parameter.requires_grad_(gradient is not None)


Network = VisionTransformer | ForeignNetwork


def network_of(model: ModelConfig, num_classes: int = 0) -> Network:
    """Build what the settings describe: vitreg's own ViT, or the model of another library that they name as its base.

    Args:
        num_classes: of the head; 0 has none.
    Raises:
        UserError: for a base that cannot be loaded.
    """
    if model.base is not None:
        return ForeignNetwork.of(model, num_classes)
    return VisionTransformer(**model.arguments(), num_classes=num_classes)
