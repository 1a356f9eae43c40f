"""`hub_upload.py MODEL OWNER/NAME --space`: a Gradio Space beside the model, tried here, published or refused."""

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

import hub_upload
from publishing import publish as publishing_publish
from publishing import space as publishing_space
from publishing.client import PublishError
from publishing.commit import refuse_another_space
from publishing.release import describe, prepare_release
from publishing.space import NO_COMMIT, publish_space, write_space
from publishing.visit import ask, check_space, running_space
from tests.measurements import OPENED
from training.errors import InputError

CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "


@pytest.fixture(autouse=True)
def some_gradio(monkeypatch):
    """The version is written down; only the tests that start a Space need one."""
    monkeypatch.setattr(publishing_space, "gradio_version", lambda: "6.31.0")
    monkeypatch.setattr(hub_upload, "gradio_version", lambda: "6.31.0")


@pytest.fixture
def release(folder, tmp_path):
    (tmp_path / "release").mkdir()
    made = prepare_release(folder, tmp_path / "release", "alice/lighthouse", license="other")
    return describe(made, opened_with=(OPENED["versions"],))


@pytest.fixture
def space(release, tmp_path):
    """The files of the release's Space."""
    (tmp_path / "space").mkdir()
    return write_space(tmp_path / "space", release, NO_COMMIT)


@pytest.fixture
def login(hub, monkeypatch):
    token = hub.add_token("alice")
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(hub_upload, "check_release", lambda *_: [OPENED])
    monkeypatch.setattr(publishing_publish, "verify", lambda release, repository, commit: None)
    monkeypatch.setattr(hub_upload, "check_space", lambda *_: "The light")


def test_a_space_names_the_models_commit_its_licence_and_the_versions_that_it_was_checked_with(space, release):
    app, card = space["app.py"].read_text(), ModelCard(space["README.md"].read_text()).data.to_dict()
    assert f'MODEL = "alice/lighthouse"\nPLACE = {{"revision": "{NO_COMMIT}", "trust_remote_code": True}}' in app
    assert space["requirements.txt"].read_text() == "gradio==6.31.0\ntorch==2.13.0\ntransformers==5.23.0\n"
    assert card | {"title": "lighthouse", "sdk": "gradio", "sdk_version": "6.31.0", "python_version": "3.11"} == card
    assert card | {"app_file": "app.py", "models": ["alice/lighthouse"], "license": "other"} == card
    assert "python_version: '3.11'\n" in space["README.md"].read_text()  # as a number, 3.10 would be 3.1

    native = replace(release, facts=replace(release.facts, native=True))
    assert "trust_remote_code" not in write_space(space["app.py"].parent, native, "c" * 40)["app.py"].read_text()
    weather = replace(release, facts=replace(release.facts, pipeline_tag="text-classification"))
    with pytest.raises(InputError, match="--space is for a model that writes text"):
        write_space(space["app.py"].parent, weather, NO_COMMIT)


def test_a_space_is_published_in_one_commit_and_again_only_with_a_new_model(folder, hub, login, capsys):
    command = [str(folder), "alice/lighthouse", "--space"]
    assert hub_upload.main(command) == 0
    model, space = hub.repositories["alice/lighthouse"], hub.repositories["spaces/alice/lighthouse"]
    printed = capsys.readouterr().out
    assert "the Space, started here, answers 'The light'" in printed
    assert printed.endswith(f"{hub.endpoint}/spaces/alice/lighthouse\n")
    assert set(space.files()) == {".gitattributes", "README.md", "app.py", "requirements.txt"}
    assert f'"revision": "{model.branches["main"]}"' in space.files()["app.py"].decode()
    assert [commit.title for commit in space.commits()] == ["Publish with gpt-scratch", "initial commit"]

    # Somebody's own files there stay, and the same release changes nothing.
    hub.commit("spaces/alice/lighthouse", {"packages.txt": b"ffmpeg", "config.json": b"{}", "more.py": b""})
    before = space.branches["main"]
    assert hub_upload.main(command) == 0
    assert f"Space verified: {before} (unchanged)" in capsys.readouterr().out
    assert hub_upload.main([*command, "--language", "en"]) == 0
    assert len(space.commits()) == 4
    assert {"packages.txt", "config.json", "more.py"} < set(space.files())
    assert f'"revision": "{model.branches["main"]}"' in space.files()["app.py"].decode()


def test_a_private_models_space_is_private_and_has_the_name_that_was_asked_for(folder, hub, login, capsys):
    assert hub_upload.main([str(folder), "alice/lighthouse", "--private", "--space", "alice/lamp"]) == 0
    assert hub.repositories["spaces/alice/lamp"].private
    assert "needs a secret HF_TOKEN" in capsys.readouterr().out
    assert {request.token for request in hub.requests if "/spaces/alice/lamp/resolve" in request.path} != {None}

    hub.repositories["spaces/alice/lamp"].private = False
    assert hub_upload.main([str(folder), "alice/lighthouse", "--space", "alice/lamp"]) == 2
    assert "the Space alice/lamp is public" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [("alice/taken", "the Space alice/taken holds something else (app.py)"), ("bob/lamp", "cannot write to bob")],
)
def test_anothers_space_is_refused_before_the_model_is_sent(name, message, folder, hub, login, capsys):
    hub.create("spaces/alice/taken")
    hub.commit("spaces/alice/taken", {"app.py": b"print()"})
    assert hub_upload.main([str(folder), "alice/lighthouse", "--space", name]) == 2
    assert message in capsys.readouterr().err
    assert set(hub.repositories) == {"spaces/alice/taken"}
    assert {request.method for request in hub.requests} == {"GET"}


def test_a_space_that_does_not_work_here_stops_everything(folder, hub, login, monkeypatch, capsys):
    def fail(*_):
        raise InputError("the Space does not start here")

    monkeypatch.setattr(hub_upload, "check_space", fail)
    assert hub_upload.main([str(folder), "alice/lighthouse", "--space"]) == 2
    assert "the Space does not start here" in capsys.readouterr().err
    assert hub.repositories == {}


@pytest.mark.parametrize("where", ["stored", "served"])
def test_a_space_that_arrives_altered_is_named(where, space, hub, place, capsys):
    hub.corrupt(r"app\.py", where=where)
    with pytest.raises(PublishError, match=r"does not verify: app\.py is not what was sent"):
        publish_space(space, place("alice/lighthouse", kind="space"))


@pytest.mark.parametrize("fault", [{"status": 503}, {"drop": "before"}, {"drop": "after"}])
@pytest.mark.parametrize("step", ["/api/repos/create", "/commit/", "/preupload/"])
def test_what_passes_is_tried_again(fault, step, space, hub, place, without_model):
    hub.fault("POST", step, **fault)
    repository = place("alice/lighthouse", kind="space")
    assert publish_space(space, repository).id == hub.repositories["spaces/alice/lighthouse"].branches["main"]
    assert len(hub.repositories["spaces/alice/lighthouse"].commits()) == 2
    assert not hub.faults
    refuse_another_space(repository)


def test_a_token_for_the_model_alone_is_refused_for_its_space(hub, place):
    scope = {"entity": {"type": "model", "name": "alice/lighthouse"}, "permissions": ["repo.write"]}
    place("alice/lighthouse", scopes=[scope]).require_access()
    with pytest.raises(InputError, match="no write access to repositories of alice"):
        place("alice/lighthouse", scopes=[scope], kind="space").require_access()


def test_gradio_is_asked_for_in_one_line(folder, monkeypatch, capsys):
    def missing(name):
        raise publishing_space.PackageNotFoundError(name)

    monkeypatch.undo()
    monkeypatch.setattr(publishing_space, "version", missing)
    assert hub_upload.main([str(folder), "--dry-run", "--space"]) == 2
    assert capsys.readouterr().err == "error: --space needs gradio: pip install '.[space]'\n"


@pytest.mark.slow
def test_the_app_streams_says_what_it_trims_and_chats(release, space, monkeypatch):
    """In processes of their own, asked by Gradio's own client."""
    pytest.importorskip("gradio", reason="needs the extra 'space'")
    with running_space(space, release, NO_COMMIT) as url:
        monkeypatch.setattr("publishing.visit.running_space", lambda *_: nullcontext(url))
        assert check_space(space, release, NO_COMMIT).startswith("The")
        with pytest.raises(InputError, match="does not answer here: The prompt is empty"):
            ask(url, "")

    config = release.folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": CHAT_TEMPLATE}))
    with running_space(space, release, NO_COMMIT) as url:
        from gradio_client import Client

        visitor = Client(url, token=False, verbose=False)
        first, note = visitor.predict("Hello", 8, 0, 1, api_name="/chat")
        assert (bool(first), note) == (True, "")
        for _ in range(3):
            _, note = visitor.predict("What else is there to do?", 8, 0, 1, api_name="/chat")
        assert note.startswith("The model did not read the first ")


def test_an_app_that_does_not_start_or_trim_is_refused(release, space, monkeypatch):
    space["app.py"].write_text("raise SystemExit('no such model')")
    with pytest.raises(InputError, match=r"does not start here \(it ended with 1\): no such model"):
        check_space(space, release, NO_COMMIT)
    monkeypatch.setattr("publishing.visit.running_space", lambda *_: nullcontext("http://127.0.0.1"))
    monkeypatch.setattr("publishing.visit.ask", lambda url, prompt: ("The light", "", 1))
    with pytest.raises(InputError, match=r"(?s)bit by bit.*has trimmed a long prompt"):
        check_space(space, release, NO_COMMIT)
