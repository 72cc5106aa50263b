"""Parts of a block that somebody else wrote, named `module:function`: attention, norm or MLP of our ViT.

The function is called with keyword arguments and returns an `nn.Module`:

    attention  (width, heads, bias)   tokens [B, N, D] -> [B, N, D]; read like any library's, see docs/models.md
    norm       (width, eps)           tokens [..., D] -> [..., D]
    mlp        (width, hidden, bias)  tokens [..., D] -> [..., D]
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from vitreg.errors import UserError


def own_part(word: str, **arguments: Any) -> nn.Module:
    """Import the function that a setting names, and return the module that it makes.

    Raises:
        UserError: if it cannot be imported, or makes no module.
    """
    place, _, name = word.partition(":")
    try:
        make = getattr(import_module(place), name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"'{word}' is not there: no module '{error.name}'; install it, or add its folder to PYTHONPATH."
        ) from None
    except AttributeError:
        raise UserError(f"the module '{place}' has no '{name}', which this model is made with.") from None
    try:
        made = make(**arguments)
    except TypeError as error:
        raise UserError(f"'{word}' is called with {', '.join(arguments)}, and does not take them ({error}).") from error
    if not isinstance(made, nn.Module):
        raise UserError(f"'{word}' returned a {type(made).__name__}; it returns an nn.Module.")
    return made


def attend_each(attention: nn.Module, batches: Sequence[Tensor], seen: Sequence[Tensor | None]) -> list[Tensor]:
    """Run somebody's attention on every batch [B, N, D] by itself.

    Raises:
        UserError: where some tokens are hidden from the others, which only ours can do.
    """
    if any(keys is not None for keys in seen):
        raise UserError(
            f"register_dropout and register_depth hide tokens, which {type(attention).__name__} cannot; set both to 0."
        )
    return [attention(x) for x in batches]
