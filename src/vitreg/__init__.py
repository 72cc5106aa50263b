"""vitreg: see and measure feature artifacts of Vision Transformers.

``vitreg.load``, ``vitreg.scan``, ``vitreg.maps`` and ``vitreg.doctor`` do what the verbs of the command line do, on specs,
modules and tensors. They are imported when first used, so that ``import vitreg`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Backbone": "vitreg.backbones",
    "Capture": "vitreg.backbones",
    "Edit": "vitreg.backbones",
    "Place": "vitreg.backbones",
    "ScanOptions": "vitreg.verbs.scan.verb",
    "TokenLayout": "vitreg.tokens",
    "Tokens": "vitreg.tokens",
    "UserError": "vitreg.errors",
    "doctor": "vitreg.verbs.doctor",
    "load": "vitreg.backbones",
    "plugin": "vitreg.plugins",
    "maps": "vitreg.verbs.maps.verb",
    "scan": "vitreg.verbs.scan.verb",
}

__all__ = [
    "Backbone",
    "Capture",
    "Edit",
    "Place",
    "ScanOptions",
    "TokenLayout",
    "Tokens",
    "UserError",
    "__version__",
    "doctor",
    "load",
    "maps",
    "plugin",
    "scan",
]


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vitreg' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
