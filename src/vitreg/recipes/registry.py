"""The settings of a recipe with its contract, and the list of all recipes: `@recipe("name")` on the settings dataclass.

The rest of the code uses only these settings and knows no recipe by name: its targets, its views, its module and its
validation metric. No torch here, nor at the top of a module of settings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar, get_type_hints

from vitreg.config import Range
from vitreg.errors import UserError
from vitreg.models.settings import ModelConfig

if TYPE_CHECKING:
    from vitreg.data.batches.workers import Tokenize, View
    from vitreg.data.views.transforms import Preprocess
    from vitreg.recipes.recipe import Recipe

Supervision = Literal["none", "label", "caption", "mask", "numbers"]
"""What comes with a picture: nothing, the number of its class, captions, a class of every pixel, numbers on a grid."""


class Judged(NamedTuple):
    """The validation metric of a run.

    Args:
        task: "top1", "knn", "retrieval" or "loss" (`vitreg.verbs.train.judges`).
        metric: the number of the task that chooses the best checkpoint.
        better: whether a larger or a smaller number is better.
    """

    task: str
    metric: str
    better: Literal["max", "min"] = "max"


class RecipeConfig:
    """Settings of a recipe, and its contract with the rest of the code.

    Subclass it as a frozen dataclass with two fields, `kind` and `group`, and register it with `@recipe`. `view` and
    one of `build` and `built_by` are its own. Import torch inside the methods, and the settings are read without it.
    """

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    kind: str
    """The name it is registered by; a Literal in each recipe."""
    group: int
    """Consecutive samples that share draws; a batch holds whole groups."""

    needs: ClassVar[Supervision] = "none"
    """What supervises a sample."""
    judged_by: ClassVar[Judged] = Judged("knn", "knn")
    """How a run is judged. kNN needs labels on both sides of the data; without them the run is not judged."""
    built_by: ClassVar[str] = ""
    """Where the class of the module lies, as "package.module:Class", if that imports torch and these settings do not."""
    ranges: ClassVar[Mapping[str, Range]] = {}
    """Settings whose numbers are bounded, by their names."""
    own_vit: ClassVar[str] = ""
    """What the recipe does that only vitreg's own ViT can; empty where it trains any model."""
    left_out: ClassVar[str] = ""
    """A sentence on what an export of the backbone leaves out."""

    def view(self, size: int) -> View:
        """Return what makes crops of a picture: stacks of views, uint8 [V, 3, h, w] each.

        Of a picture and its map (`needs` is "mask" or "numbers"), also the tensor that supervises the crops:
        `vitreg.data.views.paired.paired_view` is one.

        Args:
            size: side of the images in pixels.
        """
        raise NotImplementedError(f"{type(self).__name__} has no view")

    def build(self, model: ModelConfig, classes: int) -> Recipe:
        """Build the module that is trained, its weights drawn from torch's global generator.

        Args:
            classes: of the labels; 0 where there are none.
        """
        return self.module()(model, self)

    def module(self) -> Any:
        """Import the class that `built_by` names."""
        place, _, name = self.built_by.partition(":")
        if not name:
            raise NotImplementedError(f"{type(self).__name__} has neither a method build nor the place of its module")
        return getattr(import_module(place), name)

    def check(self, model: ModelConfig) -> Iterable[str]:
        """Return a sentence for every reason why these settings cannot train this model."""
        return ()

    def preprocess(self, size: int) -> Preprocess:
        """Return how pictures are prepared for evaluation; its mean and std are those of training too."""
        from vitreg.data.views.transforms import IMAGENET

        return dataclasses.replace(IMAGENET, size=(size, size), resize=size)

    def tokenizer(self) -> Tokenize | None:
        """Return what turns captions into the targets of a batch; None where captions are not read."""
        return None

    def copies(self) -> int:
        """Count how often a sample stands in a step, differently augmented."""
        return 1

    def official_epoch(self) -> int | None:
        """Return the optimiser steps that count as an epoch whatever the data; None counts the data."""
        return None


C = TypeVar("C", bound=type[RecipeConfig])
_registered: dict[str, type[RecipeConfig]] = {}


def recipe(name: str) -> Callable[[C], C]:
    """Register the settings of a recipe, so that configuration files, the command line and the loop know it.

    Raises:
        ValueError: for settings without the field `kind: Literal[name] = name` or without `group`, of types that are not
            known in their module, and for a name that another recipe has.
    """

    def register(config: C) -> C:
        fields = {field.name: field for field in dataclasses.fields(config)} if dataclasses.is_dataclass(config) else {}
        if "kind" not in fields or fields["kind"].default != name or "group" not in fields:
            raise ValueError(
                f"{config.__name__} must be a dataclass with the fields kind: Literal['{name}'] = '{name}' and group: int"
            )
        try:
            get_type_hints(config)
        except NameError as error:
            raise ValueError(f"the types of {config.__name__} must be names of its module: {error}") from error
        before = _registered.get(name)
        if before is not None and (before.__module__, before.__qualname__) != (config.__module__, config.__qualname__):
            raise ValueError(f"there is a recipe '{name}' already: {before.__module__}.{before.__qualname__}")
        _registered[name] = config
        return config

    return register


def registered() -> dict[str, type[RecipeConfig]]:
    """Return the settings registered so far by name; `vitreg.recipes.known.kinds` makes sure that all are."""
    return dict(_registered)


def objection(attempt: Callable[[], object]) -> list[str]:
    """Return the sentence with which an attempt is refused, in a list; an empty list where it goes well."""
    try:
        attempt()
    except UserError as error:
        return [error.sentence]
    return []
