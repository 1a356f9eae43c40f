"""The loopback Hub is what the installed client takes for a Hub: accounts, commits, downloads, refusals, faults."""

import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
from array import array
from http.client import IncompleteRead
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from huggingface_hub import CommitOperationAdd as Add
from huggingface_hub import CommitOperationDelete as Delete
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.publishing.loopback_hub import LoopbackHub
from tests.publishing.loopback_xet import Xorb

WEIGHTS = random.Random(0).randbytes(300_000)
# Text is compressed, noise is not, and floats are if every fourth byte is put together.
FLOATS = array("f", (random.Random(1).gauss(0, 0.02) for _ in range(50_000))).tobytes()
CONTENTS = {
    "noise.bin": WEIGHTS,
    "floats.bin": FLOATS,
    "text.bin": b"So much depends upon\n" * 20_001,
    "small.bin": b"\0",
}
CARD = b"---\nlicense: mit\n---\n# A model\n"

# Prints what a process of its own sees; the client reads most of its settings when it is imported.
UPLOAD = """\
import json, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd as Add, HfApi
folder, repo, create_pr = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "pr"
api = HfApi()
api.create_repo(repo, exist_ok=True)
# Some from their paths and some from memory, as the client treats these differently.
files = [Add(path.name, path) for path in folder.iterdir() if path.name != "text.bin"]
files += [Add("a/text.bin", (folder / "text.bin").read_bytes())]
print(json.dumps(api.create_commit(repo, files, commit_message="upload", create_pr=create_pr).oid))
"""
DOWNLOAD = """\
import json, sys
from pathlib import Path
from hashlib import sha256
from huggingface_hub import snapshot_download
folder = Path(snapshot_download(sys.argv[1], revision=sys.argv[2]))
files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
print(json.dumps({path: sha256(content).hexdigest() for path, content in files.items()}))
"""


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def client(hub):
    """Makes a person's client in this process."""

    def build(user="alice", **rights):
        return HfApi(endpoint=hub.endpoint, token=hub.add_token(user, **rights) if user else False)

    return build


def run(hub, token, program, home, *arguments, **settings):
    """Runs a program that prints JSON on its last line."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= hub.environment(token, home) | settings
    process = subprocess.run(
        [sys.executable, "-I", "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def ask(url, token=None, data=None, method=None):
    """The status and what the JSON says; for what the client itself would not send."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urlopen(Request(url, data, headers, method=method)) as response:
            return response.status, json.loads(response.read() or b"{}")
    except HTTPError as error:
        return error.code, json.loads(error.read())


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


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    (folder / "README.md").write_bytes(CARD)
    return folder


SETTINGS = {"xet": {}, "lfs": {"HF_HUB_DISABLE_XET": "1"}}


@pytest.mark.parametrize("protocol", ["xet", "lfs"])
def test_what_is_uploaded_is_what_is_downloaded(hub, folder, tmp_path, protocol):
    token = hub.add_token("alice")
    commit = run(hub, token, UPLOAD, tmp_path / "alice", str(folder), "alice/model", "", **SETTINGS[protocol])
    assert (hub.count("POST", "/xet/v1/xorbs/") > 0) == (protocol == "xet")
    assert (hub.count("PUT", "/upload/") > 0) == (protocol == "lfs")
    repository = hub.repositories["alice/model"]
    assert repository.branches["main"] == commit
    files = repository.commits()[0].files
    assert {path.split("/")[-1]: file.content for path, file in files.items() if file.lfs} == CONTENTS
    assert files["README.md"].content == CARD
    for downloads in ("xet", "lfs"):
        before = hub.count("GET", "/xet/xorb/"), hub.count("GET", "/download/")
        downloaded = run(hub, None, DOWNLOAD, tmp_path / downloads, "alice/model", "main", **SETTINGS[downloads])
        assert downloaded == {path: file.sha256 for path, file in files.items()}
        assert (hub.count("GET", "/xet/xorb/") > before[0]) == (downloads == "xet")
        assert (hub.count("GET", "/download/") > before[1]) == (downloads == "lfs")


def test_xet_stores_a_chunk_once_and_serves_altered_files(hub, folder, tmp_path):
    hub.create("bob/model")
    token = hub.add_token("alice")
    hub.fault("POST", "/xet/v1/xorbs/", status=503)  # tried again by the client
    grouped = {"HF_XET_XORB_COMPRESSION_POLICY": "bg4-lz4"}
    run(hub, token, UPLOAD, tmp_path / "alice", str(folder), "alice/model", "", **grouped)
    assert {xorb.data[start + 4] for xorb in hub.cas.xorbs.values() for start in xorb.offsets[:-1]} == {0, 2}
    xorbs = hub.count("POST", "/xet/v1/xorbs/")
    hub.corrupt("noise", where="served")
    run(hub, token, UPLOAD, tmp_path / "alice", str(folder), "bob/model", "pr")
    assert hub.count("POST", "/xet/v1/xorbs/") == xorbs
    files = hub.repositories["bob/model"].commit_at("refs/pr/1").files
    downloaded = run(hub, None, DOWNLOAD, tmp_path / "bob", "bob/model", "refs/pr/1")
    assert {path for path, digest in downloaded.items() if digest != files[path].sha256} == {"noise.bin"}


def test_xet_tokens_are_for_readers_or_for_writers(hub):
    hub.create("bob/model")
    alice, bob = hub.add_token("alice"), hub.add_token("bob")

    tokens = f"{hub.endpoint}/api/models/bob/model/xet-%s-token/main"
    assert [ask(tokens % "write", token)[0] for token in (None, "hf_unknown", alice, bob)] == [401, 401, 403, 200]
    _, reader = ask(tokens % "read", None)
    _, writer = ask(tokens % "write", bob)
    shards, files = f"{reader['casUrl']}/v1/shards", f"{reader['casUrl']}/v1/reconstructions/none"
    assert [ask(shards, token, b"")[0] for token in (None, bob, reader["accessToken"])] == [401, 401, 403]
    assert [ask(files, token)[0] for token in (None, reader["accessToken"])] == [401, 404]
    assert writer["accessToken"] != reader["accessToken"]


def test_a_large_file_is_committed_when_it_is_there(hub):
    hub.create("alice/model")
    token = hub.add_token("alice")
    wanted = {"transfers": ["basic"], "ref": {"name": "main"}, "objects": [{"oid": sha256(WEIGHTS), "size": 300_000}]}
    lines = [{"key": "header", "value": {"summary": "w"}}]
    lines += [{"key": "lfsFile", "value": {"path": "w.bin", "algo": "sha256", "oid": sha256(WEIGHTS)}}]
    batch = f"{hub.endpoint}/alice/model.git/info/lfs/objects/batch", token, json.dumps(wanted).encode()
    body = "\n".join(json.dumps(line) for line in lines).encode()
    commit = f"{hub.endpoint}/api/models/alice/model/commit/main", token, body
    (announced,) = ask(*batch)[1]["objects"]
    assert ask(announced["actions"]["upload"]["href"], None, WEIGHTS[1:], "PUT")[0] == 400
    assert ask(*commit)[0] == 400
    assert ask(announced["actions"]["upload"]["href"], None, WEIGHTS, "PUT")[0] == 200
    assert "actions" not in ask(*batch)[1]["objects"][0]
    assert ask(*commit)[0] == 200
    assert hub.repositories["alice/model"].files()["w.bin"] == WEIGHTS


def test_a_stretch_of_a_file_is_in_its_chunks(hub):
    hub.create("bob/model")
    file, connection = hub.cas.add(WEIGHTS), hub.cas.connection("bob/model", "read").body

    def read(url, first, last):
        headers = {"Authorization": f"Bearer {connection['accessToken']}", "Range": f"bytes={first}-{last}"}
        with urlopen(Request(url, headers=headers)) as response:
            return response.read()

    for first, last in ((0, 0), (65_535, 65_536), (65_536, 131_071), (100_000, 250_000), (299_999, 299_999)):
        answer = json.loads(read(f"{connection['casUrl']}/v1/reconstructions/{file}", first, last))
        content = b""
        for term in answer["terms"]:
            fetch = next(fetch for fetch in answer["fetch_info"][term["hash"]] if fetch["range"] == term["range"])
            xorb = Xorb(read(fetch["url"], fetch["url_range"]["start"], fetch["url_range"]["end"]))
            content += b"".join(xorb.chunk(index) for index in range(len(xorb.sizes)))
        skip = answer["offset_into_first_range"]
        assert content[skip : skip + last - first + 1] == WEIGHTS[first : last + 1]
        assert len(content) <= (last // 65_536 - first // 65_536 + 1) * 65_536


def test_a_hub_may_be_without_xet(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for xet in (True, False):
        with LoopbackHub(xet=xet) as hub:
            hub.create("bob/model")
            hub.commit("bob/model", {"w.bin": WEIGHTS})
            metadata = HfApi().get_hf_file_metadata(url=f"{hub.endpoint}/bob/model/resolve/main/w.bin")
            assert (metadata.xet_file_data is not None) == xet
            assert (metadata.etag, metadata.size) == (sha256(WEIGHTS), len(WEIGHTS))


def test_one_is_started_by_hand(client):
    command = [sys.executable, "tests/loopback_hub.py"]
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


def test_a_fault_answers_instead_of_the_hub_as_often_as_asked(hub, client):
    hub.create("alice/model")
    hub.fault("POST", "/commit/", status=503, headers={"Retry-After": "0"}, times=2)
    api = client()
    for _ in range(2):
        with pytest.raises(HfHubHTTPError) as refusal:
            api.create_commit("alice/model", [Add("a.txt", b"a")], commit_message="a")
        assert refusal.value.response.status_code == 503
        assert refusal.value.response.headers["Retry-After"] == "0"
    assert not hub.faults
    api.create_commit("alice/model", [Add("a.txt", b"a")], commit_message="a")
    assert [request.status for request in hub.requests if "/commit/" in request.path] == [503, 503, 200]


@pytest.mark.parametrize(("drop", "commits"), [("before", 1), ("after", 2)])
def test_a_connection_may_be_lost_before_or_after_the_work(hub, client, drop, commits):
    repository = hub.create("alice/model")
    hub.fault("POST", "/commit/", drop=drop)
    with pytest.raises(Exception, match="disconnected"):
        client().create_commit("alice/model", [Add("a.txt", b"a")], commit_message="a")
    assert len(repository.commits()) == commits
    assert hub.requests[-1].status == 0


def test_a_download_may_end_early(hub, client, tmp_path):
    hub.create("alice/model")
    hub.commit("alice/model", {"w.bin": WEIGHTS})
    url = client().get_hf_file_metadata(url=f"{hub.endpoint}/alice/model/resolve/main/w.bin").location
    hub.fault("GET", "/download/", truncate=100_000)
    with urlopen(url) as response, pytest.raises(IncompleteRead) as early:
        response.read()
    assert early.value.partial == WEIGHTS[:100_000]
    with urlopen(Request(url, headers={"Range": "bytes=100000-"})) as response:
        assert (response.status, early.value.partial + response.read()) == (206, WEIGHTS)
    hub.fault("GET", "/download/", truncate=0)
    with contextlib.suppress(Exception):  # newer clients ask again by themselves
        client().hf_hub_download("alice/model", "w.bin", cache_dir=tmp_path)
    assert Path(client().hf_hub_download("alice/model", "w.bin", cache_dir=tmp_path)).read_bytes() == WEIGHTS


def test_somebody_else_may_commit_in_between(hub, client):
    repository = hub.create("alice/model")
    parent = repository.branches["main"]
    hub.fault("POST", "/commit/", delay=0.01, call=lambda: hub.commit("alice/model", {"b.txt": b"b"}))
    with pytest.raises(HfHubHTTPError, match="A commit has happened since"):
        client().create_commit("alice/model", [Add("a.txt", b"a")], commit_message="a", parent_commit=parent)
    assert set(repository.files()) == {".gitattributes", "b.txt"}


def test_files_may_be_altered_in_the_tree_or_in_downloads_alone(hub, client, tmp_path):
    hub.create("alice/model")
    hub.corrupt(r"tree\.bin", where="stored")
    hub.corrupt(r"download\.bin", where="served")
    api = client()
    # The client's cache knows contents by their hashes, so equal ones would be downloaded once.
    sent = {name: name.encode() + WEIGHTS for name in ("tree.bin", "download.bin", "whole.bin")}
    api.create_commit("alice/model", [Add(name, content) for name, content in sent.items()], commit_message="w")
    hashes = {entry.path: entry.lfs.sha256 for entry in api.get_paths_info("alice/model", list(sent))}
    got = {name: Path(api.hf_hub_download("alice/model", name, cache_dir=tmp_path)).read_bytes() for name in sent}
    wrong = {name: sum(a != b for a, b in zip(got[name], sent[name], strict=True)) for name in sent}
    assert wrong == {"tree.bin": 1, "download.bin": 1, "whole.bin": 0}
    assert hashes["tree.bin"] == sha256(got["tree.bin"])
    assert hashes["download.bin"] == sha256(sent["download.bin"])
