"""Recipe files: flat YAML, which may start from another file of the same folder by the key `base`."""

from pathlib import Path
from typing import Any

import yaml

from .yaml_values import DuplicateKeyError, Plain, read_mapping

RESOLVED = "recipe.yaml"  # in a run folder: the settings that the run was begun with, every default written out


class RecipeError(ValueError):
    """The recipe cannot be used; the message lists every problem, one a line."""


def read_recipe_file(path: Path) -> list[dict[str, Any]]:
    """The keys and values of a recipe file, unchecked, after those of the recipe that its `base` names, and so on.

    What stands later wins.

    Raises:
        RecipeError: a file is missing or no recipe, or starts from itself.
    """
    files: list[Path] = []
    sources: list[dict[str, Any]] = []
    while True:
        if path in files:
            raise RecipeError("recipes start from each other: " + " -> ".join(file.name for file in [*files, path]))
        if files and not path.is_file():
            known = ", ".join(sorted(file.name for file in path.parent.glob("*.yaml")))
            raise RecipeError(f"recipe {files[-1]} has base {path.name}, but the recipes beside it are: {known}")
        files.append(path)
        found = _read_yaml(path)
        base = found.pop("base", None)
        sources.insert(0, found)
        if base is None or (isinstance(base, Plain) and base.lower() in ("null", "~", "")):
            return sources
        if not isinstance(base, str) or not base or Path(base := str(base)).name != base:
            raise RecipeError(f"recipe {path} has base {base!r}, but must name a file of the same folder")
        path = path.with_name(base)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = read_mapping(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"recipe {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} cannot be read: {error}") from None
    except DuplicateKeyError as error:
        raise RecipeError(f"recipe {path} {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"recipe {path} must hold `key: value` lines, but holds {type(values).__name__}")
    return values
