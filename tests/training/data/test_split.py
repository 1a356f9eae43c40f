"""How a corpus is parted: all of it, in parts that are never empty, the same way every time."""

from collections import Counter

import pytest

from tests.training.data.text_folders import opened, texts
from training.data import split as split_module
from training.data.split import SPLITS, plan_split, split_documents, survey
from training.errors import InputError


def stretches(corpus, split):
    return [stretch for found, _ in split_documents(corpus, split) for stretch in found]


def parts(corpus, split) -> dict[str, str]:
    found = dict.fromkeys(SPLITS, "")
    for part, text, _ in stretches(corpus, split):
        found[part] += text
    return found


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


def test_a_line_without_spaces_is_parted_too(write_folder):
    corpus = opened(write_folder({"a.txt": "漢字" * 1000}))
    found = parts(corpus, plan_split("contiguous", None, survey(corpus)))
    assert {part: len(text) for part, text in found.items()} == {"train": 1800, "validation": 100, "test": 100}


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
    monkeypatch.setattr(split_module, "MAX_KEPT_HASHES", 20)
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
