"""What tests of publishing share: a model folder, people at the Hub of this machine, a release of three small files."""

import pytest
from huggingface_hub import HfApi

from publishing import client as publishing_client
from publishing import publish as publishing_publish
from publishing.repository import Repository


@pytest.fixture
def folder(run):
    """The model folder of a finished run, which a test may damage."""
    return run / "model"


@pytest.fixture
def client(hub):
    """Makes a person's client in this process."""

    def build(user="alice", **rights):
        return HfApi(endpoint=hub.endpoint, token=hub.add_token(user, **rights) if user else False)

    return build


@pytest.fixture
def without_model(monkeypatch):
    """For tests of what is sent, and how: nothing is waited for, and nothing is opened from there."""
    monkeypatch.setattr(publishing_client, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(publishing_publish, "verify", lambda release, repository, commit: None)


@pytest.fixture
def files(tmp_path):
    """Stands for a release: names and files."""
    contents = {
        "README.md": b"---\nlicense: apache-2.0\n---\n# A model\n",
        "config.json": b"{}",
        "model.safetensors": bytes(range(256)) * 40,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {name: tmp_path / name for name in contents}


@pytest.fixture
def place(hub):
    """Makes a repository to publish to, for a new token."""

    def build(repo_id="alice/model", user="alice", token=None, scopes=None, role="write", **options):
        token = token or hub.add_token(user, role, scopes)
        return Repository(repo_id, endpoint=hub.endpoint, token=token, say=lambda line: None, **options)

    return build
