"""vitreg: see and measure feature artifacts of Vision Transformers.

``vitreg.load`` opens a model; every verb of the command line is a function here, ``eval`` under the name ``evaluate``. They
take specs, modules and loaded backbones, and their flags as keywords. They are imported when first used, so that
``import vitreg`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Anatomy": "vitreg.backbones",
    "Backbone": "vitreg.backbones",
    "Capture": "vitreg.backbones",
    "DiscoverOptions": "vitreg.verbs.discover.options",
    "Edit": "vitreg.backbones",
    "EvalOptions": "vitreg.verbs.eval.options",
    "ExtractOptions": "vitreg.verbs.extract.options",
    "MapsOptions": "vitreg.verbs.maps.options",
    "Place": "vitreg.backbones",
    "ScanOptions": "vitreg.verbs.scan.options",
    "TokenLayout": "vitreg.tokens",
    "Tokens": "vitreg.tokens",
    "UserError": "vitreg.errors",
    "badge": "vitreg.verbs.zoo.card",
    "compare": "vitreg.verbs.compare",
    "curves": "vitreg.verbs.curves",
    "demo": "vitreg.verbs.demo.verb",
    "discover": "vitreg.verbs.discover.verb",
    "doctor": "vitreg.verbs.doctor",
    "draw": "vitreg.verbs.draw",
    "evaluate": "vitreg.verbs.eval.verb",
    "evaluate_all": "vitreg.verbs.eval.several",
    "explore": "vitreg.verbs.explore.verb",
    "export": "vitreg.verbs.export.verb",
    "fit_repair": "vitreg.repair.fitting",
    "fix": "vitreg.verbs.fix.verb",
    "extract": "vitreg.verbs.extract.verb",
    "lab": "vitreg.experiments.lab.verb",
    "load": "vitreg.backbones",
    "load_repair": "vitreg.repair.repair",
    "look": "vitreg.verbs.look.verb",
    "maps": "vitreg.verbs.maps.verb",
    "plugin": "vitreg.plugins",
    "repairs": "vitreg.verbs.repairs.verb",
    "reproduce": "vitreg.experiments.reproduce",
    "scan": "vitreg.verbs.scan.verb",
    "register": "vitreg.backbones",
    "Repair": "vitreg.repair.repair",
    "repaired": "vitreg.repair.repair",
    "train": "vitreg.verbs.train.verb",
    "zoo": "vitreg.verbs.zoo.verb",
    "Trace": "vitreg.backbones",
}

__all__ = [
    "Anatomy",
    "Backbone",
    "Capture",
    "DiscoverOptions",
    "Edit",
    "EvalOptions",
    "ExtractOptions",
    "MapsOptions",
    "Place",
    "Repair",
    "ScanOptions",
    "TokenLayout",
    "Tokens",
    "Trace",
    "UserError",
    "__version__",
    "badge",
    "compare",
    "curves",
    "demo",
    "discover",
    "doctor",
    "draw",
    "evaluate",
    "evaluate_all",
    "explore",
    "export",
    "extract",
    "fit_repair",
    "fix",
    "lab",
    "load",
    "load_repair",
    "look",
    "maps",
    "plugin",
    "register",
    "repaired",
    "repairs",
    "reproduce",
    "scan",
    "train",
    "zoo",
]


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vitreg' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
