"""The place of `Exit` in 0.1.0; it is `vitreg.console.exits` now."""

from vitreg.console.exits import Exit as Exit
