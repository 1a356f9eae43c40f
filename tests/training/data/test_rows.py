"""Rows of JSON, tables and parquet: each is a document, what has no text is skipped, and what is wrong is refused."""

import csv
import json
import random
from pathlib import Path

import pytest

from tests.training.data.text_folders import opened, texts
from training.data import rows
from training.errors import InputError


@pytest.fixture
def table(tmp_path):
    """Writes a.parquet in row groups of three."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def write(values: list, column: str = "text", **others: list) -> Path:
        columns = {"id": list(range(len(values))), column: values} | others
        folder = tmp_path / "table"
        folder.mkdir(exist_ok=True)
        parquet.write_table(pyarrow.table(columns), folder / "a.parquet", row_group_size=3)
        return folder

    return write


def test_a_table_holds_one_document_a_row(table):
    documents = [f"document {number} één" for number in range(10)]
    assert texts(table(documents)) == documents
    assert texts(table(documents, "body"), "body") == documents


@pytest.mark.parametrize(
    ("values", "column", "message"),
    [
        (["a"], "body", r"a\.parquet, its columns: no text in field 'text'; found: id, body; set text_field"),
        ([1, 2], "text", r"a\.parquet, row 1: no text in field 'text'; found: int"),
        ([{"b": "x", "c": {"d": "y"}}], "a", r"no text in field 'text'; found: id, a\.b, a\.c\.d; set text_field"),
    ],
)
def test_tables_without_text_are_refused(values, column, message, table):
    with pytest.raises(InputError, match=message):
        texts(table(values, column))


def test_a_damaged_table_is_refused(table):
    folder = table(["a"])
    (folder / "a.parquet").write_bytes((folder / "a.parquet").read_bytes()[:-9])
    with pytest.raises(InputError, match=r"a\.parquet cannot be read as parquet"):
        texts(folder)


def test_a_dot_leads_into_a_row_unless_a_name_has_it_itself(write_folder, table):
    pages = [{"page": {"body": {"de": "eins"}}}, {"page": {"body": {"de": "no"}}, "page.body": {"de": "zwei"}}]
    folder = write_folder({"a.jsonl": "".join(json.dumps(page) + "\n" for page in pages)})
    assert texts(folder, "page.body.de") == ["eins", "zwei"]
    with pytest.raises(InputError, match=r"line 1: no text in field 'page.title'; found: page\.body\.de; set"):
        texts(folder, "page.title")
    nested = [{"body": "eins", "id": 1}, {"body": "zwei", "id": 2}]
    assert texts(table(nested, "page"), "page.body") == ["eins", "zwei"]
    assert texts(table(nested, "page", **{"page.body": ["drei", "vier"]}), "page.body") == ["drei", "vier"]


def test_rows_without_text_are_skipped_and_counted(write_folder, table):
    lines = [{"text": "0"}, {"text": None}, {"text": ""}, {"text": "1", "id": 1}, None]
    folder = write_folder(
        {
            "a.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
            "b.json": json.dumps([{"text": None}, "2"]),
            "c.csv": "id,text\n1,\n\n2,3\n",
        }
    )
    corpus = opened(folder)
    for skip in (0, 2):
        found = ["".join(document.pieces()) for document in corpus.documents(skip)]
        assert found == ["0", "1", "2", "3"][skip:]
        assert corpus.rows_without_text == 5
    assert texts(table([None, "4", ""])) == ["4"]
    assert texts(table([None, {"b": None}, {"b": "5"}], "a"), "a.b") == ["5"]


@pytest.mark.parametrize("layout", ["array", "indented", "lines", "objects"])
def test_json_is_read_in_chunks_of_any_length(layout, write_folder, monkeypatch):
    monkeypatch.setattr(rows, "JSON_CHARACTERS", 5)
    choose = random.Random(0)
    strings = ["é", "\U0001f600", '"\\', "a, b]", "}{", "\n", " " * 30, "x" * 70]
    documents = ["".join(choose.choices(strings, k=choose.randrange(1, 6))) for _ in range(40)]
    values = [{"n": [1.5e-3, -2, True, None, {}], "text": text, "b": [[]]} for text in documents]
    content = {
        "array": json.dumps(values),
        "indented": json.dumps(values, indent=20, ensure_ascii=False),
        "lines": "\n".join(map(json.dumps, values)),
        "objects": "\n\n".join(json.dumps(value, indent=2) for value in values),
    }[layout]
    assert texts(write_folder({"a.json": f" \n{content}\n"})) == documents


def test_one_object_and_an_empty_array_are_json_too(write_folder):
    assert texts(write_folder({"a.json": '{"text": "only"}'})) == ["only"]
    assert texts(write_folder({"a.json": " [ ] "})) == []
    assert texts(write_folder({"a.json": ""})) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"instruction": "a", "output": "b"}]', "row 1: no text in field 'text'; found: instruction, output; set"),
        ('["a", 3]', "row 2: no text in field 'text'; found: int"),
        ('["a", "b"', "row 2: not JSON"),
        ('["a" "b"]', "row 1: not JSON"),
        ('["a",]', "row 2: not JSON"),
        ('["a"] x', "more text after the array's end"),
        ('{"text": "a"}\n{"text": "b', "row 2: not JSON"),
        ("[" * 100_000, "row 1: not JSON"),
        (f'["a", {"9" * 5_000}]', "row 2: not JSON"),
        ('["\\ud800"]', "row 1: half a surrogate pair"),
    ],
)
def test_json_that_is_no_rows_of_text_is_refused(content, message, write_folder):
    with pytest.raises(InputError, match=rf"a\.json(, |: ){message}"):
        texts(write_folder({"a.json": content}))


def test_json_is_read_no_further_than_its_rows_need(write_folder, monkeypatch):
    monkeypatch.setattr(rows, "JSON_CHARACTERS", 50)
    chunks = []
    read_text = rows.read_text
    monkeypatch.setattr(
        rows, "read_text", lambda *where: (chunks.append(chunk) or chunk for chunk in read_text(*where))
    )
    file = write_folder({"a.json": json.dumps([{"text": "one"}] * 1000)}) / "a.json"
    assert next(rows.json_rows(file, "text"))[0] == "one"
    assert len(chunks) == 1
    chunks.clear()
    file.write_text('["one", nonsense, ' + file.read_text())
    with pytest.raises(InputError, match="row 2: not JSON"):
        list(rows.json_rows(file, "text"))
    assert len(chunks) < 3


def test_a_table_of_text_has_quoted_cells_of_any_length(write_folder):
    documents = ['two\r\nlines, "quoted"', "tab\tand, comma", "long " * 50_000]
    folder = write_folder({"c.md": "0"})
    for name, dialect in (("a.csv", csv.excel), ("b.tsv", csv.excel_tab)):
        with (folder / name).open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file, dialect).writerows([["text", "id"], *((text, 1) for text in documents)])
    assert texts(folder) == [*documents, *documents, "0"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "id,body\n1,x", r"a\.csv, its header: no text in field 'text'; found: id, body; set text_field"),
        ("a.csv", "id,text\n1,a, b", r"a\.csv, line 2: 3 cells, but the header has 2: quote a text that has ',' in it"),
        ("a.csv", "id,text\n1", r"a\.csv, line 2: 1 cells, but the header has 2"),
        ("a.csv", "text,id,text\na,1,b", r"a\.csv, its header: 2 columns are called text: name them apart"),
        ("a.csv", 'text\n"a', r"a\.csv, line 2: not a table of ',': unexpected end of data"),
        ("a.tsv", 'text\n"a" b', r"a\.tsv, line 2: not a table of '\\t': .*; double the quotation marks"),
    ],
)
def test_tables_that_would_lose_text_are_refused(name, content, message, write_folder):
    with pytest.raises(InputError, match=message):
        texts(write_folder({name: content}))


def test_a_quotation_mark_that_nobody_closes_does_not_fill_the_memory(write_folder, monkeypatch):
    monkeypatch.setattr(rows, "CELL_CHARACTERS", 100)
    with pytest.raises(InputError, match=r"a\.csv, line .*field larger than field limit"):
        texts(write_folder({"a.csv": 'text\n"a\n' + "b\n" * 9999}))
