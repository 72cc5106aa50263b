"""Classes told by sentences, of a model with a text tower: accuracy with the repair, and McNemar's test of the difference."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jaxtyping import Int64
from torch import Tensor

from vitreg.backbones import Backbone
from vitreg.errors import UserError
from vitreg.passes.clip.class_names import numbered
from vitreg.passes.clip.towers import open_towers, text_classifier
from vitreg.probes.zeroshot import logits_of, ranks_of
from vitreg.repair.columns.answers.heads import mcnemar
from vitreg.repair.columns.column import Column, PerImage
from vitreg.repair.columns.data import NO_LABEL, Sentences
from vitreg.repair.columns.reading import Gathered, Reader, Reading
from vitreg.results import RepairCell


def sentences_on(
    backbone: Backbone, labels: Int64[Tensor, "n"], names: Path, templates: Literal["openai", "simple"]
) -> Sentences:
    """Embed the sentences of all classes with the text tower of a model, as `vitreg eval zeroshot` does.

    Args:
        names: a text file with a class a line, in the order of the labels, or lines of label, tab, name.
    Returns:
        the classifier; of a model without a text tower, why it has none.
    Raises:
        UserError: for a file that does not name every class.
    """
    words = numbered(names)
    if int(labels.max()) >= len(words):
        raise UserError(f"{names} names {len(words)} classes, and a label is {int(labels.max())}; labels count from 0.")
    try:
        towers = open_towers(backbone)
    except UserError as error:
        return Sentences(missing=error.sentence.rstrip("."))
    return Sentences(text_classifier(towers, words, templates), towers.place)


def right(reading: Reading) -> PerImage:
    """Return of each image with a label whether the nearest sentence is of its class; ties are errors."""
    reader, returned = reading.reader, reading.returned
    labels, sentences = reader.held_out.labels, reader.held_out.sentences
    assert labels is not None
    assert sentences is not None
    assert sentences.classifier is not None
    assert returned is not None
    wanted = labels[reading.place]
    logits = logits_of(sentences.place(returned).cpu(), sentences.classifier)
    known = wanted != NO_LABEL
    return ((ranks_of(logits, wanted.clamp_min(0)) == 0) & known).double(), known.double()


def _mcnemar(before: Gathered, after: Gathered) -> RepairCell | str:
    one, other = (each.sums["zeroshot"].numerators > 0 for each in (before, after))
    return RepairCell(value=mcnemar(int((one & ~other).sum()), int((other & ~one).sum())))


def _wordless(reader: Reader) -> str:
    """Return why a model's images are compared with no sentence; "" if they can be."""
    sentences = reader.held_out.sentences
    if sentences is None or sentences.classifier is None:
        return "" if sentences is None else sentences.missing
    return "" if reader.returns else "with this repair the model returns tokens, and no embedding of the image"


COLUMNS = (
    Column(
        name="zeroshot", title="zero-shot top-1", side="damage", better="larger", unit="%",
        meaning="Share of the labelled images whose embedding lies nearest to the sentences of their class (OpenAI's 80 templates "
        "or --templates).",
        measure=right, counts="images", least=1.0, needs="names", lacks=_wordless,
    ),
    Column(
        name="zeroshot_mcnemar", title="McNemar's p, zero-shot", side="damage", better="neither",
        meaning="Exact p-value that as many images become wrong as become right by chance (McNemar's test), by sentences.",
        whole=_mcnemar, least=0.0, needs="names", lacks=_wordless,
    ),
)  # fmt: skip
