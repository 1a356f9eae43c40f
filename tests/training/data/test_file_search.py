"""Which files a folder or a pattern means, and that what is not read is said."""

import json
import shutil
from pathlib import Path

import pytest

from tests.training.data.tales import prepare
from tests.training.data.text_folders import opened, texts
from training.data.work_folder import work_on
from training.errors import InputError, UnavailableError


def names(corpus: Path | str, root: Path) -> list[str]:
    return [file.relative_to(root).as_posix() for file in opened(corpus).files]


TREE = ["a.txt", "b.md", "sub/c.txt", "sub/deep/d.txt", "sub/deep/e.csv", ".hidden/f.txt", "sub/.g.txt"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.txt", ["a.txt"]),
        ("*", ["a.txt", "b.md"]),
        ("*/*.txt", ["sub/c.txt"]),
        ("**/*.txt", ["a.txt", "sub/c.txt", "sub/deep/d.txt"]),
        ("sub/**", ["sub/c.txt", "sub/deep/d.txt", "sub/deep/e.csv"]),
        ("**/deep/[d-e].*", ["sub/deep/d.txt", "sub/deep/e.csv"]),
        ("s?b/**/**/d.txt", ["sub/deep/d.txt"]),
        (".hidden/*", [".hidden/f.txt"]),
        ("*/deep/d.txt", ["sub/deep/d.txt"]),
    ],
)
def test_a_pattern_means_the_files_that_match(pattern, expected, write_folder):
    folder = write_folder(dict.fromkeys(TREE, "text\nx"))
    assert names(folder / pattern, folder) == expected
    assert opened(folder / pattern).name == {"sub/**": "sub", ".hidden/*": ".hidden"}.get(pattern, "corpus")


def test_a_pattern_without_a_match_is_refused_and_a_name_may_look_like_one(write_folder):
    folder = write_folder({"[1]/a.txt": "a", "1/b.txt": "b"})
    assert texts(folder / "[1]") == texts(folder / "[1]/*.txt") == ["a"]
    assert texts(folder / "[0-9]/*.txt") == ["b"]
    for pattern in ("*.txt", "none/*", "[1]/a.txt/*", "[1]/none"):
        with pytest.raises(UnavailableError, match="holds no file of the known kinds"):
            opened(folder / pattern)


def test_links_are_followed_and_every_file_is_read_once(write_folder, tmp_path):
    folder = write_folder({"a.txt": "a", "z/b.txt": "b"})
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "c.txt").write_text("c")
    for link, target in {
        "more": outside,
        "again": outside,
        "early": folder / "z",  # a folder keeps its own name
        "copy.txt": folder / "a.txt",
        "z/round": folder,
        "gone": tmp_path / "nothing",
        "itself": folder / "itself",
    }.items():
        (folder / link).symlink_to(target)
    (outside / "back").symlink_to(folder)
    assert names(folder, folder) == ["a.txt", "again/c.txt", "z/b.txt"]
    assert names(folder / "*/*.txt", folder) == ["again/c.txt", "early/b.txt"]
    assert not opened(folder).not_read
    (folder / "z/up").symlink_to(tmp_path)
    assert names(folder, folder) == ["a.txt", "again/c.txt", "z/b.txt"]
    assert opened(folder).not_read == "corpus corpus: not read: 1 folder (link to a folder above the corpus 1)"


def test_what_is_not_read_is_said_in_a_line_with_its_number(write_folder):
    files = {"a.txt": "a", "b.PDF": "b", "c.text": "c", "d.text": "d", "LICENSE": "e", "settings.json": '{"n": 1}\n'}
    files |= {"lines.json": '{"text": "f"}\n{"text": "g"}', "node_modules/h.md": "h", "x/__pycache__/i.txt": "i"}
    files |= {"venv/pyvenv.cfg": "", "venv/lib/j.py": "j"}
    corpus = opened(write_folder(files))
    assert ["".join(document.pieces()) for document in corpus.documents()] == ["a", "f", "g"]
    assert corpus.description == {"corpus": "corpus", "files": 2}
    said = corpus.not_read
    assert said.startswith(
        "corpus corpus: not read: 5 files (.text 2, .json without 'text' 1, .pdf 1, without an ending 1); known are "
    )
    assert said.endswith("; and 3 folders (__pycache__ 1, node_modules 1, virtual environment 1)")


def test_the_line_stays_short_however_many_kinds_there_are(write_folder):
    corpus = opened(write_folder({"a.txt": "a"} | {f"b.{number}": "b" for number in range(99)}))
    assert ", .15 1, others 91); known are" in corpus.not_read
    assert len(corpus.not_read) < 300


def test_settings_beside_rows_are_no_text_but_a_file_that_is_named_must_have_some(write_folder):
    folder = write_folder({"a.txt": "a", "settings.json": '{"n": 1}', "rows.json": '[{"n": 1}]'})
    with pytest.raises(InputError, match=r"settings\.json, row 1: no text in field 'text'; found: n"):
        texts(folder / "settings.json")
    with pytest.raises(InputError, match=r"rows\.json, row 1: no text in field 'text'; found: n; set text_") as refused:
        texts(folder)
    assert texts(str(refused.value).split("'")[-2]) == ["a"]  # as it says


def test_runs_and_prepared_data_inside_a_corpus_do_not_belong_to_it(run_config, texts, tmp_path):
    before = opened(texts).signature()
    run = texts / "runs" / "a"
    (run / "model").mkdir(parents=True)
    for name in ("recipe.yaml", "run.json", "metrics.jsonl", "model/README.md", "model/config.json"):
        (run / name).write_text("{}")
    said = []
    first = prepare(run_config(data_dir=str(texts / "data")), said.append)
    assert said[0] == "corpus texts: not read: 1 folder (run 1)"
    shutil.copytree(first.folder, tmp_path / "copy")
    with work_on(texts / "data" / "other", said.append) as work:  # left as by a process that was cut off
        work.clear()
        (work.data / "notes.md").write_text("x")
    corpus = opened(texts)
    assert corpus.signature() == before
    assert corpus.not_read == "corpus texts: not read: 3 folders (prepared data 2, run 1)"
    assert json.loads((first.folder / "manifest.json").read_text())["corpus"]["files"] == 60
    (run / "run.json").unlink()  # a folder of somebody else
    assert opened(texts).signature() != before


def test_rows_without_text_are_said_when_data_is_prepared(run_config, tmp_path):
    (tmp_path / "a.csv").write_text("text\n" + "".join(f"tale {number} of many\n" for number in range(99)) + '""\n' * 3)
    said = []
    prepare(run_config(corpus=str(tmp_path / "a.csv")), said.append)
    assert said[-1] == "corpus a: rows without text, skipped: 3"
