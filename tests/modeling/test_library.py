"""What the published files take from the library: all of it is known, and the installed release has it."""

import ast
import warnings
from pathlib import Path

import pytest

import modeling_gpt_scratch
from tests.stranger_check import FROM_THE_LIBRARY, names_that_are_missing, no_deprecations

PUBLISHED = sorted(Path(modeling_gpt_scratch.__file__).parent.glob("*_gpt_scratch.py"))


def test_the_list_of_what_the_published_files_import_is_complete():
    imported = {
        (node.module, alias.name)
        for file in PUBLISHED
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("transformers", "huggingface_hub")
        for alias in node.names
    }
    listed = {(module, entry.split(" ")[0]) for module, entries in FROM_THE_LIBRARY.items() for entry in entries}
    # `from transformers import initialization as init` takes what is read from it.
    assert imported - {("transformers", "initialization")} == listed - {("transformers.initialization", "normal_")}


def test_the_installed_release_has_all_of_it():
    assert names_that_are_missing() == []


def test_a_name_that_the_library_has_taken_away_is_noticed(monkeypatch):
    monkeypatch.setitem(FROM_THE_LIBRARY, "transformers.utils", ["ModelOutput (to_tuple, to_list)", "Gone"])
    monkeypatch.setitem(FROM_THE_LIBRARY, "transformers.gone", ["Name"])
    missing = ["transformers.utils.ModelOutput.to_list", "transformers.utils.Gone", "transformers.gone.Name"]
    assert names_that_are_missing() == missing


def test_what_the_library_says_of_deprecations_is_noticed():
    with pytest.raises(AssertionError, match="is deprecated"), no_deprecations():
        warnings.warn("`past_key_values` is deprecated", FutureWarning, stacklevel=1)
