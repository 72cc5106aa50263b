"""The options of `explore`: its flags, its manual and the keywords of `vitreg.explore`. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from vitreg.errors import UserError
from vitreg.passes.options import BLOCKS, Layers
from vitreg.verbs.look.options import LookOptions


@dataclass(frozen=True, kw_only=True)
class ExploreOptions(LookOptions):
    """Make a page of photos on which one points at a patch and sees what Vision Transformers do with it.

    It shows the norms after every block with the threshold of a second group, the attention that a patch, CLS or a register
    gives and receives in every block and head, the norms of values, and the most similar patches; two models or a repair
    beside each other. Everything is measured beforehand: the page opens from disk and asks for no network. With --serve
    photos are dropped on the page instead, and a server on this machine measures them.

    Without -m it takes the models that `vitreg look` would take. One photo establishes nothing; `vitreg scan` measures a
    model on many.

    Example: vitreg explore photo.jpg --out explorer

    Example: vitreg explore photos/ -m timm:vit_base_patch14_dinov2.lvd142m -m timm:vit_base_patch14_reg4_dinov2.lvd142m

    Example: vitreg explore --serve
    """

    limit: int = 4
    """Show at most this many photos."""
    blocks: Annotated[Layers, BLOCKS] = "all"
    """Blocks whose attention the page can draw, such as 5,8,11; a block of 12 heads takes 0.8 MB at 196 patches, 6 MB at 1369."""

    def of(self, depth: int, name: str) -> list[int]:
        """Return the blocks of a model of this depth. Raises UserError for one that it does not have."""
        if self.blocks == "all":
            return list(range(depth))
        named: Sequence[int] = (self.blocks,) if isinstance(self.blocks, int) else tuple(self.blocks)
        for block in named:
            if not -depth <= block < depth:
                raise UserError(f"--blocks {block}: {name} has blocks 0 to {depth - 1}.")
        return sorted({block % depth for block in named})
