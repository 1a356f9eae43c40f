"""Secrets in a release's files, and people, machines and places in a run's record: found, and never shown."""

import getpass
import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from publishing.confidential import personal_data_in, secrets_in
from publishing.record import RunRecord

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "secret",
    [
        "hf_" + "aB3" * 12,
        "hf_oauth_eyJ" + "aB3." * 10,
        "hf_jwt_" + "aB3-" * 10,
        "token_hf_" + "aB3" * 12,
        "AWS_SECRET_ACCESS_KEY=" + "aB3+" * 10,
        "sk-proj-" + "aB3_" * 10,
        "AKIA" + "ABCD" * 4,
        "ghp_" + "aB3" * 12,
        "github_pat_" + "aB3_" * 10,
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "wandb_v1_" + "aB3_" * 19,
        "WANDB_API_KEY=" + "0f" * 20,
        '"wandb_api_key": "' + "0f" * 20,
        'wandb.login(key="' + "0f" * 20,
        "wandb login " + "0f" * 20,
        "AIza" + "aB3_-" * 7,
        "GOCSPX-" + "aB3_" * 7,
        "ya29." + "aB3_" * 20,
        "xoxb-" + "123456789012-" * 2 + "aB3" * 8,
        "xoxe.xoxp-1-" + "aB3" * 20,
        "xapp-1-A0B1C2-" + "aB3" * 20,
        "https://hooks.slack.com/services/T0AB/B0CD/" + "aB3" * 8,
        "glpat-" + "aB3_" * 5,
        "gldt-" + "aB3_" * 5,
        "npm_" + "aB3" * 12,
        "//npm.example.org/:_authToken=" + "aB3-" * 9,
        "//npm.example.org/:_password=" + "aB3=" * 2,
        "machine api.wandb.ai login user password aB3",
        "machine example.org\n  login ann\n  password aB3",
        "machine localhost login ann password aB3",
        "\ndefault login ann password aB3",
        "what the user is logged in with",
    ],
)
def test_a_secret_is_found_in_any_file_and_never_shown(secret, tmp_path):
    (tmp_path / ".eval_results").mkdir()
    for name in ("README.md", "tokenizer.json", ".eval_results/task.yaml", "loss.png"):
        (tmp_path / name).write_bytes(b"\x89PNG\x00 " + secret.encode() + b" ")
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors", {"note": secret})
    found = secrets_in(tmp_path, "what the user is logged in with")
    files = [".eval_results/task.yaml", "README.md", "loss.png", "model.safetensors", "tokenizer.json"]
    assert [line.split(" holds ")[0] for line in found] == files
    assert not any(secret in line for line in found)


def test_ordinary_text_is_no_secret(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    for file in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("modeling_gpt_scratch/*.py")]:
        shutil.copy(file, tmp_path)
    lines = (
        "sk-estimator-doc-link-fitted-and-long, sk-learn-pipeline-classifier-v2/README.md",
        "hf_hub_download, BEGIN PRIVATE KEY",
        "npm_config_registry, xoxo-love-letters-2024, xapp-name, glpat-, AIzawa",
        "//npm.example.org/:_authToken=${NPM_TOKEN}",
        "machine learning login form password x; the default login form password field",
        "machine learning, log in with a password; a machine's login and password",
        f"wandb login; tracked by wandb 0.22 at commit {'0f' * 20}; WANDB_API_KEY is not set",
    )
    (tmp_path / "notes.md").write_text("\n".join(lines))
    (tmp_path / "run.json").write_text(json.dumps({"versions": {"wandb": "0.22.3"}, "git_commit": "0f" * 20}))
    assert secrets_in(tmp_path, None) == []


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("/srv/books", "an absolute path"),
        ("see /srv", "an absolute path"),
        ("~/books", "an absolute path"),
        ("C:\\books", "an absolute path"),
        ("file:///srv", "an absolute path"),
        ("bob@lab.example.org", "an address"),
        ("run-of-ann", "your user name"),
        ("books on LIGHTHOUSE-7", "this machine's name"),
    ],
)
def test_a_record_that_names_somebody_or_some_place_is_refused(value, what, monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "ann")
    monkeypatch.setattr(socket, "gethostname", lambda: "lighthouse-7")
    recipe, run = {"corpus": value, "seed": 1}, {"data": {"corpus": [{"path": value}]}}
    assert personal_data_in(RunRecord(recipe, run, ()), "bob") == [
        f"recipe.yaml: corpus holds {what}: change it in the run folder",
        f"run.json: data.corpus.path holds {what}: change it in the run folder",
    ]


def test_a_finished_runs_own_record_names_nobody(finished_run, monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "house")  # a part of a word is no name
    recipe = yaml.safe_load((finished_run / "recipe.yaml").read_text())
    run = json.loads((finished_run / "run.json").read_text())
    assert personal_data_in(RunRecord(recipe, run, ()), "alice") == []
    monkeypatch.setattr(getpass, "getuser", lambda: "alice")  # who publishes under this name
    hub = {"corpus": "hf:alice/texts", "data_dir": "data/x", "note": "https://example.org/a and 3/4 @ 2.5 GHz"}
    assert personal_data_in(RunRecord(hub, {}, ()), "alice") == []
    assert personal_data_in(RunRecord(hub, {}, ()), "lab") != []
