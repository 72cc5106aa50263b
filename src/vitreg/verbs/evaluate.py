"""The place of `evaluate` in 0.1.0; it is `vitreg.evaluate` now."""

from vitreg.verbs.eval.verb import evaluate as evaluate
