"""Corpora: what is read, what is refused, and how it is parted."""

import json
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from configuration.data import DataConfig
from training.data import corpus as corpus_module
from training.data.corpus import SPLITS, plan_split, split_documents, survey
from training.data.sources import open_corpus
from training.data.tokenizer import encoder
from training.errors import InputError


@pytest.fixture
def write_folder(tmp_path):
    """Writes a folder of text files: name -> text or bytes."""

    def write(files: dict[str, str | bytes]):
        folder = tmp_path / "corpus"
        for name, content in files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    return write


def opened(corpus, **fields):
    return open_corpus(DataConfig(corpus=str(corpus), **fields))


def stretches(corpus, split):
    return [stretch for found, _ in split_documents(corpus, split) for stretch in found]


def texts(folder, text_field="text") -> list[str]:
    return ["".join(document.pieces()) for document in opened(folder, text_field=text_field).documents()]


def parts(corpus, split) -> dict[str, str]:
    found = dict.fromkeys(SPLITS, "")
    for part, text, _ in stretches(corpus, split):
        found[part] += text
    return found


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
        ({"a.csv": "x"}, "holds no file of the known kinds: .txt, .md, .py, .jsonl"),
    ],
)
def test_unusable_corpora_are_refused(files, message, write_folder):
    with pytest.raises(InputError, match=message):
        survey(opened(write_folder(files)))


def test_missing_corpus_and_unknown_file_are_refused(write_folder):
    folder = write_folder({"a.csv": "x"})
    with pytest.raises(InputError, match="does not exist"):
        opened(folder / "none")
    with pytest.raises(InputError, match=r"is a \.csv file; known are"):
        opened(folder / "a.csv")


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


def test_survey_counts_and_identifies_the_text(write_folder):
    found = survey(opened(write_folder({"a.txt": "één", "b.txt": "two"})))
    assert (found.documents, found.characters, found.utf8_bytes) == (2, 6, 8)
    again = survey(opened(write_folder({"a.txt": "één", "b.txt": "twp"})))
    assert found.sha256 != again.sha256


@pytest.mark.parametrize(("kind", "documents"), [("auto", 150), ("auto", 20), ("hash", 3), ("contiguous", 1)])
def test_parts_hold_all_text_and_none_is_empty(kind, documents, write_folder):
    folder = write_folder({f"{n:03}.txt": f"document {n} " * 40 + "\n" for n in range(documents)})
    corpus = opened(folder)
    split = plan_split(kind, None, survey(corpus))
    assert split.kind == {150: "hash", 20: "contiguous", 3: "hash", 1: "contiguous"}[documents]
    found = parts(corpus, split)
    assert all(found.values())
    assert sorted("".join(found.values())) == sorted("".join(texts(folder)))
    if split.kind == "contiguous":
        assert found["train"] + found["validation"] + found["test"] == "".join(texts(folder))


def test_fractions_are_kept(write_folder):
    folder = write_folder({"a.txt": "word " * 2000})
    corpus = opened(folder)
    found = parts(corpus, plan_split("contiguous", [0.7, 0.2, 0.1], survey(corpus)))
    assert {part: round(len(text) / 10_000, 2) for part, text in found.items()} == {
        "train": 0.7,
        "validation": 0.2,
        "test": 0.1,
    }
    assert not found["validation"].startswith("ord")  # no word is cut


def test_split_by_hash_does_not_depend_on_names_or_order(write_folder):
    names = [*(f"a/{n}.txt" for n in range(40)), *(f"b/{39 - n}.txt" for n in range(40))]
    write_folder({name: f"text {name.split('/')[1]}" for name in names})
    homes = []
    for folder in ("a", "b"):
        corpus = opened(write_folder({}) / folder)
        split = plan_split("hash", [0.6, 0.2, 0.2], survey(corpus))
        homes.append({text: part for part, text, _ in stretches(corpus, split)})
    assert homes[0] == homes[1]
    assert Counter(homes[0].values()) == {"train": 24, "validation": 8, "test": 8}


def test_identical_documents_fall_into_the_same_part(write_folder):
    folder = write_folder({f"{n}.txt": f"text {n % 10}" for n in range(40)})
    corpus = opened(folder)
    split = plan_split("hash", [0.6, 0.2, 0.2], survey(corpus))
    homes = {}
    for part, text, _ in stretches(corpus, split):
        homes.setdefault(text, set()).add(part)
    assert all(len(found) == 1 for found in homes.values())
    assert Counter(part for (part,) in homes.values()) == {"train": 6, "validation": 2, "test": 2}


def test_hash_split_of_a_large_corpus_uses_fixed_thresholds(write_folder, monkeypatch):
    monkeypatch.setattr(corpus_module, "MAX_KEPT_HASHES", 20)
    folder = write_folder({f"{n}.txt": f"text {n}" for n in range(30)})
    found = survey(opened(folder))
    assert found.document_hashes is None
    assert plan_split("hash", [0.5, 0.25, 0.25], found).boundaries == (0.5, 0.75)


def test_hash_split_of_two_documents_is_refused(write_folder):
    found = survey(opened(write_folder({"a.txt": "a", "b.txt": "b", "c.txt": "b"})))
    with pytest.raises(InputError, match="needs 3 different documents, but the corpus has 2"):
        plan_split("hash", None, found)


def test_documents_end_once_and_cut_ones_in_their_last_part(write_folder):
    corpus = opened(write_folder({"a.txt": "a b " * 100, "b.txt": "c d " * 100}))
    split = plan_split("contiguous", [0.7, 0.2, 0.1], survey(corpus))
    assert [(part, ends) for part, _, ends in stretches(corpus, split)] == [
        ("train", True),
        ("train", False),
        ("validation", False),
        ("test", True),
    ]


@pytest.mark.parametrize("fractions", [[0.02, 0.9, 0.08], [0.08, 0.02, 0.9], [0.34, 0.33, 0.33], [0.98, 0.01, 0.01]])
@pytest.mark.parametrize("documents", [3, 4, 5, 9, 40])
def test_a_split_by_hash_leaves_no_part_empty_whatever_the_fractions(documents, fractions, write_folder):
    corpus = opened(write_folder({f"{n:02}.txt": f"text {n}" for n in range(documents)}))
    split = plan_split("hash", fractions, survey(corpus))
    counts = Counter(part for part, _, _ in stretches(corpus, split))
    assert counts.total() == documents
    assert all(counts[part] >= 1 for part in SPLITS)
    if documents == 40:
        assert [counts[part] / documents for part in SPLITS] == pytest.approx(fractions, abs=1.5 / documents)
