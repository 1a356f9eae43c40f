"""What a repository holds before and after: stale files, other models, branches and tags."""

import pytest

from tests.publishing.small_release import commits_of, publish, published
from training.errors import InputError

pytestmark = pytest.mark.usefixtures("without_model")


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


def test_a_branch_is_made_where_there_is_none(hub, place, files):
    publish(place(revision="next"), files)
    assert published(hub, files, "next")
    assert commits_of(hub) == []
