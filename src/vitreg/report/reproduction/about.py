"""What stands beside every number and figure: whose it is, on which images, of which seeds, and after which figure of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vitreg.quantities import count
from vitreg.records.reproduction import PAPER, ExperimentRecord, Measured, Reproduction
from vitreg.writing.files import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CITATION = "Darcet, Oquab, Mairal, Bojanowski: Vision Transformers Need Registers. ICLR 2024."
SYNTHETIC = {"synthetic:scenes": "synthetic scenes", "synthetic:retrieval": "synthetic images of retrieval"}
TRAINED_ON = ("train", "captions")
MOST = 8  # models that a figure names one by one


def kind_of(found: Measured) -> str:
    """Say what a subject is beside a model as it was published: planted, the clean twin of planted ones, or trained here."""
    if found.subject.startswith("planted:"):
        return "clean twin of the planted models" if found.subject.startswith("planted:clean") else "planted"
    return "trained here" if found.trained is not None else ""


def named(found: Measured) -> str:
    """Return the name of a subject with what it is."""
    kind = kind_of(found)
    return f"{found.subject} ({kind})" if kind else found.subject


def data_in_words(data: str) -> str:
    """Return DATA as a reader should know it: what is synthetic is called so.

    >>> data_in_words("synthetic:scenes@3:8")
    'synthetic scenes (synthetic:scenes@3:8)'
    """
    words = next((words for name, words in SYNTHETIC.items() if data.startswith(name)), "")
    return f"{words} ({data})" if words else data


def images_of(each: ExperimentRecord) -> str:
    """Return what the numbers of an experiment were measured on; empty where no images were looked at."""
    read = dict.fromkeys(data for name, data in each.data.items() if name not in TRAINED_ON and data)
    return "; ".join(map(data_in_words, read))


def about(each: ExperimentRecord, subject: str, seed: int) -> dict[str, Any]:
    """Return what a row says of its subject: its kind, the images, how many, and the seeds.

    Args:
        subject: of a claim; one that is no single model stands for all that were trained here.
        seed: of the draws of the run.
    """
    rows = [found for found in each.measured if found.subject == subject] or [
        found for found in each.measured if found.trained is not None
    ]
    seen = [found.images for found in rows if found.images is not None]
    seeds = sorted({found.trained.seed for found in rows if found.trained is not None})
    on = dict.fromkeys(each.data[name] for name in TRAINED_ON if name in each.data)
    return {
        "kind": next((kind for found in rows if (kind := kind_of(found))), ""),
        "images": images_of(each),
        "images_seen": max(seen, default=None),
        "trained_on": "; ".join(map(data_in_words, on)) if seeds else "",
        "seeds": seeds or [seed],
    }


def frame(result: Reproduction, each: ExperimentRecord, caption: str, figure: Figure) -> str:
    """Return the line below a figure: models and what they are, the images, and the figure of the paper it follows.

    Args:
        caption: of the figure; the name of a subject where it shows one.
    """
    shown = _shown(each.measured, caption, figure)
    kinds = [kind_of(found) or "others" for found in shown]
    several = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    who = f"{count(len(shown), 'model')}: {several}" if len(shown) > MOST else ", ".join(map(named, shown))
    on = images_of(each)
    trained = next((about(each, found.subject, 0)["trained_on"] for found in shown if found.trained is not None), "")
    by = next((claim.by for claim in each.claims if claim.by != PAPER), "")
    after = f"after {by}" if by else f"after {each.label} of {CITATION.rstrip('.')}"
    parts = (
        who,
        f"trained on {trained}" if trained else "",
        f"on {on}" if on else "",
        after,
        f"vitreg {result.provenance.vitreg}",
    )
    return printable("; ".join(filter(None, parts)) + ".")


def _shown(measured: Sequence[Measured], caption: str, figure: Figure) -> list[Measured]:
    """Return the subjects of a figure: that of its caption, else those whose names stand in it, else all with numbers."""
    from matplotlib.text import Text

    one = [found for found in measured if found.subject == caption]
    texts = [text.get_text() for text in figure.findobj(Text)] if not one else []  # type: ignore[attr-defined]
    written = [found for found in measured if any(found.subject in text for text in texts)]
    return one or written or [found for found in measured if not found.failed]
