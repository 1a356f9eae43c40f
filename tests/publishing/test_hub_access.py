"""Who may publish where: tokens, rights, organizations, private repositories; refused before anything is changed."""

import pytest

from publishing.repository import Repository
from tests.publishing.small_release import ENDPOINTS, commits_of, publish, published
from training.errors import InputError

pytestmark = pytest.mark.usefixtures("without_model")


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


def test_a_pull_request_needs_a_repository(hub, place, files):
    with pytest.raises(InputError, match="there is nothing to propose this to"):
        publish(place("bob/model", create_pr=True), files)
