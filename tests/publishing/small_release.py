"""A release of three small files: publishing it, and what a Hub holds of it."""

from types import SimpleNamespace

from publishing import publish as publishing_publish
from publishing.commit import COMMIT_TITLE

# What publishing with a tag asks of the Hub, over LFS.
ENDPOINTS = {
    "whoami": ("GET", r"/api/whoami-v2"),
    "info": ("GET", r"/api/models/alice/model$"),
    "create": ("POST", r"/api/repos/create"),
    "refs": ("GET", r"/refs"),
    "head": ("GET", r"/revision/main"),
    "tree": ("GET", r"/tree/"),
    "validate": ("POST", r"/api/validate-yaml"),
    "preupload": ("POST", r"/preupload/"),
    "batch": ("POST", r"/info/lfs/objects/batch"),
    "upload": ("PUT", r"/upload/"),
    "verify": ("POST", r"/api/lfs/.*/verify"),
    "commit": ("POST", r"/commit/"),
    "tag": ("POST", r"/tag/"),
}
FAULTS = {
    "429": {"status": 429, "headers": {"Retry-After": "0"}},
    "503": {"status": 503},
    "dropped before the work": {"drop": "before"},
    "dropped after the work": {"drop": "after"},
}


def publish(repository, files, tag=None):
    """What the command does, but for opening the result, which needs a real model."""
    facts = SimpleNamespace(repo_id=repository.repo_id, revision=tag, native=False, auto_class="AutoModel")
    return publishing_publish.publish(SimpleNamespace(files=files, facts=facts), repository)


def published(hub, files, revision="main", repo_id="alice/model"):
    """Whether a branch holds exactly the files, beside what the Hub itself puts into every repository."""
    there = hub.repositories[repo_id].files(revision)
    return {name: there[name] for name in there if name != ".gitattributes"} == {
        name: file.read_bytes() for name, file in files.items()
    }


def commits_of(hub, repo_id="alice/model", revision="main"):
    return [commit for commit in hub.repositories[repo_id].commits(revision) if commit.title == COMMIT_TITLE]
