"""Models that come with the package: `vitreg:born` and its twin with registers. Each folder holds weights, settings and a card.

`lab/ship_born.py` writes the folders out of runs of `vitreg lab born`.
"""

from __future__ import annotations

from pathlib import Path

from vitreg.quantities import number
from vitreg.records.card import ModelCard, SeedOutcome
from vitreg.specs import SHIPPED

HOME = Path(__file__).parent
CARD = "card.json"


def folder_of(name: str) -> Path:
    """Return the folder of a shipped model, in the form of a run's."""
    return HOME / name


def card_of(spec: str) -> ModelCard | None:
    """Return the card of `vitreg:NAME`, also of one that is edited or repaired; None for other models."""
    source, _, name = spec.partition(" + ")[0].partition(":")
    if source != "vitreg" or name not in SHIPPED:
        return None
    return ModelCard.model_validate_json((folder_of(name) / CARD).read_bytes())


def note_of(card: ModelCard) -> str:
    """Return the sentence that every record of the model holds."""
    return (
        f"{card.sentence} It was made for {card.made_for}: what is measured on other images says little of it. "
        f"Its card: vitreg doctor {card.spec}."
    )


def in_words(card: ModelCard) -> str:
    """Return the card as sentences."""
    error, scan = card.error, card.scan
    seeds = ", ".join(_of_a_seed(each) for each in card.seeds)
    return (
        f"{card.sentence} Data {card.data}, recipe {card.recipe} by the preset {card.preset}, seed {card.seed}, {card.steps:,} "
        f"steps, {card.made}, vitreg {card.vitreg}. Error of what is asked of other tiles {number(error.asked)}, on {error.images} "
        f"images of {error.data}; {number(error.least_alone)} is the least without looking at others. Its own scan ({scan.command}): "
        f"{scan.sentence} {card.rule} Outcomes without / with registers, by seed, with the largest norm over the median at the end: "
        f"{seeds}. {card.licence}"
    )


def _of_a_seed(of: SeedOutcome) -> str:
    ratio = "" if of.ratio is None else f" ({number(of.ratio)})"
    return f"{of.seed} {of.without or 'not ended'}{ratio} / {of.with_registers or 'not ended'}"
