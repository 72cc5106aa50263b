"""Findings about a ViT from its weights alone, without images: values, register tokens, position table, weight decay.

Pure functions of tensors and names that return `records.Finding`s. `passes.findings` locates these tensors in a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitreg.quantities import percent
from vitreg.records import Finding

VALUES = "weight values"  # if this finding fails, the others mean nothing
FAR = 6.0  # position rows stand out beyond median + FAR * 1.4826 * MAD of the row norms
STRONG = 2.0  # times the median norm: outlying rows below it are notes, above it warnings
UNTRAINED = 1e-4  # root mean square of a register's entries; initialised with 1e-6 in DINOv2 and timm
DOMINANT = 0.5  # share of a row's squared norm in one channel


def values(weights: Mapping[str, Tensor]) -> Finding:
    """Check that weights are finite and not all zero.

    Args:
        weights: those that features pass through, by name; matrices have two or more axes.
    """
    broken = {name: int((~value.isfinite()).sum()) for name, value in weights.items() if value.is_floating_point()}
    broken = {name: count for name, count in broken.items() if count}
    if broken:
        worst = max(broken, key=lambda name: broken[name])
        others, count = len(broken) - 1, broken[worst]
        more = f", and so {'do' if others > 1 else 'does'} {others} other tensor{'s' * (others > 1)}" if others else ""
        return Finding(
            level="problem",
            subject=VALUES,
            message=f"{worst} holds {count} value{'s that are' if count > 1 else ' that is'} NaN or infinite{more}: "
            "what passes through them is no number.",
            remedy="Take the original file or an earlier checkpoint; in half precision, try full precision.",
        )
    matrices = [name for name, value in weights.items() if value.ndim > 1 and name.endswith("weight")]
    zero = [name for name in matrices if not bool(weights[name].any())]
    if zero and (len(zero) == len(matrices) or any(weights[name].ndim == 4 for name in zero)):  # the patch projection
        all_of_them = len(zero) == len(matrices)
        return Finding(
            level="problem",
            subject=VALUES,
            message=(f"all {len(zero)} weight matrices are" if all_of_them else f"{zero[0]} is")
            + " zero: every image gives the same tokens.",
            remedy="Check that the weights were loaded, and that the file was written by a finished training.",
        )
    if zero:
        return Finding(
            level="warning",
            subject=VALUES,
            message=f"{_listed(zero[:4])}{f' and {len(zero) - 4} more' if len(zero) > 4 else ''} "
            f"{'is' if len(zero) == 1 else 'are'} zero throughout: that part of the block adds nothing.",
            remedy="Check that the weights were loaded as a whole.",
        )
    return Finding(level="ok", subject=VALUES, message="all are finite, and no weight matrix is zero throughout.")


def registers(tokens: Float[Tensor, "R D"], name: str) -> list[Finding]:
    """Look for registers that are equal, or still near zero.

    Registers have no position embedding, so equal ones get equal gradients and stay equal for ever. Several timm
    checkpoints were trained that way from a zero initialisation.

    Args:
        tokens: the learned input values of the R >= 1 registers.
        name: of the parameter, as the library calls it.
    """
    x = tokens.detach().float().cpu()
    count = len(x)
    rms = x.pow(2).mean(-1).sqrt()  # [R]
    distinct = _distinct(x)
    findings: list[Finding] = []
    if distinct < count:
        findings.append(
            Finding(
                level="problem",
                subject="identical registers",
                message=f"{count} registers in {name} hold only {distinct} different value{'s' * (distinct > 1)}. "
                "Registers have no position embedding, so equal ones compute the same thing and get the same gradient: "
                f"they stay equal for ever, and {count} registers work as {distinct}.",
                remedy=f"Before training, initialise {name} with noise (torch.nn.init.normal_(…, std=1e-6), or 0.02). "
                "A model already trained this way has to be trained further with noise added; as it stands, count it "
                f"as a model with {distinct} register{'s' * (distinct > 1)}.",
            )
        )
    if float(rms.max()) < UNTRAINED:
        zero = float(rms.max()) == 0
        findings.append(
            Finding(
                level="warning",
                subject="untrained registers",
                message=f"the registers in {name} are {'exactly zero' if zero else 'near zero'}"
                + ("" if zero else f" (largest root mean square of an entry: {float(rms.max()):.1e})")
                + ", as they are right after initialisation.",
                remedy="Check that the weights were loaded, and that the checkpoint was trained with registers.",
            )
        )
    if not findings:
        norms = ", ".join(f"{v:.3g}" for v in torch.linalg.vector_norm(x, dim=-1).tolist())
        findings.append(
            Finding(
                level="ok",
                subject="registers",
                message=f"{count} register{'s' * (count > 1)} in {name}, all different; norms {norms}.",
            )
        )
    return findings


@dataclass(frozen=True, slots=True)
class StandingOut:
    """A row of a position table with an unusual norm."""

    row: int
    col: int
    norm: float
    factor: float  # norm / median norm
    channel: int  # the channel that holds most of the squared norm
    share: float  # how much of it


def far_above(values: Float[Tensor, "P"], mads: float = FAR) -> Bool[Tensor, "P"]:
    """Return which values exceed median + `mads` * 1.4826 * MAD; a MAD below 0.1 % of the median counts as 0.1 %."""
    median = values.median()
    deviation = (values - median).abs().median().clamp_min(1e-3 * float(median))
    return values > median + mads * 1.4826 * deviation


def position_outliers(table: Float[Tensor, "P D"], grid: tuple[int, int]) -> list[StandingOut]:
    """Return rows whose norm exceeds median + 6 * 1.4826 * MAD of the row norms, largest first.

    Such rows put a high-norm token at the same place in every image (reported for SigLIP, where one row has 14.5 times
    the mean norm and one channel holds 82 % of it). A MAD below 0.1 % of the median counts as 0.1 %, because the rows
    of a sine-cosine table are equal up to rounding.

    Args:
        table: rows of the patches only, row-major, without the row of a class token.
        grid: (rows, cols) with rows * cols == P.
    Raises:
        ValueError: if the grid does not hold P rows.
    """
    if grid[0] * grid[1] != len(table):
        raise ValueError(f"a {grid[0]}x{grid[1]} grid holds {grid[0] * grid[1]} patches, not {len(table)}")
    x = table.detach().float().cpu()
    norms = torch.linalg.vector_norm(x, dim=-1)  # [P]
    median, unusual = norms.median(), far_above(norms)
    far = [int(i) for i in norms.argsort(descending=True, stable=True) if unusual[i]]
    energy = x[far].pow(2)  # [n, D]
    channels, totals = energy.argmax(1).tolist() if far else [], energy.sum(1)
    return [
        StandingOut(
            row=i // grid[1],
            col=i % grid[1],
            norm=float(norms[i]),
            factor=float(norms[i] / median) if float(median) > 0 else float("inf"),
            channel=channels[k],
            share=float(energy[k, channels[k]] / totals[k]),
        )
        for k, i in enumerate(far)
    ]


def positions(table: Float[Tensor, "P D"], grid: tuple[int, int], name: str, listed: int = 8) -> Finding:
    """Say whether rows of a position table stand out and name up to `listed` of them; see `position_outliers`."""
    found = position_outliers(table, grid)
    size = f"{grid[0]}x{grid[1]} rows in {name}"
    if not found:
        return Finding(level="ok", subject="position table", message=f"no row stands out among {size}.")
    shown = "; ".join(
        f"(row {f.row}, col {f.col}) {f.factor:.1f}x the median norm"
        + (f", {percent(f.share)} of it in channel {f.channel}" if f.share >= DOMINANT else "")
        for f in found[:listed]
    )
    more = f"; and {len(found) - listed} more" if len(found) > listed else ""
    strong = found[0].factor >= STRONG
    return Finding(
        level="warning" if strong else "note",
        subject="position table",
        message=f"{len(found)} of {size} stand{'s' * (len(found) == 1)} out: {shown}{more}."
        + (" A token there can be large in every image, whatever the image shows." if strong else ""),
        remedy="Scan images and look whether outliers sit at these places in all of them (verdict position-locked). If "
        "so, they come from the table: vitreg fix position-rows repairs it."
        if strong
        else "Mild; compare with where a scan finds outliers.",
    )


def weight_decay(tokens: Sequence[tuple[str, int]], exempt: set[str] | None, library: str) -> Finding:
    """Say whether weight decay would act on class, register and position parameters, by the library's own exemption
    list.

    Decay pulls these embeddings towards zero. Parameters of one dimension are exempt in the usual parameter groups.

    Args:
        tokens: (name, number of dimensions) of the class, register, and position parameters.
        exempt: names from the model's `no_weight_decay()`; None if it has no such method.
        library: the owner of that list, for the message.
    """
    wide = [name for name, dims in tokens if dims > 1]
    if not wide:
        return Finding(level="ok", subject="weight decay", message="no token or position parameter would be decayed.")
    if exempt is None:
        return Finding(
            level="note",
            subject="weight decay",
            message=f"this {library} model has no no_weight_decay(): parameter groups made by number of dimensions "
            f"decay {_listed(wide)}.",
            remedy="If you train it, put them into a group with weight_decay=0 (DeiT-III and OpenCLIP recipes; the "
            "official DINOv2 recipe does decay them).",
        )
    missed = [name for name in wide if name not in exempt]
    if missed:
        return Finding(
            level="warning",
            subject="weight decay",
            message=f"no_weight_decay() of this {library} model does not name {_listed(missed)}: an optimiser built "
            f"from it decays {'it' if len(missed) == 1 else 'them'}.",
            remedy="If you train it, add them to the list given to the optimiser, or update the library.",
        )
    return Finding(level="ok", subject="weight decay", message=f"no_weight_decay() covers {_listed(wide)}.")


def _distinct(x: Float[Tensor, "R D"]) -> int:
    """How many rows differ by more than rounding."""
    tolerance = 1e-6 * float(torch.linalg.vector_norm(x, dim=-1).max())
    kept: list[Tensor] = []
    for row in x:
        if all(float(torch.linalg.vector_norm(row - other)) > tolerance for other in kept):
            kept.append(row)
    return len(kept)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
