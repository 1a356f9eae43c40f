"""The loopback Hub takes and gives whole files, over LFS and over Xet, as the installed client sends and asks."""

import json
import os
import random
import subprocess
import sys
from array import array
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from huggingface_hub import HfApi, constants

from tests.publishing.loopback_files import CARD, WEIGHTS, sha256
from tests.publishing.loopback_hub import LoopbackHub
from tests.publishing.loopback_xet import Xorb

# Text is compressed, noise is not, and floats are if every fourth byte is put together.
FLOATS = array("f", (random.Random(1).gauss(0, 0.02) for _ in range(50_000))).tobytes()
CONTENTS = {
    "noise.bin": WEIGHTS,
    "floats.bin": FLOATS,
    "text.bin": b"So much depends upon\n" * 20_001,
    "small.bin": b"\0",
}

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
