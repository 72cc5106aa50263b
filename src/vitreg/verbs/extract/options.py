"""The options of `extract`: its flags, its manual and the keywords of `vitreg.extract`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from vitreg.errors import UserError
from vitreg.passes.options import BLOCKS, ImageOptions

if TYPE_CHECKING:
    from vitreg.features.fields import Wanted

Blocks = Annotated[tuple[int, ...], BLOCKS]
KINDS = ("cls", "mean", "registers", "patches", "norms")


@dataclass(frozen=True, kw_only=True)
class ExtractOptions(ImageOptions):
    """Keep features of images on disk: safetensors shards, computed once, found again, finished where interrupted.

    Blocks are numbers such as -1 (the last) or 5,8,11; none leaves a kind out. Prints the folder the features are in.

    Example: vitreg extract timm:vit_small_patch14_reg4_dinov2.lvd142m photos/ --cls -1 --patches 5,8,11 --out features

    Under torchrun, or started several times, processes share the work shard by shard.
    """

    limit: int | None = None
    """Use at most this many images, spread evenly."""
    cls: Blocks = (-1,)
    """Blocks whose class token is kept."""
    mean: Blocks = ()
    """Blocks whose mean patch token is kept."""
    registers: Blocks = ()
    """Blocks whose registers are kept."""
    patches: Blocks = ()
    """Blocks whose patch tokens are kept."""
    norms: Blocks = ()
    """Blocks of whose patch tokens the norms before the final norm are kept."""
    final_norm: bool = True
    """Apply the model's final norm to the tokens of every block."""
    dtype: Literal["float32", "float16"] = "float32"
    """How values are stored."""
    mirrored: bool = False
    """Also keep all of it of the mirrored pictures."""
    table: bool = False
    """Also write cls and mean features as features.parquet."""

    def __post_init__(self) -> None:
        """Refuse values that are wrong for any model. Raises UserError."""
        super().__post_init__()
        if not any(getattr(self, kind) for kind in KINDS):
            raise UserError(f"no features asked for; name blocks of {', '.join(KINDS[:-1])} or {KINDS[-1]}.")
        if self.table and not (self.cls or self.mean):
            raise UserError("a table holds cls and mean features only; ask for one of them, or leave the table out.")

    def wanted(self) -> Wanted:
        """Return which features to keep of each image."""
        from vitreg.features.fields import Wanted

        blocks = {kind: getattr(self, kind) for kind in KINDS}
        return Wanted(**blocks, final_norm=self.final_norm, dtype=self.dtype, mirrored=self.mirrored)
