"""Publishing when the Hub or the way to it fails: one whole commit, or none, and a message that says which."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import hub_upload
from publishing import hub as publishing_hub
from publishing.hub import COMMIT_TITLE, PublishError, Repository
from training.errors import InputError

ROOT = Path(__file__).parents[2]
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


@pytest.fixture(autouse=True)
def _short_waits_and_no_model(monkeypatch):
    monkeypatch.setattr(publishing_hub, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(hub_upload, "_verify", lambda release, repository, commit: None)


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


def publish(repository, files, tag=None):
    """What the command does, but for opening the result, which needs a real model."""
    facts = SimpleNamespace(repo_id=repository.repo_id, revision=tag, native=False, auto_class="AutoModel")
    return hub_upload.publish(SimpleNamespace(files=files, facts=facts), repository)


def published(hub, files, revision="main", repo_id="alice/model"):
    """Whether a branch holds exactly the files, beside what the Hub itself puts into every repository."""
    there = hub.repositories[repo_id].files(revision)
    return {name: there[name] for name in there if name != ".gitattributes"} == {
        name: file.read_bytes() for name, file in files.items()
    }


def commits_of(hub, repo_id="alice/model", revision="main"):
    return [commit for commit in hub.repositories[repo_id].commits(revision) if commit.title == COMMIT_TITLE]


@pytest.fixture
def waits(monkeypatch):
    """Takes the seconds that were waited for, by us and by the client's own repetitions, without waiting."""
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.mark.usefixtures("waits")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_passing_fault_anywhere_ends_in_exactly_one_commit(endpoint, fault, hub, place, files):
    hub.fault(*ENDPOINTS[endpoint], **FAULTS[fault])
    publish(place(), files, tag="v1")
    assert not hub.faults, "nothing was asked of this endpoint"
    assert published(hub, files)
    assert len(commits_of(hub)) == 1
    repository = hub.repositories["alice/model"]
    assert repository.tags["v1"] == repository.branches["main"]


@pytest.mark.parametrize("status", [408, 500, 502, 504])
def test_whatever_may_pass_is_tried_again(status, hub, place, files):
    hub.fault(*ENDPOINTS["commit"], status=status)
    publish(place(), files)
    assert published(hub, files)
    assert hub.count(*ENDPOINTS["commit"]) == 2


def test_what_the_hub_refuses_is_said_and_not_tried_again(hub, place, files):
    errors = {"errors": [{"message": '"license" must be one of ...'}], "warnings": []}
    hub.fault(*ENDPOINTS["validate"], status=400, body=errors)
    with pytest.raises(InputError, match=r'uploading: the Hub refuses it: .*"license" must be one of'):
        publish(place(), files)
    assert hub.count(*ENDPOINTS["validate"]) == 1
    assert commits_of(hub) == []


@pytest.mark.parametrize("endpoint", ["whoami", "create", "validate", "commit"])
def test_a_fault_that_stays_is_an_error_and_leaves_the_branch_alone(endpoint, hub, place, files):
    hub.fault(*ENDPOINTS[endpoint], status=503, times=99)
    with pytest.raises(PublishError, match=r"failed 5 times, at last with: 503 .*the same command goes on"):
        publish(place(), files)
    if endpoint != "create" and "alice/model" in hub.repositories:
        assert commits_of(hub) == []
    hub.faults.clear()
    publish(place(), files)
    assert published(hub, files)


@pytest.mark.parametrize(
    ("headers", "seconds"), [({"Retry-After": "1"}, 1), ({"RateLimit": '"api";r=0;t=1'}, 2)], ids=str
)
def test_a_request_to_wait_is_obeyed_within_reason(headers, seconds, hub, place, files, waits):
    hub.fault(*ENDPOINTS["commit"], status=429, headers={"Retry-After": "3600"})
    with pytest.raises(PublishError, match="asks to wait for 3600 seconds"):
        publish(place(), files)
    said = []
    repository = place()
    repository.say = said.append
    hub.fault(*ENDPOINTS["commit"], status=429, headers=headers)
    publish(repository, files)
    assert [line.endswith(f"once more in {seconds} s") for line in said] == [True]
    assert waits == [seconds]


def test_without_a_token_nothing_is_asked(hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(InputError, match="there is no token: run `hf auth login`"):
        Repository("alice/model", endpoint=hub.endpoint)
    assert hub.requests == []


LAB = {"entity": {"type": "org", "name": "lab"}, "permissions": ["repo.write"]}


@pytest.mark.parametrize(
    ("rights", "repo_id", "message"),
    [
        ({"token": "hf_unknown" + "0" * 24}, "alice/model", "the token is not valid"),
        ({"role": "read"}, "alice/model", "the token can only read"),
        ({}, "bob/model", "belongs to alice, who cannot write to bob"),
        ({"user": "carol"}, "lab/model", "belongs to carol, who cannot write to lab"),
        ({"token": "hf_\x0b" + "0" * 30}, "alice/model", "the token has characters that no token has"),
        ({"scopes": [LAB]}, "alice/model", "no write access to repositories of alice"),
    ],
)
def test_a_token_without_the_right_is_refused_and_changes_nothing(rights, repo_id, message, hub, place, files):
    hub.add_organization("lab", {"alice": "write"})
    hub.create("bob/model")
    with pytest.raises(InputError, match=message) as refusal:
        publish(place(repo_id, **rights), files)
    assert "hf_" not in str(refusal.value)
    assert {request.method for request in hub.requests} <= {"GET"}
    assert list(hub.repositories) == ["bob/model"]


@pytest.mark.parametrize("rights", [{}, {"scopes": [LAB]}])
def test_a_member_with_the_right_publishes_for_an_organization(rights, hub, place, files):
    hub.add_organization("lab", {"alice": "write"})
    publish(place("lab/model", **rights), files)
    assert published(hub, files, repo_id="lab/model")


def test_a_right_that_is_withdrawn_meanwhile_is_an_error(hub, place, files):
    hub.fault(*ENDPOINTS["commit"], status=403)
    with pytest.raises(InputError, match="the token may not do this with alice/model"):
        publish(place(), files)
    assert commits_of(hub) == []


def test_an_existing_public_repository_is_not_published_to_as_private(hub, place, files):
    hub.create("alice/model")
    with pytest.raises(InputError, match="alice/model is public, and publishing does not change that"):
        publish(place(private=True), files)
    assert commits_of(hub) == []


def test_a_new_repository_is_private_where_asked(hub, place, files):
    publish(place(private=True), files)
    assert hub.repositories["alice/model"].private
    publish(place(), {"config.json": files["config.json"]})
    assert hub.repositories["alice/model"].private


def test_somebody_elses_commit_meanwhile_is_reported_and_kept(hub, place, files):
    hub.create("alice/model")

    def interfere():
        hub.commit("alice/model", {"config.json": b'{"model_type": "gpt_scratch"}'}, message="theirs")

    hub.fault(*ENDPOINTS["commit"], call=interfere)
    with pytest.raises(InputError, match="was changed by somebody else meanwhile"):
        publish(place(), files)
    assert hub.repositories["alice/model"].commits()[0].title == "theirs"
    publish(place(), files)
    assert published(hub, files)


def test_publishing_again_changes_what_differs_and_takes_stale_files_away(hub, place, files):
    first = publish(place(), files)
    assert first.is_new
    stale = {"pytorch_model.bin", "modeling_old.py", "last-checkpoint/optimizer.pt", "model-00001-of-00002.safetensors"}
    stale |= {".eval_results/lambada_openai.yaml", "loss_gpt_scratch.py", "run.json"}
    hub.commit("alice/model", dict.fromkeys([*stale, "a.gguf"], b"x"))
    files["config.json"].write_bytes(b'{"more": "training"}')
    second = publish(place(), files)
    assert second.is_new
    assert set(second.deleted) == stale
    there = hub.repositories["alice/model"].files("main")
    assert set(there) - {".gitattributes"} == {*files, "a.gguf"}
    assert len(commits_of(hub)) == 2

    third = publish(place(), files)
    assert (third.is_new, third.id) == (False, second.id)
    assert len(commits_of(hub)) == 2


@pytest.mark.parametrize("path", ["custom_generate/generate.py", "adapter_config.json", "helpers.py"])
def test_what_would_be_run_or_loaded_beside_the_model_is_refused(path, hub, place, files):
    hub.create("bob/model")
    hub.commit("bob/model", {path: b"import os"})
    with pytest.raises(InputError, match=f"bob/model also holds {path}, which would be run or loaded with the model"):
        publish(place("bob/model", create_pr=True), files)
    assert not hub.repositories["bob/model"].pull_requests


def test_another_model_is_not_overwritten_and_one_that_a_trainer_pushed_is(hub, place, files):
    hub.create("alice/model")
    hub.commit("alice/model", {"config.json": b'{"model_type": "llama"}', "README.md": b"# Mine"})
    with pytest.raises(InputError, match=r"alice/model holds another model \(model_type llama\)"):
        publish(place(), files)
    assert hub.repositories["alice/model"].files()["README.md"] == b"# Mine"
    hub.commit("alice/model", {"config.json": b'{"model_type": "gpt_scratch"}', "training_args.bin": b"x"})
    assert publish(place(), files).deleted == ("training_args.bin",)


def test_a_tag_is_no_branch_and_names_one_commit_for_good(hub, place, files):
    first = publish(place(), files, tag="v1")
    with pytest.raises(InputError, match="v1 is a tag of alice/model, not a branch"):
        publish(place(revision="v1"), files)
    files["config.json"].write_bytes(b'{"more": "training"}')
    second = publish(place(), files)
    with pytest.raises(InputError, match=f"the tag v1 names {first.id}, not this commit"):
        place().set_tag("v1", second.id)


def test_a_commit_whose_answer_is_lost_for_good_is_not_said_to_be_undone(hub, place, files):
    repository = place()
    hub.fault(*ENDPOINTS["commit"], drop="after", call=lambda: hub.fault(*ENDPOINTS["head"], status=503, times=99))
    with pytest.raises(PublishError, match="whether the commit was made is not known: the same command finds out"):
        publish(repository, files)
    hub.faults.clear()
    assert not publish(place(), files).is_new
    assert len(commits_of(hub)) == 1

    repository = place()
    commit = publish(repository, files)
    hub.fault(*ENDPOINTS["tag"], status=503, times=99)
    with pytest.raises(PublishError, match=f"commit {commit.id} is there, and the same command goes on"):
        repository.set_tag("v1", commit.id)


def test_a_branch_is_made_where_there_is_none(hub, place, files):
    publish(place(revision="next"), files)
    assert published(hub, files, "next")
    assert commits_of(hub) == []


@pytest.mark.parametrize("fault", [None, "503", "dropped before the work", "dropped after the work"])
def test_a_pull_request_is_opened_once_and_needs_no_right_to_write(fault, hub, place, files):
    hub.create("bob/model")
    if fault:
        hub.fault(*ENDPOINTS["commit"], **FAULTS[fault])
    repository = place("bob/model", create_pr=True)
    first = publish(repository, files)
    again = publish(repository, files)
    assert first.id == again.id
    assert first.pull_request == again.pull_request
    assert first.pull_request.endswith("/bob/model/discussions/1")
    assert len(hub.repositories["bob/model"].pull_requests) == 1
    assert commits_of(hub, "bob/model") == []


def test_a_pull_request_needs_a_repository(hub, place, files):
    with pytest.raises(InputError, match="there is nothing to propose this to"):
        publish(place("bob/model", create_pr=True), files)


PROGRAM = """\
import sys
from pathlib import Path
from publishing.hub import Repository
repository = Repository("alice/model")
repository.create()
print(repository.commit({file.name: file for file in Path(sys.argv[1]).iterdir()}).id)
"""


@pytest.fixture
def upload(hub, files, tmp_path_factory):
    """Starts publishing in a process of its own."""

    def start():
        environment = {**os.environ, **hub.environment(hub.add_token("alice"), tmp_path_factory.mktemp("home"))}
        environment["HF_HUB_DISABLE_XET"] = "1"
        command = [sys.executable, "-c", PROGRAM, str(files["config.json"].parent)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)

    return start


@pytest.mark.parametrize(
    ("endpoint", "stop"), [("upload", signal.SIGINT), ("commit", signal.SIGKILL)], ids=["Ctrl-C", "SIGKILL"]
)
def test_stopped_in_the_middle_and_run_again_makes_one_whole_commit(stop, endpoint, hub, files, upload):
    hub.fault(*ENDPOINTS[endpoint], delay=3)
    process = upload()
    while hub.faults and process.poll() is None:  # until the request is being worked on
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read()
    process.send_signal(stop)
    process.communicate(timeout=30)
    assert process.returncode in (-stop, 1, 130), "it went on"
    assert len(hub.repositories["alice/model"].commits()) <= 2
    again = upload()
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert published(hub, files)
    assert len(commits_of(hub)) == 1
