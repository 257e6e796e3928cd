"""Recipe: one experiment in one YAML file, its task and prompts, and what of it may leave this machine."""

from hf_soups.recipe.recipe import (
    LARGEST_SIDE,
    Data,
    Distribution,
    Head,
    Recipe,
    Sweep,
    Train,
    dotted,
    load_recipe,
    recipe_from,
)

__all__ = [
    "LARGEST_SIDE",
    "Data",
    "Distribution",
    "Head",
    "Recipe",
    "Sweep",
    "Train",
    "dotted",
    "load_recipe",
    "recipe_from",
]
