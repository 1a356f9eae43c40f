"""
The one loader of run recipes.

A recipe is flat YAML. Its keys are the fields of several dataclasses: those that a program's recipe class names as its
parts, and the library's `TrainingArguments`. A recipe file may start from another one (`base`). Any field can be
overridden as `--field value`. Everything is checked here, once; all problems are reported together.
"""

import dataclasses
import difflib
import functools
import os
import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, TrainingArguments

from .fields import describe, from_recipe
from .optimization import OptimizationConfig
from .other_names import OTHER_NAMES
from .recipe_file import RecipeError, read_recipe_file
from .training_arguments import RANGES, REFUSED, STEPS_OR_SHARES, problems_of_strategies
from .yaml_values import Plain

TRAINING = "training"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A checked recipe. A program's own is a subclass, whose fields are further parts: dataclasses of its settings.

    Args:
        optimization: how the weights are changed.
        training: a value for every field of `arguments_class` that a recipe may set.

    Attributes:
        arguments_class: `TrainingArguments`, or a subclass of it that a program's Trainer wants.
        refused: field -> why a recipe cannot set it.
        ranges: field -> its smallest and largest value, for fields of classes that are not ours.
        widened: field of `arguments_class` -> the type that it has in a recipe, where that is another one.
    """

    optimization: OptimizationConfig
    training: dict[str, Any]

    arguments_class: ClassVar[type[TrainingArguments]] = TrainingArguments
    refused: ClassVar[dict[str, str]] = REFUSED
    ranges: ClassVar[dict[str, tuple[float, float]]] = RANGES
    widened: ClassVar[dict[str, Any]] = {}

    @classmethod
    def values_named_by(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Values that a recipe has by naming something, such as a model's size; it may set each of them itself.

        Raises:
            RecipeError: there is nothing of that name.
        """
        return {}

    def matrix_width(self) -> int:
        """The width of the model's matrices, which the device's rates are measured for; it matters below 256."""
        return 256

    @classmethod
    @functools.cache
    def parts(cls) -> dict[str, dict[str, Any]]:
        """Part -> field -> annotation, the library's arguments last."""
        own = {
            name: _fields_of(kind)
            for name, kind in typing.get_type_hints(cls).items()
            if dataclasses.is_dataclass(kind) and name != "optimization"
        }
        cls._refuse_names_given_twice()
        parts = {**own, "optimization": _fields_of(OptimizationConfig)}
        known = cls.refused.keys() | {name for fields in own.values() for name in fields}
        parts[TRAINING] = {
            name: kind
            for name, kind in typing.get_type_hints(cls.arguments_class).items()
            if name in cls.arguments_class.__dataclass_fields__ and name not in known
        } | cls.widened
        return {part: {n: k for n, k in fields.items() if n not in cls.refused} for part, fields in parts.items()}

    @classmethod
    def _refuse_names_given_twice(cls) -> None:
        """Raises TypeError where a part calls a setting like another part does, or like the library's arguments.

        A model's config may: what both it and the arguments have, such as `use_cache`, is the model's.
        """
        parts = [kind for kind in typing.get_type_hints(cls).values() if dataclasses.is_dataclass(kind)]
        classes = [*(part for part in parts if not issubclass(part, PreTrainedConfig)), cls.arguments_class]
        names = [declared.name for each in classes for declared in dataclasses.fields(each)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise TypeError(f"{cls.__name__} has {', '.join(twice)} twice: call the program's own setting otherwise")

    @classmethod
    @functools.cache
    def settings(cls) -> dict[str, Any]:
        """Every key of a recipe -> its annotation."""
        return {name: kind for fields in cls.parts().values() for name, kind in fields.items()}

    @classmethod
    def part_class(cls, part: str) -> type:
        return typing.get_type_hints(cls)[part]

    @classmethod
    @functools.cache
    def declarations(cls) -> dict[str, dataclasses.Field]:
        """Field -> what its dataclass says of it."""
        classes = [*(cls.part_class(part) for part in cls.parts() if part != TRAINING), cls.arguments_class]
        return {declared.name: declared for each in classes for declared in dataclasses.fields(each)}

    @classmethod
    def problem_of_unknown(cls, key: str) -> str:
        if key in cls.refused:
            return f"{key} {cls.refused[key]}"
        name = key.replace("-", "_").lower()
        other = OTHER_NAMES.get(name, "")
        if re.match(r"\w*", other)[0] in cls.settings():
            return f"{key} is no setting: did you mean {other}?"
        close = difflib.get_close_matches(name, cls.settings(), n=1)
        return f"{key} is no setting" + (f": did you mean {close[0]}?" if close else "; --help lists them all")

    @classmethod
    def load(cls, path: Path | None, overrides: dict[str, str], unknown: list[str] | None = None) -> Self:
        """Reads a recipe file, applies `--field value` overrides, fills in defaults and checks everything.

        Args:
            path: the YAML file; `None` where the overrides say it all.
            overrides: field name -> text as typed on the command line.
            unknown: takes the names of what is no setting, or has no value that it can have, which is then left out;
                for what another version of the library has saved. `None`: that is an error.

        Raises:
            RecipeError: listing every problem found.
        """
        problems: list[str] = []
        values = cls._read(path, overrides, problems, unknown)
        cls._check_values(values, problems)
        named: dict[str, Any] = {}
        try:
            named = cls.values_named_by(values)
        except RecipeError as error:
            problems.append(str(error))
        if problems:
            raise RecipeError("\n".join(problems))

        built = {}
        for part, fields in cls.parts().items():
            if part == TRAINING:
                built[part] = {name: values.get(name, cls._default(name)) for name in fields}
                continue
            given = {name: (named | values)[name] for name in fields if name in named or name in values}
            try:
                built[part] = cls.part_class(part)(**given)
            except ValueError as error:
                problems.append(str(error))
            except StrictDataclassError as error:
                problems += str(error.__cause__ or error).split("; ")
        if problems:
            raise RecipeError("\n".join(problems))
        return cls(**built)

    @classmethod
    def _read(
        cls, path: Path | None, overrides: dict[str, str], problems: list[str], unknown: list[str] | None
    ) -> dict[str, Any]:
        """The values that are set, in their types, but for the epochs beside `max_steps`, which counts alone."""
        said: dict[str, tuple[int, Any]] = {}  # with its place among the sources, of which a later one wins
        typed = {key: Plain(text) for key, text in overrides.items()}
        for place, source in enumerate([*(read_recipe_file(path) if path else []), typed]):
            said |= {key: (place, value) for key, value in source.items()}
        values, settings = {}, cls.settings()
        for key, (_, value) in said.items():
            if key not in settings:
                problems.append(cls.problem_of_unknown(key)) if unknown is None else unknown.append(key)
                continue
            try:
                values[key] = from_recipe(value, settings[key])
            except TypeError:
                if unknown is not None:
                    unknown.append(key)
                    continue
                kind = "str" if isinstance(value, Plain) else type(value).__name__
                problems.append(f"{key} is {value!r} ({kind}), but must be {describe(settings[key])}")
        if values.get("max_steps", -1) != -1 and "num_train_epochs" in values:
            epochs = values.pop("num_train_epochs")
            # Steps that a later source asks for are meant to count; older versions recorded both.
            if said["num_train_epochs"][0] >= said["max_steps"][0] and unknown is None:
                problems.append(
                    f"num_train_epochs is {epochs}, but max_steps is {values['max_steps']} and would count alone: "
                    "leave one of them out, or set max_steps to -1"
                )
        # A shell does it in its own words alone: not after `=`, in quotation marks or in a recipe file.
        return values | {name: _expanded(values[name]) for name in cls._paths() if values.get(name)}

    @classmethod
    def _check_values(cls, values: dict[str, Any], problems: list[str]) -> None:
        """Adds what is out of its range or missing."""
        problems += [
            f"{name} is {value!r}, which is no text in UTF-8: name it otherwise"
            for name, value in values.items()
            if not all(_is_utf8(text) for text in (value if isinstance(value, list) else [value]))
        ]
        ranges = {name: declared.metadata.get("within") for name, declared in cls.declarations().items()} | cls.ranges
        for name, (low, high) in sorted((name, within) for name, within in ranges.items() if within is not None):
            value = values.get(name)
            # -1 is how TrainingArguments says "not set": num_train_epochs counts then.
            if value is not None and not low <= value <= high and (name, value) != ("max_steps", -1):
                problems.append(f"{name} is {value}, but must be between {low} and {high}")
        problems += [
            f"{name} is {values[name]}, but must be a share below 1 or a whole number of steps"
            for name in STEPS_OR_SHARES
            if (values.get(name) or 0) > 1 and values[name] != int(values[name])
        ]
        problems += problems_of_strategies(values)
        required = [name for name in cls.settings() if cls._default(name) is dataclasses.MISSING]
        for name in (*required, "output_dir"):
            if values.get(name) in (None, "") and not any(problem.startswith(f"{name} ") for problem in problems):
                problems.append(f"{name} is missing")

    @classmethod
    def _default(cls, name: str) -> Any:
        declared = cls.declarations()[name]
        return declared.default if declared.default_factory is dataclasses.MISSING else declared.default_factory()

    def as_dict(self) -> dict[str, Any]:
        """Every setting with its resolved value, in the form of a recipe file. Absolute paths become portable ones."""
        values = {}
        for part, fields in self.parts().items():
            held = getattr(self, part)
            values |= {name: held[name] if part == TRAINING else getattr(held, name) for name in fields}
        return values | {name: portable(values[name]) for name in self._paths() if values[name] is not None}

    @classmethod
    def _paths(cls) -> list[str]:
        """The fields that may name a place on this machine."""
        return [*(name for name, each in cls.declarations().items() if each.metadata.get("is_path")), "output_dir"]

    def dump(self) -> str:
        """The resolved recipe as YAML that [`load`] reads back to the same recipe."""
        values = self.as_dict()
        if self.training["max_steps"] != -1:
            del values["num_train_epochs"]  # beside it, it counts for nothing and is refused
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

    def differences(self, saved: Path) -> tuple[dict[str, tuple[Any, Any]], list[str]]:
        """What this recipe says otherwise than the saved recipe file.

        Returns:
            Field -> its value there and here; and the saved fields that this version of the library does not know.
        """
        unknown: list[str] = []
        old = self.load(saved, {}, unknown).as_dict()
        changes = {key: (old[key], value) for key, value in self.as_dict().items() if old[key] != value}
        return {key: values for key, values in changes.items() if key not in unknown}, unknown


def _fields_of(part: type) -> dict[str, Any]:
    """Field -> annotation. Of a model's config only what its own class declares: the library's base class has fields
    that are no part of an architecture."""
    return part.__annotations__ if issubclass(part, PreTrainedConfig) else typing.get_type_hints(part)


def _is_utf8(value: Any) -> bool:
    """False for text of other bytes, as a shell passes them on from the name of a file: it cannot be written down."""
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def _expanded(path: str | list[str]) -> str | list[str]:
    return [os.path.expanduser(each) for each in path] if isinstance(path, list) else os.path.expanduser(path)


def portable(path: str | list[str]) -> str | list[str]:
    """Relative to the current folder if inside, else the last part alone: records name no user and no machine."""
    if isinstance(path, list):
        return [portable(each) for each in path]
    if path.startswith("~") or ".." in Path(path).parts:
        return Path(path).name
    if not Path(path).is_absolute():
        return path
    return Path(path).relative_to(Path.cwd()).as_posix() if Path(path).is_relative_to(Path.cwd()) else Path(path).name
