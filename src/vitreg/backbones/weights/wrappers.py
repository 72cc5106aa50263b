"""Wrapper names inside parameter names, and additions to weights: adapters, quantisation.

`torch.compile`, activation checkpointing, FSDP and the like wrap single blocks and change every name inside:
`blocks.0._orig_mod.norm1.weight` means `blocks.0.norm1.weight`, in files and in modules.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from vitreg.errors import UserError

_WRAPPERS = frozenset(
    ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_fpw_module", "_forward_module")
)
_ADAPTER = re.compile(r"(^|\.)(lora_\w+|hada_w\d_[ab]|lokr_w\d(_[ab])?|ia3_l|oft_[rR])(\.|$)")
# bitsandbytes, torch.ao and GPTQ, in this order
_QUANTISED = re.compile(
    r"\.(SCB|weight_format|(nested_)?(absmax|quant_map)|quant_state\..+|_packed_params\S*|qweight|qzeros|g_idx)$"
)


def plain_names(keys: Iterable[str], *, lone_modules: bool) -> dict[str, str]:
    """Return every name without wrappers.

    Args:
        keys: of a whole state dict.
        lone_modules: also drop `module` if it has no sibling, as under DistributedDataParallel. It may be a real name,
            so treat both sides of a comparison alike.
    Returns:
        key -> plain name. Where two keys would get one name, they keep their own.
    """
    plain = {key: ".".join(part for part in key.split(".") if part not in _WRAPPERS) for key in keys}
    if lone_modules:
        plain = dict(zip(plain, _without_lone_modules(list(plain.values())), strict=True))
    counts = Counter(plain.values())
    return {key: name if counts[name] == 1 and name else key for key, name in plain.items()}


def _without_lone_modules(names: list[str]) -> list[str]:
    children: dict[str, set[str]] = {}
    for name in names:
        parts = name.split(".")
        for depth, part in enumerate(parts):
            children.setdefault(".".join(parts[:depth]), set()).add(part)
    return [
        ".".join(
            part
            for depth, part in enumerate(parts)
            if part != "module" or children[".".join(parts[:depth])] != {"module"}
        )
        for parts in (name.split(".") for name in names)
    ]


def refuse_additions(file: Iterable[str], module: Iterable[str], source: str) -> None:
    """Refuse weights that are incomplete without their additions, unless the module has the same additions.

    Raises:
        UserError: for adapters that are not merged, and for quantised weights.
    """
    file, module = list(file), list(module)
    adapter = next((key for key in file if _ADAPTER.search(key)), None)
    if adapter is not None and not any(_ADAPTER.search(key) for key in module):
        raise UserError(
            f"{source} holds an adapter that is not merged ({adapter}); merge the adapter first "
            "(peft: model.merge_and_unload()) and save the model it gives."
        )
    quantised = next((key for key in file if _QUANTISED.search(key)), None)
    if quantised is not None and not any(_QUANTISED.search(key) for key in module):
        raise UserError(f"{source} holds quantised weights ({quantised}); dequantise them, or take the original file.")
