"""
Fields of dataclasses as settings: what is said of each, and the values that YAML or a command line gives them, turned
into the types that the fields are annotated with.
"""

import dataclasses
import enum
import math
import types
import typing
from typing import Any, Literal

import yaml

from .yaml_values import DuplicateKeyError, Plain, read_value


def setting(
    help: str, default: Any = dataclasses.MISSING, within: tuple[float, float] | None = None, is_path: bool = False
) -> Any:
    """A field of a recipe's part; one without a default must be in every recipe.

    Args:
        help: what `--help` says of it.
        within: the smallest and the largest value.
        is_path: it may name a place on this machine, so that saved records shorten it.
    """
    return dataclasses.field(default=default, metadata={"help": help, "within": within, "is_path": is_path})


def members(annotation: Any) -> tuple[Any, ...]:
    """`int | None` -> (int, NoneType); a plain type -> itself."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def describe(annotation: Any) -> str:
    """The annotation's types in words, for messages."""
    parts = []
    for member in members(annotation):
        if typing.get_origin(member) is Literal:
            parts += [str(value) for value in typing.get_args(member)]
        elif isinstance(member, type) and issubclass(member, enum.Enum):
            return "one of " + ", ".join(str(value.value) for value in member)
        elif member is type(None):
            parts.append("null")
        else:
            parts.append(getattr(member, "__name__", str(member)) if not typing.get_args(member) else str(member))
    return " or ".join(parts)


def convert(value: Any, annotation: Any) -> Any:
    """`value` as one of the annotation's types. Raises TypeError where it is none of them."""
    allowed = members(annotation)
    enums = [member for member in allowed if isinstance(member, type) and issubclass(member, enum.Enum)]
    if enums:  # annotated `Enum | str` in the library, which accepts any string there and fails later
        if value in [choice.value for choice in enums[0]]:
            return value
        raise TypeError
    for member in allowed:
        origin = typing.get_origin(member)
        if origin is Literal:
            if any(value == choice and type(value) is type(choice) for choice in typing.get_args(member)):
                return value
        elif origin is list:
            if isinstance(value, list):
                return [convert(item, typing.get_args(member)[0]) for item in value]
        elif member is float:
            try:
                number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
            except OverflowError:
                number = None
            if number is not None and math.isfinite(number):
                return value if isinstance(value, int) and int in allowed else number
        elif member is int:
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        elif isinstance(value, origin or member):
            return value
    raise TypeError


def from_recipe(value: Any, annotation: Any) -> Any:
    """A value of a recipe file or of a command line. What is not in quotes is read alike in both: as what YAML sees in
    it if that fits the field, else as text if text fits; so `no` is false in one field and the word in another.

    Raises:
        TypeError: it is none of the annotation's types.
    """
    if not isinstance(value, Plain):
        return convert(value, annotation)
    text = str(value)
    try:
        parsed = read_value(text)
    except DuplicateKeyError:
        raise TypeError from None
    except (yaml.YAMLError, ValueError):
        parsed = text
    if isinstance(parsed, list) and any(typing.get_origin(member) is list for member in members(annotation)):
        return convert(parsed, annotation)  # a list with something wrong in it is no text
    without_text = tuple(member for member in members(annotation) if member is not str)
    try:
        return convert(parsed, typing.Union[without_text]) if without_text else convert(text, str)  # noqa: UP007
    except TypeError:
        return convert(text, annotation)
