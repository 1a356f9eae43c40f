"""The rows of a file: lines of JSON, a JSON array, a table of commas or tabs, or parquet; one in memory at a time."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError
from .stored_text import compression_of, read_text
from .text_field import NOTHING, column_of, field_of, no_text, text_of

ROWS_TOGETHER = 256
JSON_CHARACTERS = 2**16
# A file that ends in the middle of a number or of a word such as `false` is wrong this close to its end, at most.
JSON_WORD = 16
SETTINGS_CHARACTERS = 2**20
# Of a table's cell: a quotation mark that nobody closes would take the rest of the file for one.
CELL_CHARACTERS = 2**28

# A row's text, which is empty where there is none, and its place for messages.
Row = tuple[str, str]


def json_lines(file: Path, field: str) -> Iterator[Row]:
    """The rows of a file with one JSON value a line."""
    for number, line in enumerate(read_text(file, None), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"{file}, line {number}: not JSON") from None
        place = f"{file}, line {number}"
        yield text_of(row, field, place), place


def json_rows(file: Path, field: str) -> Iterator[Row]:
    """The rows of a .json file: those of its array, or else the values in it, one after the other."""
    for number, row in enumerate(_json_values(file), start=1):
        place = f"{file}, row {number}"
        yield text_of(row, field, place), place


def is_settings(file: Path, field: str) -> bool:
    """Whether a .json file is one object without the field, such as a program's settings, and so no rows at all."""
    try:
        start = next(read_text(file, SETTINGS_CHARACTERS), "").strip()
        value = json.loads(start) if start.startswith("{") else None
    except (ValueError, RecursionError):  # the latter of JSON; InputError is one of the former
        return False
    return isinstance(value, dict) and field_of(value, field) is NOTHING


class _JSONText:
    """A file of JSON, read as far as its values need."""

    def __init__(self, file: Path):
        self._file = file
        self._chunks = read_text(file, JSON_CHARACTERS)
        self._decoder = json.JSONDecoder()
        self._text, self._at = "", 0

    def next_character(self) -> str:
        """The next one that is no space; nothing at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at].isspace():
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_on(0):
                return ""

    def skip(self) -> None:
        self._at += 1

    def value(self, number: int) -> Any:
        """The value that begins here, however long it is."""
        self.next_character()
        while True:
            try:
                value, self._at = self._decoder.raw_decode(self._text, self._at)
                return value
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or len(self._text[error.pos :].strip()) < JSON_WORD
                # As much again: a long value is not begun anew for each chunk of it.
                if not is_cut or not self._read_on(len(self._text) - self._at):
                    raise self.problem(number) from None
            except (ValueError, RecursionError):  # the former of a number of thousands of digits
                raise self.problem(number) from None

    def problem(self, number: int) -> InputError:
        return InputError(f"{self._file}, row {number}: not JSON")

    def _read_on(self, characters: int) -> bool:
        """Reads at least one chunk more, and so many characters; forgets what is done. False at the end of the file."""
        found, length = [], 0
        for chunk in self._chunks:
            found.append(chunk)
            length += len(chunk)
            if length >= characters:
                break
        self._text, self._at = self._text[self._at :] + "".join(found), 0
        return bool(found)


def _json_values(file: Path) -> Iterator[Any]:
    text, number = _JSONText(file), 1
    if text.next_character() != "[":
        while text.next_character():
            yield text.value(number)
            number += 1
        return
    text.skip()
    if text.next_character() == "]":
        text.skip()
    else:
        while True:
            yield text.value(number)
            end = text.next_character()
            if end not in (",", "]"):
                raise text.problem(number)
            text.skip()
            if end == "]":
                break
            number += 1
    if text.next_character():
        raise InputError(f"{file}: more text after the array's end: one array, or one value a line in a .jsonl file")


def table_rows(file: Path, field: str) -> Iterator[Row]:
    """The rows of a .csv or .tsv file below its header; a quoted cell may have several lines."""
    csv.field_size_limit(CELL_CHARACTERS)
    suffix = Path(file.name.lower().removesuffix(compression_of(file))).suffix
    delimiter = "\t" if suffix == ".tsv" else ","
    reader = csv.reader(read_text(file, None), delimiter=delimiter, strict=True)
    try:
        header = next((row for row in reader if row), None)
        if header is None:
            return
        if field not in header:
            raise no_text(dict.fromkeys(header), field, f"{file}, its header")
        if header.count(field) > 1:
            raise InputError(f"{file}, its header: {header.count(field)} columns are called {field}: name them apart")
        column = header.index(field)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                cells = f"{len(row)} cells, but the header has {len(header)}"
                raise InputError(f"{file}, line {reader.line_num}: {cells}: quote a text that has {delimiter!r} in it")
            yield row[column], f"{file}, line {reader.line_num}"
    except csv.Error as error:
        problem = f"{file}, line {reader.line_num}: not a table of {delimiter!r}: {error}"
        raise InputError(f"{problem}; double the quotation marks in a text, and put it in such") from None


def parquet_rows(file: Path, field: str) -> Iterator[Row]:
    """The rows of a parquet file. No other column is read: there too, a dot leads into one."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(f"{file} needs pyarrow: pip install '.[data]'") from None

    def columns(fields: Any) -> dict[str, Any]:
        return {each.name: columns(each.type) if pa.types.is_struct(each.type) else "" for each in fields}

    try:
        with pq.ParquetFile(file, pre_buffer=False) as table:
            found = columns(table.schema_arrow)
            if column_of(found, field) is None:
                raise no_text(found, field, f"{file}, its columns")
            number = 0
            for batch in table.iter_batches(ROWS_TOGETHER, columns=[field], use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    place = f"{file}, row {number}"
                    yield text_of(row, field, place), place
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as parquet: {str(error).splitlines()[0]}") from None


READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".jsonl": json_lines,
    ".json": json_rows,
    ".csv": table_rows,
    ".tsv": table_rows,
    ".parquet": parquet_rows,
}
