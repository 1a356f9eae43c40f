"""Text that a terminal cannot show ends no program."""

import io
import runpy
import sys

import pytest

import hub_upload
import training.__main__


def convert(argv: list[str]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["convert", *argv])
        patch.delitem(sys.modules, "modeling_gpt_scratch.__main__", raising=False)
        with pytest.raises(SystemExit) as ending:
            runpy.run_module("modeling_gpt_scratch", run_name="__main__")
    return ending.value.code


@pytest.mark.parametrize(
    ("main", "argv", "name"),
    [
        (training.__main__.main, ["水"], "stderr"),
        (training.__main__.main, ["pretrain", "--水", "1"], "stderr"),
        (training.__main__.main, ["generate", "/absent/水"], "stderr"),
        (convert, ["convert", "/absent/水", "out"], "stderr"),
        (hub_upload.main, ["/absent/水", "--dry-run"], "stderr"),
    ],
)
def test_every_program_prints_what_a_terminal_cannot_show_as_numbers(main, argv, name, monkeypatch):
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="cp1252")
    monkeypatch.setattr(sys, name, stream)
    assert main(argv) == 2
    stream.flush()
    assert r"\u6c34" in written.getvalue().decode("cp1252")


def test_generated_text_is_printed_on_a_terminal_of_another_encoding(finished_run, monkeypatch):
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    prompt = "caf\xe9 水"  # the first of which cp1252 has
    argv = ["generate", str(finished_run / "model"), "--prompt", prompt, "--max_new_tokens", "8", "--seed", "1"]
    assert training.__main__.main(argv) == 0
    stream.flush()
    assert written.getvalue().decode("cp1252").startswith(r"caf" + "\xe9" + r" \u6c34")
