"""`--check-with`: a release is opened with other versions of Transformers, each in an environment of its own."""

import os
import subprocess
import sys
import venv
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import hub_upload
from publishing import environments, verification
from publishing.environments import environment_with, install, read_versions
from tests.publishing.test_release_checks import GOOD
from training.errors import InputError


@pytest.fixture
def folder(finished_run):
    return finished_run / "model"


def test_a_list_of_versions_is_read():
    assert read_versions("5.15.0, newest,5.15.0") == ("5.15.0", "newest")
    for wrong in ("latest", "5.15.0,", ">=5.15", "--pre", "5.15.0 --index-url=x"):
        with pytest.raises(InputError, match="is no version of Transformers; name such as"):
            read_versions(wrong)


@pytest.mark.parametrize(("version", "wanted"), [("5.15.0", "transformers==5.15.0"), ("newest", "transformers")])
def test_an_environment_has_the_version_and_the_torch_that_runs_here(version, wanted, monkeypatch):
    installed = []
    monkeypatch.setattr(venv.EnvBuilder, "_setup_pip", lambda *_: None)  # which takes seconds
    monkeypatch.setattr(environments, "install", lambda *arguments: installed.append(arguments))
    with environment_with(version) as python:
        program = "import importlib.util; print(importlib.util.find_spec('torch'))"
        ran = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True, check=True)
        assert ran.stdout == "None\n"  # nothing of the environment around it
    assert installed == [(python, f"torch=={torch.__version__.split('+')[0]}", wanted)]
    assert not Path(python).exists()


def test_what_pip_cannot_install_is_one_line(tmp_path, monkeypatch):
    # The user's configuration counts: this one knows no index.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(InputError) as refusal:
        install(sys.executable, "torch", "transformers==5.0.99")
    message = str(refusal.value)
    assert message.startswith("--check-with: pip cannot install torch and transformers==5.0.99: ")
    assert "No matching distribution found for transformers==5.0.99" in message
    assert "\n" not in message


@pytest.fixture
def strangers(monkeypatch):
    """Answers for the processes that open a release; the name of an environment's Python is its version here."""
    found = {sys.executable: GOOD}

    @contextmanager
    def build(version):
        if version not in found:
            raise InputError(f"--check-with: pip cannot install transformers=={version}: no network")
        yield version

    monkeypatch.setattr(verification, "environment_with", build)
    monkeypatch.setattr(verification, "open_as_stranger", lambda *_, python, **__: found[python])
    return found


def opened_with(version, **changes):
    return GOOD | {"versions": GOOD["versions"] | {"transformers": version}} | changes


def test_the_card_lists_every_version_with_which_it_opened(folder, strangers, monkeypatch, capsys):
    strangers |= {"5.15.0": opened_with("5.15.0"), "newest": opened_with("5.99.1"), "5.99.1": opened_with("5.99.1")}
    cards = []
    describe = hub_upload.describe

    def look(release, **changes):
        described = describe(release, **changes)
        cards.append((described.folder / "README.md").read_text())
        return described

    monkeypatch.setattr(hub_upload, "describe", look)
    assert hub_upload.main([str(folder), "--dry-run", "--check-with", "5.15.0,newest,5.99.1,5.23.0"]) == 0
    assert "it opens with Transformers 5.23.0, 5.15.0, 5.99.1: " in capsys.readouterr().out
    rows = [f"| {version} | 2.13.0 | 3.11.7 |\n" for version in ("5.23.0", "5.15.0", "5.99.1")]
    assert "".join(rows) in cards[-1]


def test_a_version_that_cannot_be_installed_or_does_not_open_it_ends_it(folder, strangers, capsys):
    strangers["5.15.0"] = opened_with("5.15.0", missing=["lm_head.weight"])
    for version, message in (
        ("5.15.0", "error: with Transformers 5.15.0: missing weights: lm_head.weight\n"),
        ("5.98.0", "error: --check-with: pip cannot install transformers==5.98.0: no network\n"),
    ):
        assert hub_upload.main([str(folder), "alice/lighthouse", "--dry-run", "--check-with", version]) == 2
        captured = capsys.readouterr()
        assert captured.err.endswith(message)
        assert "would be published" not in captured.out


def test_nothing_is_installed_for_a_release_that_is_wrong_here(folder, strangers, capsys):
    strangers[sys.executable] = GOOD | {"finite": False}
    assert hub_upload.main([str(folder), "--dry-run", "--check-with", "5.98.0"]) == 2
    assert capsys.readouterr().err.endswith("error: the logits are not finite\n")
