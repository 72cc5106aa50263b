"""Writing into a running model: an `Edit` names a site (`vitreg.backbones.sites`), and its function returns the new value.

At one site of one block edits run in the given order, an inner model's first; a trace keeps their results.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from vitreg.backbones.identity import identity_of
from vitreg.backbones.returned import refuse, said, writes_of
from vitreg.backbones.sites import IN_BLOCKS, SITES, Site, name_of, resolve_layer
from vitreg.errors import UserError
from vitreg.tokens import TokenLayout, Tokens

CHANGING_TOKENS: frozenset[Site] = frozenset({"input", "block"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """The context in which an edit is called.

    Args:
        layer: index of the block, None outside blocks.
        layout: of the tokens that the function is given.
        state: shared by the edits of one set during one forward, and empty at its start.
        run: images -> Tokens, the model within a "forward" edit; None at all other sites.
    """

    layer: int | None
    layout: TokenLayout
    state: dict[str, Any] = field(default_factory=dict)
    run: Callable[[Tensor], Tokens] | None = None


Function = Callable[[Any, Place], Any]


@runtime_checkable
class ChangesLayout(Protocol):
    """A function that adds, drops or moves tokens also returns the new layout."""

    def layout(self, before: TokenLayout) -> TokenLayout:
        """Return the roles of the tokens that the function returns."""
        ...


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace a value while the model runs.

    Args:
        site: where, see the module.
        layer: index of the block, -1 for the last; None at sites that belong to no block.
        function: (value, `Place`) -> new value. It must not modify its input in place; returning the input changes
            nothing. It may change the number of tokens only if it has a method `layout` (`ChangesLayout`).
    Raises:
        UserError: for an unknown site, or a layer given or missing contrary to the site.
    """

    site: Site
    layer: int | None
    function: Function

    def __post_init__(self) -> None:
        if self.site not in SITES:
            raise UserError(f"there is no site '{self.site}' to edit; the sites are {', '.join(SITES)}.")
        if (self.layer is None) == (self.site in IN_BLOCKS):
            needs = (
                "is in a block, so it needs its index" if self.layer is None else "is in no block: its layer is None"
            )
            raise UserError(f"the site '{self.site}' {needs}.")


@dataclass(frozen=True, slots=True)
class EditSet:
    """A named set of edits.

    Args:
        leaving: edits of `Backbone.module` only, such as one that takes added tokens out after the last block: other code
            expects the tokens of the model itself.
    """

    edits: tuple[Edit, ...]
    name: str
    leaving: tuple[Edit, ...] = ()

    def of_module(self) -> EditSet:
        """Return the set with `leaving` among its edits."""
        return EditSet((*self.edits, *self.leaving), self.name)

    def identity(self) -> str | None:
        """Return 16 hexadecimal digits that identify the edits, None if a function cannot be identified."""
        words = [identity_of((edit.site, edit.layer, edit.function)) for edit in self.edits]
        known = [word for word in words if word is not None]
        return hashlib.sha256("\n".join(known).encode()).hexdigest()[:16] if len(known) == len(words) else None


class Editor:
    """The edits of one forward. Each set has its own state, which ends with the forward.

    Args:
        sets: those of the inner model first.
        depth: number of blocks, for negative layers.
    Raises:
        UserError: for a block that does not exist.
    """

    def __init__(self, sets: Sequence[EditSet], depth: int) -> None:
        self._at: dict[tuple[Site, int | None], list[tuple[Function, dict[str, Any]]]] = {}
        for each in sets:
            state: dict[str, Any] = {}
            for edit in each.edits:
                layer = None if edit.layer is None else resolve_layer(edit.layer, depth)
                self._at.setdefault((edit.site, layer), []).append((edit.function, state))

    def edits(self, site: Site, layer: int | None = None) -> bool:
        """Tell whether anything is written at this site."""
        return (site, layer) in self._at

    @property
    def places(self) -> frozenset[tuple[Site, int | None]]:
        """All sites and blocks at which something is written."""
        return frozenset(self._at)

    @property
    def in_the_model(self) -> bool:
        """Whether anything is written while the model itself runs."""
        return any(site not in ("forward", "image") for site, _ in self._at)

    def layouts(self, native: Sequence[TokenLayout]) -> tuple[TokenLayout, ...]:
        """Return the layouts of the tokens that enter block 0 and of those after each block, edits included.

        Args:
            native: the same without edits.
        Raises:
            UserError: if edits changed the tokens before a block that changes them itself.
        """
        found = [self.layout(native[0], "input")]
        for layer in range(len(native) - 1):
            after = native_after(found[-1], native, layer)
            found.append(self.layout(after, "block", layer))
        return tuple(found)

    @property
    def attention(self) -> frozenset[int]:
        """Blocks whose attention is written."""
        return self.blocks("attention") | self.blocks("weights")

    def blocks(self, site: Site) -> frozenset[int]:
        """Return the blocks in which something is written at this site."""
        return frozenset(layer for at, layer in self._at if at == site and layer is not None)

    def apply(self, site: Site, value: Any, layout: TokenLayout, layer: int | None = None) -> tuple[Any, TokenLayout]:
        """Return the value after all edits of a site, and the layout of its tokens.

        Raises:
            UserError: if a function modified its input, returned nothing or an unsuitable value, or returned a number
                of tokens at "input" or "block" that contradicts the layout.
        """
        for function, state in self._at.get((site, layer), ()):
            given, writes = value, writes_of(value)
            value = function(given, Place(layer=layer, layout=layout, state=state))
            refuse(site, layer, given, value, written=writes_of(given) != writes)
            if site in CHANGING_TOKENS:
                layout = layout_after(function, layout)
            if site in CHANGING_TOKENS and value.shape[1] != layout.length:
                raise UserError(
                    f"the edit at {name_of(site, layer)} returned {value.shape[1]} tokens, and the layout says "
                    f"{layout.length}; a function that changes their number needs a method layout(before) -> TokenLayout."
                )
        return value, layout

    def layout(self, layout: TokenLayout, site: Site, layer: int | None = None) -> TokenLayout:
        """Return the layout after the edits of one site, given the layout before."""
        for function, _state in self._at.get((site, layer), ()):
            layout = layout_after(function, layout)
        return layout

    def around(
        self, run: Callable[[Tensor], Tokens], layout: Callable[[Tensor], TokenLayout]
    ) -> Callable[[Tensor], Tokens]:
        """Return `run` inside all "forward" edits, the inner model's innermost."""
        for function, state in self._at.get(("forward", None), ()):
            run = _wrapped(function, state, run, layout)
        return run


def _wrapped(
    function: Function, state: dict[str, Any], run: Callable[[Tensor], Tokens], layout: Callable[[Tensor], TokenLayout]
) -> Callable[[Tensor], Tokens]:
    def call(images: Tensor) -> Tokens:
        found = function(images, Place(layer=None, layout=layout(images), state=state, run=run))
        if not isinstance(found, Tokens) or found.values.shape[0] != images.shape[0]:
            raise UserError(
                f"the edit of the whole call returned {said(found)}; it returns Tokens of all {len(images)} images."
            )
        return found

    return call


def native_after(before: TokenLayout, native: Sequence[TokenLayout], layer: int) -> TokenLayout:
    """Return the layout of a block's output.

    Args:
        before: layout of its input tokens, which edits may have changed.
        native: of the tokens that enter block 0 and of those after each block, without edits.
    Raises:
        UserError: if the block changes its tokens and edits changed them before: which ones it keeps is then unknown.
    """
    if native[layer] is native[layer + 1] or native[layer] == native[layer + 1]:
        return before
    if before == native[layer]:
        return native[layer + 1]
    raise UserError(
        f"block {layer} drops or adds tokens itself, so edits before it cannot: which tokens it then keeps is not known; "
        "edit after it."
    )


def layout_after(function: Function, layout: TokenLayout) -> TokenLayout:
    """Return the layout after an edit, from its function's `layout` if it has one."""
    return function.layout(layout) if isinstance(function, ChangesLayout) else layout
