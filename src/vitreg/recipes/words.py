"""CLIP's tokenizer: captions as token ids, by open_clip."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from jaxtyping import Int64
from torch import Tensor

from vitreg.errors import UserError

VOCABULARY = 49408  # of CLIP's byte-pair encoding; its last word ends a text, and there the text tower is read


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """CLIP's byte-pair encoding. It holds one number, so that it is cheap to send to loader workers."""

    context: int = 77

    def __call__(self, texts: list[str]) -> Int64[Tensor, "B L"]:
        """Return the ids of each text, lower-cased, between the start and end tokens, cut or filled with zeros to L."""
        return open_clip().tokenize(texts, context_length=self.context)


def open_clip() -> ModuleType:
    """Return the package with the text tower and the tokenizer."""
    try:
        import open_clip
    except ImportError:
        raise UserError("CLIP trains with open_clip's text tower; pip install 'vitreg[clip]' brings it.") from None
    return open_clip
