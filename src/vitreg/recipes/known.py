"""The list of all recipes: those of vitreg, those of installed packages, and those defined so far. No torch here."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager

from vitreg import plugins
from vitreg.recipes import settings
from vitreg.recipes.registry import RecipeConfig, recipe, registered

for _module in pkgutil.iter_modules(settings.__path__):  # importing a module of settings registers its recipes
    importlib.import_module(f"{settings.__name__}.{_module.name}")


def kinds() -> dict[str, type[RecipeConfig]]:
    """Return the settings of every recipe by name.

    A plug-in is the dataclass of its settings, or the module in which `@recipe` registers it.

    Raises:
        UserError: for a package whose recipe cannot be imported, or is none.
    """
    for name, made in plugins.all_of("recipe").items():
        if isinstance(made, type) and name not in registered():
            with plugins.blamed("recipe", name):
                recipe(name)(made)
    return registered()


@contextmanager
def blamed(config: RecipeConfig) -> Iterator[None]:
    """Turn what a recipe of others raises, while vitreg runs it, into one sentence. Raises UserError."""
    if type(config).__module__.startswith("vitreg."):
        yield
        return
    with plugins.blamed("recipe", config.kind, type(config), inside=True):
        yield
