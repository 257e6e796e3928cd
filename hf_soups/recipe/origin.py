"""Recipe kept: which task, data and fine-tunes a soup or pool comes from, in a file that may leave this machine."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

from hf_soups.errors import RecipeError
from hf_soups.files.downloads import is_repo_id
from hf_soups.recipe.recipe import Recipe, recipe_from

RECIPE_FILE = "recipe.yaml"


def place_shown(place: str) -> str:
    """What a record that leaves this machine says of a model's or data set's place.

    A path would tell others of a user and a disk, and lead nowhere. "./" in front keeps a folder's name apart from an
    id of the Hub.

    >>> place_shown("/home/me/data/glue"), place_shown("data/*.csv"), place_shown("nyu-mll/glue")
    ('./glue', './*.csv', 'nyu-mll/glue')
    """
    if is_repo_id(place) and not Path(place).exists():
        return place
    return f"./{PurePath(place).name or 'data'}"


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """A recipe without places of this machine, and without what it leaves open or empty."""
    told = recipe.model_dump(mode="json", exclude_none=True)
    told["model"] = place_shown(recipe.model)
    task = told["task"]
    for part in (task, *task["shifts"].values()):
        if "path" in part:
            part["path"] = place_shown(part["path"])
    if isinstance(task["metric"], dict):
        task["metric"]["load"] = place_shown(task["metric"]["load"])
    whole: dict[str, Any] = _without_empty(told)
    return whole


def _without_empty(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {key: _without_empty(v) for key, v in value.items()}
    return {key: v for key, v in inner.items() if v not in ("", {}, [])}


def recipe_text(recipe: Recipe) -> str:
    """The recipe as recipe.yaml holds it."""
    import yaml

    return str(yaml.safe_dump(recipe_values(recipe), sort_keys=False, allow_unicode=True))


def recipe_kept(folder: Path) -> Recipe | None:
    """The recipe that a folder keeps; None where it keeps none.

    Raises:
        RecipeError: if it is no valid recipe.
    """
    from hf_soups.files.plain_yaml import read_yaml

    path = folder / RECIPE_FILE
    if not path.is_file():
        return None
    told = read_yaml(path, RecipeError, what="the recipe")
    return recipe_from(told if isinstance(told, dict) else {}, where=str(path))
