"""The field of a row that holds its text, in rows of any kind: of a table, of lines, or of a dataset on the Hub."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import InputError

NOTHING = object()
MOST_NAMED = 20


class NoTextError(InputError):
    """A row has no such field, or something else in it."""


def field_of(record: Mapping[str, Any], field: str) -> Any:
    """What a row has under `field`, or `NOTHING`. A dot leads into a row in it, unless a name has that dot itself."""
    if field in record:
        return record[field]
    for outer, rest in _ways_in(field):
        inner = record.get(outer, NOTHING)
        if inner is None:
            return None
        if isinstance(inner, Mapping) and (found := field_of(inner, rest)) is not NOTHING:
            return found
    return NOTHING


def column_of(columns: Mapping[str, Any], field: str) -> str | None:
    """The column in which [`field_of`] finds the field; `None`: in none.

    Args:
        columns: name -> the columns in it, or anything else where it has none.
    """
    if field_of(columns, field) is NOTHING:
        return None
    if field in columns:
        return field
    return next(outer for outer, _ in _ways_in(field) if outer in columns)


def _ways_in(field: str) -> Iterator[tuple[str, str]]:
    """`a.b.c` -> (a.b, c), (a, b.c)"""
    place = len(field)
    while (place := field.rfind(".", 0, place)) >= 0:
        yield field[:place], field[place + 1 :]


def text_of(row: Any, field: str, place: str) -> str:
    """The row's text: the row itself where that is text, or its field; nothing where that is null.

    Args:
        place: says where it came from, for the error.

    Raises:
        NoTextError: the row has no such field, or something else in it.
    """
    found = field_of(row, field) if isinstance(row, Mapping) else row
    if found is None:
        return ""
    if isinstance(found, str):
        return found
    raise no_text(row if found is NOTHING else type(found).__name__, field, place)


def no_text(found: Mapping[str, Any] | str, field: str, place: str) -> NoTextError:
    """Says what fields there are, or what else is in it."""
    if not isinstance(found, str):
        names = list(_names(found))
        found = ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if names[MOST_NAMED:] else "")
    problem = f"{place}: no text in field {field!r}; found: {found}"
    return NoTextError(f"{problem}; set text_field to the one that holds the text")


def _names(row: Mapping[str, Any]) -> Iterator[str]:
    for name, value in row.items():
        yield from (f"{name}.{inner}" for inner in _names(value)) if isinstance(value, Mapping) and value else [name]
