"""The images of a page: one card each with picture and maps, as template values and a data block for the script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from vitreg.records import Example, Heatmap
from vitreg.report.attempts import Attempts
from vitreg.report.scan import payload


@dataclass(frozen=True, slots=True)
class Cards:
    """The template's values for the images of a page.

    Args:
        cards: one per image, in order.
        data: the block from which the script draws the maps.
        scale: scale of the norms, shared by all cards.
    """

    cards: list[dict[str, Any]]
    data: Markup
    scale: payload.Scale

    @property
    def attended(self) -> int:
        """Number of attended patches drawn per token."""
        return max((card["attended"] for card in self.cards), default=0)

    @property
    def has_attention(self) -> bool:
        """Whether any card has a map of attention."""
        return any(card["attention"] for card in self.cards)

    @property
    def has_outliers(self) -> bool:
        """Whether any token is an outlier."""
        return any(card["outliers"] for card in self.cards)

    @property
    def has_near(self) -> bool:
        """Whether any token lies near the threshold."""
        return any(card["near"] for card in self.cards)


def cards_of(
    examples: Sequence[tuple[str, Example, float | None]], attempts: Attempts, positions: Heatmap | None = None
) -> Cards:
    """Make the cards of a page; an image that cannot be shown is listed as failed and left out.

    Args:
        examples: (name, maps, norm beyond which a token is an outlier).
    """
    made: list[tuple[dict[str, Any], Example, float | None]] = []
    for name, example, threshold in examples:
        card = attempts(f"maps of {name}", lambda n=name, e=example, t=threshold: _card(n, e, t))
        if card is not None:
            made.append(({**card, "index": len(made)}, example, threshold))
    shown = [example for _, example, _ in made]
    return Cards(
        cards=[card for card, _, _ in made],
        data=payload.data_block(shown, [threshold for _, _, threshold in made], positions),
        scale=payload.Scale.of(shown),
    )


def _card(name: str, example: Example, threshold: float | None) -> dict[str, Any]:
    payload.data_block([example], [threshold])  # raises if the image cannot be shown
    rows, cols = example.norms.shape
    outliers = int(example.outliers.sum())
    attention_block = "last block" if example.attention_layer is None else f"block {example.attention_layer}"
    attention = ["CLS"] if example.cls_attention is not None else []
    return {
        "name": name,
        "picture": payload.picture(example),
        "width": example.image.shape[1],
        "height": example.image.shape[0],
        "rows": rows,
        "cols": cols,
        "outliers": outliers,
        "share": outliers / (rows * cols),
        "near": 0 if example.near is None else int(example.near.sum()),
        "attention": attention + [f"register {i + 1}" for i in range(len(example.register_attention))],
        "norm_block": "" if example.layer is None else f", block {example.layer}",
        "attention_block": attention_block,
        "attended": min(example.attends.shape[1], payload.ATTENDED),
    }
