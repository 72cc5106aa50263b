"""`vitreg maps`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from vitreg.cli.command import IMAGES_HELP, SPEC_HELP, check_place, listed, models_of, named_images, open_with
from vitreg.console.exits import Exit
from vitreg.console.terminal import say
from vitreg.passes.keywords import Listed
from vitreg.passes.options import ModelOptions
from vitreg.verbs.maps.options import MapsOptions, weights_of


def _shown() -> MapsOptions:
    """Defaults of the command line: a few images, so that the sheets stay short."""
    return MapsOptions(what=("attention", "registers", "pca", "rgb", "norm"), limit=8)


@dataclass(frozen=True, kw_only=True)
class Maps:
    """The words of `vitreg maps`."""

    spec: Annotated[Positional[str], arg(metavar="SPEC", help=f"{SPEC_HELP}, for each of several models")]
    images: Annotated[
        Positional[tuple[str, ...]], arg(metavar="IMAGES...", help=IMAGES_HELP, help_behavior_hint="(at least one)")
    ]
    out: Path = Path("vitreg-maps")
    """Folder for the sheets."""
    weights: Annotated[str, Listed(r"none|.*\.(safetensors|pth|pt|bin|json)")] | None = None
    """A checkpoint; for several models one each, none where a model keeps its weights."""
    maps: OmitArgPrefixes[MapsOptions] = field(default_factory=_shown)
    """What to draw."""
    model: OmitArgPrefixes[ModelOptions] = field(default_factory=ModelOptions)

    def check(self) -> None:
        """Refuse mistakes that show before a model is loaded."""
        from vitreg.passes import ahead

        models = models_of(self.spec)
        files = weights_of(self._weights(), len(models))
        for spec, file in zip(models, files, strict=True):
            self.model.check(spec, file)
        ahead.refuse_absent_inputs(named_images(self.images))
        check_place(ahead.maps_outputs(self.out, self.maps.what, self.images, files))

    def _weights(self) -> list[str | None] | None:
        return None if self.weights is None else [None if file == "none" else file for file in listed(self.weights)]

    def __call__(self) -> int:
        """Run the verb. Returns the exit code."""
        from vitreg.verbs.maps.verb import maps

        result = maps(
            models_of(self.spec), list(self.images), out=self.out, weights=self._weights(), options=self.maps,
            **self.model.given(),
        )  # fmt: skip
        for skipped in result.skipped:
            say(f"{skipped.name} could not be read: {skipped.reason}.")
        for note in result.notes:
            say(note)
        drawn = len(result.images) + len(result.skipped)
        if result.there is not None and drawn < result.there:
            say(f"Drew the first {drawn} of {result.there} images; --limit {result.there} draws all of them.")
        for path in result.paths[1:]:
            say(path)
        for path in result.paths[:1]:
            open_with(path)
        return Exit.DONE
