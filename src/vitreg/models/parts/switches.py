"""What our ViT can be built without or with instead, beyond what timm's plain ViT knows. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Switches:
    """Switches of a `VisionTransformer`. Where it says module:function, see `vitreg.models.parts.own`.

    Args:
        positions: "learned" (a table), "rope" (`vitreg.models.parts.rope`; no table) or "none".
        rope_base: of the frequencies of rotary positions.
        norm: "layernorm", "rmsnorm" or "module:function".
        attention: "softmax", "off-by-one" (`vitreg.models.parts.nothing`) or "module:function".
        gate: multiply what attention reads by sigmoid(W_g x), x its input, before the output projection.
        bias: of the linear layers in blocks, of the patch projection and of the head.
        frozen_patch_embed: the patch projection keeps the weights it was built with.
    """

    positions: Literal["learned", "rope", "none"] = "learned"
    rope_base: float = 100.0
    norm: str = "layernorm"
    attention: str = "softmax"
    gate: bool = False
    bias: bool = True
    frozen_patch_embed: bool = False

    @property
    def unusual(self) -> dict[str, Any]:
        """The switches that are not set as usual; a model without any is timm's plain ViT."""
        return {name: value for name, value in asdict(self).items() if value != getattr(USUAL, name)}


USUAL = Switches()
