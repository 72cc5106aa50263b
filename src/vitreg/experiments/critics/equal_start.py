"""Trains a small ViT for a few steps from registers that start equal, or apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from vitreg.models.vit import VisionTransformer

CLASSES, BATCH, SIDE = 10, 16, 32


def trained_for(steps: int, *, equal: bool, seed: int = 0) -> dict[str, float | None]:
    """Train, and return how far two registers lie apart: at first, and in the end, and how far they moved (largest channel)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VisionTransformer(
            image_size=SIDE, patch=8, width=64, depth=2, heads=2, registers=2, num_classes=CLASSES, register_init=0.02
        )
        registers = model.reg_token
        assert registers is not None
        if equal:
            with torch.no_grad():
                registers.copy_(registers[..., :1, :].expand_as(registers))
        start = registers.detach().clone()
        images = torch.randn(BATCH, 3, SIDE, SIDE)
        classes = torch.randint(CLASSES, (BATCH,))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(steps):
        loss = F.cross_entropy(model(images), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {
        "at_first": _apart(start),
        "largest_difference": _apart(registers.detach()),
        "largest_step": float((registers.detach() - start).abs().max()),
        "loss": float(loss.detach()),
    }


def _apart(registers: torch.Tensor) -> float:
    one, other = registers.flatten(0, -2)
    return float((one - other).abs().max())
