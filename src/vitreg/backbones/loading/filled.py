"""Builds a model that a file will fill without drawing its random initial values first: for a ViT-B they take longer than
reading the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

M = TypeVar("M")
DRAWS = {
    Tensor.uniform_, Tensor.normal_, Tensor.erfinv_, nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_
}  # fmt: skip
"""What initialisations draw with. Constants are cheap and stay."""
SCALES = {Tensor.mul_, Tensor.add_, Tensor.clamp_}
"""What follows a draw, and is as pointless without it."""
WRITES = {Tensor.copy_, Tensor.zero_, Tensor.fill_}


def built(create: Callable[[], M], *, filled: bool) -> M:
    """Return what `create` builds.

    Args:
        create: builds a module, and loads its weights if `filled`.
        filled: skip the random initial values. Where some of them are left in the end, because the file lacks the tensor,
            the module is built again with them.
    """
    if not filled:
        return create()
    with _WithoutDraws() as skipping:
        made = create()
    return made if isinstance(made, nn.Module) and not skipping.left_in(made) else create()


class _WithoutDraws(TorchFunctionMode):
    """Leaves whole parameters as they lie in memory where random values would be drawn into them."""

    def __init__(self) -> None:
        super().__init__()
        self._undrawn: dict[int, Tensor] = {}

    def __torch_function__(
        self,
        function: Any,
        types: Sequence[type],
        values: Sequence[Any] = (),
        keywords: Mapping[str, Any] | None = None,
    ) -> Any:
        """Skip a draw into a parameter, and note what is written into one."""
        written = values[0] if values else (keywords or {}).get("tensor")
        if isinstance(written, nn.Parameter) and written.device.type != "meta":
            if function in DRAWS:
                self._undrawn[id(written)] = written
                return written
            if function in SCALES and id(written) in self._undrawn:
                return written
            if function in WRITES:
                self._undrawn.pop(id(written), None)
        return function(*values, **(keywords or {}))

    def left_in(self, module: nn.Module) -> bool:
        """Whether a parameter of the module was neither drawn nor written as a whole."""
        return any(id(each) in self._undrawn for each in module.parameters())
