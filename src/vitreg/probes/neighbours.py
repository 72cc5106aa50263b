"""Weighted k nearest neighbours on frozen features, DINOv2's protocol."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def knn_votes(
    bank: Float[Tensor, "N D"],
    labels: Int64[Tensor, " N"],
    queries: Float[Tensor, "Q D"],
    classes: int,
    *,
    ks: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
    chunk: int = 1024,
) -> dict[int, Float[Tensor, "Q C"]]:
    """Let the k nearest of a bank vote for the class of each query.

    Cosine similarity; a vote weighs softmax(similarity / temperature) over the largest k, cut to the first k for the
    smaller ones (DINOv2's evaluation).

    Args:
        ks: numbers of neighbours; those above N count all N.
    Returns:
        for each k, the summed votes per class; rows need not add up to 1.
    """
    bank = F.normalize(bank.float(), dim=-1)
    most = min(max(ks), len(bank))
    votes: dict[int, list[Tensor]] = {k: [] for k in ks}
    for part in queries.split(chunk):
        similarity = F.normalize(part.float(), dim=-1) @ bank.T  # [q, N]
        top, index = similarity.topk(most, dim=-1)  # [q, most]
        weights = (top / temperature).softmax(-1)
        neighbours = labels[index]
        for k in ks:
            ballot = torch.zeros(len(part), classes, device=part.device)
            votes[k].append(ballot.scatter_add_(1, neighbours[:, :k], weights[:, :k]))
    return {k: torch.cat(parts) for k, parts in votes.items()}
