"""The section of a model card (Markdown) on one scan: the finding, the numbers, the protocol, how to repeat it."""

from __future__ import annotations

import re

from vitreg.quantities import MISSING, number, percent
from vitreg.records import ScanResult
from vitreg.records.zoo import BoardRow, Protocol
from vitreg.report.zoo.words import attention, interval, of_blocks, ratio
from vitreg.writing.files import printable

HEADING = "## Feature artifacts (vitreg)"


def card_of(row: BoardRow, result: ScanResult) -> str:
    """Return the section as Markdown."""
    made, protocol = result.provenance, row.protocol
    assert protocol is not None
    numbers = {
        "verdict": f"{row.verdict} ({row.strength})" if row.kind != "none" else row.verdict,
        "outliers, share of the patch tokens": " ".join(filter(None, (percent(row.share), interval(row)))),
        "norm of outliers / of other patches, peak block": ratio(row.ratio_peak),
        "the same tokens, after the last block": ratio(row.ratio_output),
        "first block with outliers": of_blocks(row.first_block, row.blocks),
        "attention into outliers": attention(row),
        "registers": str(row.registers),
        "parameters": f"{row.parameters:,}",
    }
    rows = [(name, value) for name, value in numbers.items() if value and value != MISSING]
    lines = [
        HEADING, "",
        "![artifacts](badge.svg)", "",
        *([f"**{escaped(row.note)}.**", ""] if row.note else []),
        escaped(result.verdict.sentence), *([f"{escaped(row.could)}"] if row.could else []), "",
        "| measured | value |", "|---|---|",
        *(f"| {escaped(name)} | {escaped(value)} |" for name, value in rows), "",
        f"Protocol: {escaped(said(protocol))}. Statistics in fp32, before the final norm.", "",
        f"Model `{code(row.model)}`, weights SHA-256 `{code(row.weights_sha256 or 'unknown')}`. Made with vitreg "
        f"{escaped(made.vitreg)} on {made.started[:10]}:", "",
        *fenced(f"$ {made.command}" if made.command != "Python" else "# from Python: vitreg.scan(...)"), "",
    ]  # fmt: skip
    return "\n".join(lines)


def said(protocol: Protocol) -> str:
    """Return a protocol in words."""
    images = f"{number(protocol.seen) if protocol.seen >= 1000 else protocol.seen} images"
    digits = f" (SHA-256 {protocol.images[:16]})" if protocol.images else ""
    return (
        f"{images}{digits}, {protocol.resolution}, fit {protocol.fit}, {protocol.precision}, detector {protocol.detector}, "
        f"vitreg {protocol.vitreg}"
    )


def escaped(text: str) -> str:
    """Escape what Markdown reads as markup, and what would end a cell of a table.

    >>> escaped("a|b_c <d>")
    'a\\\\|b\\\\_c \\\\<d\\\\>'
    """
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))


def fenced(text: str) -> list[str]:
    """Return a line as a block of code that nothing in it can end: a longer fence, and no line breaks.

    >>> fenced("$ vitreg scan run:a")
    ['```console', '$ vitreg scan run:a', '```']
    """
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}console", printable(text), fence]


def code(text: str) -> str:
    """Return a text that may stand between backticks."""
    return " ".join(text.replace("`", "'").split())
