"""Publishing when the Hub or the way to it fails: one whole commit, or none, and a message that says which."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from publishing.client import PublishError
from tests.publishing.small_release import ENDPOINTS, FAULTS, commits_of, publish, published
from training.errors import InputError

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("without_model")


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
    repository.client.say = said.append
    hub.fault(*ENDPOINTS["commit"], status=429, headers=headers)
    publish(repository, files)
    assert [line.endswith(f"once more in {seconds} s") for line in said] == [True]
    assert waits == [seconds]


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


PROGRAM = """\
import sys
from pathlib import Path
from publishing.commit import commit_files
from publishing.repository import Repository
repository = Repository("alice/model")
repository.create()
print(commit_files(repository, {file.name: file for file in Path(sys.argv[1]).iterdir()}).id)
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
