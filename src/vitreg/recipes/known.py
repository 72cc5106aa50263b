"""The list of all recipes: those of vitreg, those of installed packages, and those defined so far. No torch here."""

from __future__ import annotations

import vitreg.recipes.settings  # noqa: F401  registers those of vitreg
from vitreg import plugins
from vitreg.recipes.registry import RecipeConfig, recipe, registered


def kinds() -> dict[str, type[RecipeConfig]]:
    """Return the settings of every recipe by name.

    A plug-in is the dataclass of its settings, or the module in which `@recipe` registers it.

    Raises:
        UserError: for a package whose recipe cannot be imported.
        ValueError: for a plug-in that is no recipe.
    """
    for name, made in plugins.all_of("recipe").items():
        if isinstance(made, type) and name not in registered():
            recipe(name)(made)
    return registered()
