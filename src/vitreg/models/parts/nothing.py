"""Softmax-off-by-one, e^x_i / (1 + sum_j e^x_j): attention that can look at nothing (Miller 2023).

The 1 is a key of zeros, whose logit is 0, with a value of zeros. It stands behind the tokens' keys, so every kernel
computes it, and a reader sees it as a key of no token.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def with_nothing(
    k: Float[Tensor, "B heads N d"], v: Float[Tensor, "B heads N d"], seen: Bool[Tensor, "B 1 1 N"] | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Append the key and the value of zeros; whoever may see some token may see it."""
    seen = None if seen is None else F.pad(seen, (0, 1), value=True)
    return F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1)), seen
