"""The loopback Hub is what the installed client takes for a Hub: accounts, commits, downloads, refusals."""

import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd as Add
from huggingface_hub import CommitOperationDelete as Delete
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.publishing.loopback_files import CARD, WEIGHTS, sha256


def test_a_token_says_who_it_is_and_what_it_may(hub, client):
    hub.add_organization("lab", members={"alice": "write"})
    identity = client("alice", role="read").whoami()
    assert (identity["name"], identity["type"]) == ("alice", "user")
    assert [(lab["name"], lab["roleInOrg"]) for lab in identity["orgs"]] == [("lab", "write")]
    assert identity["auth"]["accessToken"]["role"] == "read"
    scope = {"entity": {"type": "org", "name": "lab"}, "permissions": ["repo.write"]}
    access = client("alice", scopes=[scope]).whoami()["auth"]["accessToken"]
    assert access["role"] == "fineGrained"
    assert access["fineGrained"]["scoped"] == [scope]


def test_an_unknown_token_is_refused(hub, client):
    client()
    with pytest.raises(HfHubHTTPError) as refusal:
        HfApi(endpoint=hub.endpoint, token="hf_unknown").whoami()
    assert refusal.value.response.status_code == 401
    assert refusal.value.response.headers["X-Error-Message"] == "Invalid credentials in Authorization header"


def test_a_repository_is_created_once(hub, client):
    api = client()
    assert api.create_repo("alice/model", private=True).repo_id == "alice/model"
    assert hub.repositories["alice/model"].private
    assert api.list_repo_files("alice/model") == [".gitattributes"]
    with pytest.raises(HfHubHTTPError) as refusal:
        api.create_repo("alice/model")
    assert refusal.value.response.status_code == 409
    assert api.create_repo("alice/model", exist_ok=True).repo_id == "alice/model"
    api.update_repo_settings("alice/model", private=False)
    assert not hub.repositories["alice/model"].private
    api.delete_repo("alice/model")
    assert not api.repo_exists("alice/model")


def test_rights_decide_who_may_create_and_commit(hub, client):
    hub.create("bob/model")
    hub.add_organization("lab", members={"alice": "write", "bob": "read"})
    scope = {"entity": {"type": "org", "name": "lab"}, "permissions": ["repo.write"]}
    client("alice", scopes=[scope]).create_repo("lab/model")
    for api, repo in (
        (client("alice"), "bob/other"),
        (client("alice", role="read"), "alice/other"),
        (client("alice", scopes=[scope]), "alice/other"),
        (client("bob"), "lab/other"),
    ):
        with pytest.raises(HfHubHTTPError) as refusal:
            api.create_repo(repo)
        assert refusal.value.response.status_code == 403
    for api, repo, reason in (
        (client("alice"), "bob/model", "create_pr=1"),
        (client("bob"), "lab/model", "create_pr=1"),
        (client("bob", role="read"), "bob/model", "must use a write token"),
    ):
        with pytest.raises(HfHubHTTPError, match=reason) as refusal:
            api.create_commit(repo, [Add("a.txt", b"a")], commit_message="a")
        assert refusal.value.response.status_code == 403
    # As on the Hub, it is the name that is taken, whoever asks.
    assert client("alice").create_repo("bob/model", exist_ok=True).repo_id == "bob/model"


def test_a_private_repository_is_hidden(hub, client, tmp_path):
    hub.create("bob/secret", private=True)
    assert client("bob").model_info("bob/secret").private
    for api in (client("alice"), client(None)):
        with pytest.raises(RepositoryNotFoundError):
            api.auth_check("bob/secret")
        with pytest.raises(RepositoryNotFoundError):
            api.hf_hub_download("bob/secret", ".gitattributes", cache_dir=tmp_path)
        assert "bob/secret" not in {model.id for model in api.list_models()}


def test_one_is_started_by_hand(client):
    command = [sys.executable, "tests/publishing/loopback_hub.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        settings = dict(setting.split("=") for setting in process.stdout.readline().split())
        try:
            assert HfApi(settings["HF_ENDPOINT"], settings["HF_TOKEN"]).whoami()["name"] == "alice"
        finally:
            process.terminate()


def test_trees_have_the_hashes_of_git(hub, client, tmp_path):
    api = client()
    api.create_repo("alice/model")
    operations = [Add("README.md", CARD), Add("a/b/c.txt", b"c"), Add("a/b.txt", b"b"), Add("w.bin", WEIGHTS)]
    oid = api.create_commit("alice/model", operations, commit_message="files").oid
    entries = {entry.path: entry for entry in api.list_repo_tree("alice/model", recursive=True)}
    assert entries["README.md"].blob_id == git(tmp_path, "hash-object", "--stdin", input=CARD)
    weights = entries["w.bin"]
    assert (weights.lfs.sha256, weights.size) == (sha256(WEIGHTS), len(WEIGHTS))
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 300000\n" % sha256(WEIGHTS).encode()
    assert weights.blob_id == git(tmp_path, "hash-object", "--stdin", input=pointer)
    for path in ("a/b/c.txt", "a/b.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(hub.repositories["alice/model"].files()[path])
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "a")
    assert entries["a"].tree_id == git(tmp_path, "write-tree", "--prefix=a/")
    assert [entry.path for entry in api.list_repo_tree("alice/model", "a")] == ["a/b", "a/b.txt"]
    assert [entry.path for entry in api.get_paths_info("alice/model", ["a", "w.bin", "none"])] == ["a", "w.bin"]
    info = api.model_info("alice/model", files_metadata=True)
    assert info.sha == oid == api.list_repo_commits("alice/model")[0].commit_id
    assert {file.rfilename: file.size for file in info.siblings}["w.bin"] == 300_000


def test_what_only_the_commit_knows_to_be_large_is_written_down(hub, client):
    hub.create("alice/model")
    client().create_commit("alice/model", [Add("the logo.png", b"png"), Add("w.bin", b"w")], commit_message="logo")
    files = hub.repositories["alice/model"].commits()[0].files
    assert files["the logo.png"].lfs
    assert files["w.bin"].lfs
    lines = files[".gitattributes"].content.splitlines()
    assert lines[-1] == b"the[[:space:]]logo.png filter=lfs diff=lfs merge=lfs -text"
    assert sum(line.startswith((b"*.bin", b"w.bin")) for line in lines) == 1


def git(folder, *arguments, input=None):
    process = subprocess.run(["git", *arguments], cwd=folder, input=input, capture_output=True, check=True)
    return process.stdout.decode().strip()


def test_commits_delete_and_refuse_an_old_parent(hub, client):
    hub.create("alice/model")
    first = hub.commit("alice/model", {"a/x.txt": b"x", "a/y.txt": b"y", "z.txt": b"z"})
    api = client()
    api.create_commit("alice/model", [Delete("a/"), Delete("z.txt")], commit_message="delete", parent_commit=first)
    repository = hub.repositories["alice/model"]
    assert list(repository.files()) == [".gitattributes"]
    assert set(repository.files(first)) == {".gitattributes", "a/x.txt", "a/y.txt", "z.txt"}
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as refusal:
        api.create_commit("alice/model", [Add("b.txt", b"b")], commit_message="late", parent_commit=first)
    assert refusal.value.response.status_code == 412
    with pytest.raises(EntryNotFoundError, match="A file with this name doesn't exist"):
        api.create_commit("alice/model", [Delete("z.txt")], commit_message="again")
    with pytest.raises(RevisionNotFoundError):
        api.create_commit("alice/model", [Add("b.txt", b"b")], commit_message="nowhere", revision="nowhere")


def test_an_unchanged_file_makes_no_commit(hub, client):
    hub.create("alice/model")
    head = hub.commit("alice/model", {"a.txt": b"a", "w.bin": WEIGHTS})
    operations = [Add("a.txt", b"a"), Add("w.bin", WEIGHTS)]
    assert client().create_commit("alice/model", operations, commit_message="again").oid == head
    assert not hub.count("POST", "/commit/")


def test_readers_open_pull_requests(hub, client, tmp_path):
    repository = hub.create("bob/model")
    main = repository.branches["main"]
    api = client("alice")
    operations = [Add("a.txt", b"a"), Add("w.bin", WEIGHTS)]
    commit = api.create_commit("bob/model", operations, commit_message="offer", create_pr=True)
    assert (commit.pr_num, commit.pr_revision) == (1, "refs/pr/1")
    assert repository.branches["main"] == main
    assert (repository.pull_requests[1].author, repository.pull_requests[1].head) == ("alice", commit.oid)
    api.create_commit("bob/model", [Add("b.txt", b"b")], commit_message="more", revision="refs/pr/1")
    assert set(repository.files("refs/pr/1")) == {".gitattributes", "a.txt", "b.txt", "w.bin"}
    assert [pull.ref for pull in api.list_repo_refs("bob/model", include_pull_requests=True).pull_requests] == [
        "refs/pr/1"
    ]
    assert [discussion.title for discussion in api.get_repo_discussions("bob/model")] == ["offer"]
    assert api.get_discussion_details("bob/model", 1).target_branch == "refs/heads/main"
    path = api.hf_hub_download("bob/model", "b.txt", revision="refs/pr/1", cache_dir=tmp_path)
    assert Path(path).read_bytes() == b"b"


def test_branches_and_tags(hub, client):
    repository = hub.create("alice/model")
    first = repository.branches["main"]
    api = client()
    api.create_branch("alice/model", branch="next")
    api.create_tag("alice/model", tag="v1", revision="next")
    api.create_commit("alice/model", [Add("a.txt", b"a")], commit_message="a", revision="next")
    assert (repository.branches["main"], repository.tags["v1"]) == (first, first)
    assert "a.txt" in repository.files("next")
    for create in (
        lambda: api.create_tag("alice/model", tag="v1"),
        lambda: api.create_branch("alice/model", branch="next"),
    ):
        with pytest.raises(HfHubHTTPError) as refusal:
            create()
        assert refusal.value.response.status_code == 409
    references = api.list_repo_refs("alice/model")
    assert {branch.name for branch in references.branches} == {"main", "next"}
    assert [(tag.name, tag.target_commit) for tag in references.tags] == [("v1", first)]
    api.delete_tag("alice/model", tag="v1")
    api.delete_branch("alice/model", branch="next")
    assert (repository.tags, set(repository.branches)) == ({}, {"main"})


def test_a_download_of_something_missing_says_what(hub, client, tmp_path):
    hub.create("bob/model")
    api = client()
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("bob/model", "none.txt", cache_dir=tmp_path)
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download("bob/model", ".gitattributes", revision="none", cache_dir=tmp_path)
    with pytest.raises(RepositoryNotFoundError):
        api.hf_hub_download("bob/none", ".gitattributes", cache_dir=tmp_path)


def test_front_matter_is_checked(hub, client):
    hub.create("alice/model")
    with pytest.raises(ValueError, match="Invalid metadata"):
        client().create_commit("alice/model", [Add("README.md", b"---\nlicense mit\n---\n")], commit_message="card")
