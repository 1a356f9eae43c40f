"""Corpora: what is read, and what is refused."""

import json
import sysconfig
from pathlib import Path

import pytest

from tests.training.data.text_folders import opened, texts
from training.data import corpus as corpus_module
from training.data.split import survey
from training.data.tokenizer import encoder
from training.errors import InputError


def test_stdlib_is_source_code_without_its_tests():
    corpus = opened("stdlib")
    root = Path(sysconfig.get_path("stdlib"))
    names = {file.relative_to(root).as_posix() for file in corpus.files}
    assert {"argparse.py", "json/decoder.py"} <= names
    assert not any(name.startswith(("test/", "site-packages/", "encodings/")) for name in names)
    assert corpus.description.keys() == {"corpus", "python"}


def test_folder_is_read_file_by_file_and_jsonl_line_by_line(write_folder):
    lines = "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in ("één", "two\nlines"))
    folder = write_folder(
        {
            "b.md": "# B\r\n",
            "a.txt": "A",
            "sub/c.py": "c = 1\n",
            "d.jsonl": lines + "\n",
            "E.TXT": b"\xef\xbb\xbfE",
            "e.bin": b"\0",
            ".git/f.txt": "f",
        }
    )
    assert texts(folder) == ["E", "A", "# B\r\n", "één", "two\nlines", "c = 1\n"]
    assert texts(folder / "b.md") == ["# B\r\n"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": b"caf\xe9"}, "a.txt is not UTF-8 text"),
        ({"a.jsonl": b'{"text": "caf\xe9"}'}, "a.jsonl is not UTF-8 text"),
        ({"a.jsonl": '{"text": "x"}\nnonsense'}, "a.jsonl, line 2: not JSON"),
        ({"a.jsonl": '{"body": "x", "id": 1}'}, "line 1: no text in field 'text'; found: body, id"),
        ({"a.jsonl": '{"text": "\\ud800"}'}, "line 1: half a surrogate pair"),
        ({"a.jsonl": "[" * 100_000}, "line 1: not JSON"),
        ({"a.jsonl": '{"text": 3}'}, "line 1: no text in field 'text'"),
        ({"a.jsonl": "[1]"}, "line 1: no text in field 'text'; found: list"),
        ({"a.txt": "", "b.jsonl": "\n"}, "is empty: it holds no text"),
        ({"a.text": "x"}, r"holds no file of the known kinds: not read: 1 file \(.text 1\); known are .txt, .md, .py"),
    ],
)
def test_unusable_corpora_are_refused(files, message, write_folder):
    with pytest.raises(InputError, match=message):
        survey(opened(write_folder(files)))


def test_missing_corpus_and_unknown_file_are_refused(write_folder):
    folder = write_folder({"a.text": "x"})
    with pytest.raises(InputError, match="does not exist"):
        opened(folder / "none")
    with pytest.raises(InputError, match=r"is a \.text file; known are"):
        opened(folder / "a.text")


def test_text_field_is_the_one_asked_for(write_folder):
    folder = write_folder({"a.jsonl": '{"text": "no", "body": "yes"}'})
    assert texts(folder, "body") == ["yes"]


def test_a_long_text_comes_in_pieces_that_tokenize_like_the_whole(write_folder, tokenizer, monkeypatch):
    monkeypatch.setattr(corpus_module, "PIECE_CHARACTERS", 50)
    text = "def  f(x):\n\n    return x  # don't\n\t1234 \r\n" * 20 + "x" * 130 + " \n\n end"
    corpus = opened(write_folder({"a.txt": text}))
    (document,) = corpus.documents()
    pieces = list(document.pieces())
    assert "".join(pieces) == text
    assert len(pieces) > 15
    core = encoder(tokenizer)
    # 130 characters without a space cannot be cut without breaking a token; all else must be.
    prose = [piece for piece in pieces if "xxx" not in piece]
    assert [i for piece in prose for i in core.encode(piece).ids] == core.encode("".join(prose)).ids
