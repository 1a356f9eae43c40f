"""The loopback Hub fails on order: refusals, lost connections, altered files, somebody else's commits."""

import contextlib
from http.client import IncompleteRead
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from huggingface_hub import CommitOperationAdd as Add
from huggingface_hub.errors import HfHubHTTPError

from tests.publishing.loopback_files import WEIGHTS, sha256


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
