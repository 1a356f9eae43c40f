"""`hub_upload.py MODEL OWNER/NAME` from end to end, with the real client, against a Hub on this machine."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

import hub_upload
from modeling_gpt_scratch import GPTScratchForSequenceClassification
from publishing import client as publishing_client
from publishing import publish as publishing_publish
from tests.measurements import LM_EVAL, OPENED
from tests.publishing.loopback_hub import LoopbackHub
from tests.strangers import run_program
from training.files import weights_sha256

ROOT = Path(__file__).parents[2]
COMMITTED = re.compile(r"^committed: ([0-9a-f]{40}); now opening it from there$", flags=re.MULTILINE)


@pytest.fixture
def token(hub, monkeypatch):
    """Logs alice in. The processes that open the result take what they need from the environment too."""
    token = hub.add_token("alice")
    monkeypatch.setattr(publishing_client, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", token)
    return token


def publish(*arguments):
    return hub_upload.main([str(argument) for argument in arguments])


def edit_record(run):
    """Makes a run's record one of the weights that are in its model folder now."""
    record = json.loads((run / "run.json").read_text())
    record["result"]["model_sha256"] = weights_sha256(run / "model")
    (run / "run.json").write_text(json.dumps(record))


def read(hub, program, workplace):
    """What a program prints that is run by somebody who has nothing but the libraries, and no token."""
    workplace.mkdir()
    return run_program(program, workplace=workplace, variables=hub.environment(None, workplace / "home")).stdout


def snippets_of(card):
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


@pytest.mark.slow
def test_published_and_read_as_the_card_says(run, tmp_path):
    """With everything as a user has it: the client's default transport, and processes of their own."""
    with LoopbackHub() as hub:
        token = hub.add_token("alice")
        finished = subprocess.run(
            [sys.executable, str(ROOT / "hub_upload.py"), str(run / "model"), "alice/lighthouse"],
            env={**os.environ, **hub.environment(token, tmp_path / "home")},
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        assert token not in finished.stdout + finished.stderr
        commit = COMMITTED.search(finished.stdout).group(1)
        assert f'AutoModelForCausalLM.from_pretrained("alice/lighthouse", revision="{commit}"' in finished.stdout
        assert hub.count("POST", r"/xet/v1/xorbs?/") == 1
        repository = hub.repositories["alice/lighthouse"]
        assert repository.tags == {"v1": commit}
        assert not any(token.encode() in content for content in repository.files("main").values())

        # The card's own snippets, for somebody who is not logged in.
        snippets = snippets_of(repository.files("main")["README.md"].decode())
        assert ['revision="v1"' in snippet for snippet in snippets] == [True] * 3
        assert "The" in read(hub, "\n".join(snippets), tmp_path / "reader")


@pytest.fixture
def without_checks(monkeypatch):
    """For tests of what comes after the checks, which take a process of their own."""
    monkeypatch.setattr(hub_upload, "check_release", lambda *_: [OPENED])


@pytest.fixture
def without_opening(without_checks, monkeypatch):
    """For tests of what is sent; test_hub_faults.py and others below open it from there."""
    monkeypatch.setattr(publishing_publish, "verify", lambda release, repository, commit: None)


def test_published_again_after_more_training_it_is_the_next_version(run, hub, token, without_opening, capsys):
    folder = run / "model"
    assert publish(folder, "alice/lighthouse") == 0
    repository = hub.repositories["alice/lighthouse"]
    first = repository.branches["main"]

    weights = load_file(folder / "model.safetensors")
    weights["model.norm.bias"] += 0.1
    half = {name: weights[name] for name in list(weights)[:5]}
    rest = {name: weights[name] for name in list(weights)[5:]}
    for number, part in ((1, half), (2, rest)):
        save_file(part, folder / f"model-0000{number}-of-00002.safetensors", {"format": "pt"})
    index = dict.fromkeys(half, "model-00001-of-00002.safetensors")
    index |= dict.fromkeys(rest, "model-00002-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "model.safetensors").unlink()
    edit_record(run)
    capsys.readouterr()
    assert publish(folder, "alice/lighthouse") == 0
    printed = capsys.readouterr().out
    assert "deleted: model.safetensors\n" in printed
    second = COMMITTED.search(printed).group(1)
    assert [commit.id for commit in repository.commits()][:2] == [second, first]
    assert repository.tags == {"v1": first, "v2": second}
    pinned = [set(re.findall('revision="(.*?)"', repository.files(tag)["README.md"].decode())) for tag in ("v1", "v2")]
    assert pinned == [{"v1"}, {"v2"}]


def test_published_again_unchanged_it_keeps_its_tag_and_without_evaluation_loses_the_results(
    folder, hub, token, without_opening, capsys, tmp_path
):
    (tmp_path / "results.json").write_text(json.dumps(LM_EVAL))
    command = [folder, "alice/lighthouse", "--evaluation", tmp_path / "results.json"]
    assert publish(*command) == 0
    repository = hub.repositories["alice/lighthouse"]
    commit = repository.branches["main"]
    assert ".eval_results/lambada_openai.yaml" in repository.files()
    capsys.readouterr()
    assert publish(*command) == 0
    printed = capsys.readouterr().out
    assert "nothing to change: already published" in printed
    assert "tag: v1\n" in printed
    assert (repository.branches["main"], repository.tags) == (commit, {"v1": commit})

    # Somebody's own file beside it makes no other release of it; a branch of such a name is no tag, but takes it.
    beside = hub.commit("alice/lighthouse", {"a.gguf": b"x"})
    assert publish(*command, "--tag", "v1") == 0
    assert repository.branches["main"] == beside
    repository.branches["v7"] = commit
    assert publish(folder, "alice/lighthouse") == 0
    assert "deleted: .eval_results/lambada_openai.yaml\n" in capsys.readouterr().out
    assert repository.tags == {"v1": commit, "v8": repository.branches["main"]}
    assert "lambada" not in repository.files()["README.md"].decode()


def test_a_private_branch(folder, hub, token, without_checks, capsys):
    assert publish(folder, "alice/lighthouse", "--private", "--revision", "next") == 0
    repository = hub.repositories["alice/lighthouse"]
    assert repository.private
    assert repository.branches["next"] == COMMITTED.search(capsys.readouterr().out).group(1)
    assert set(repository.files("main")) == {".gitattributes"}


@pytest.mark.slow
def test_a_classifier_as_a_pull_request(folder, hub, token, without_checks, tmp_path, capsys):
    labels = {0: "calm", 1: "stormy"}
    GPTScratchForSequenceClassification.from_pretrained(folder, id2label=labels).save_pretrained(tmp_path / "weather")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path / "weather")
    hub.create("bob/weather")
    assert publish(tmp_path / "weather", "bob/weather", "--language", "en", "--create-pr") == 0
    printed = capsys.readouterr().out
    assert "AutoModelForSequenceClassification.from_pretrained" in printed
    assert printed.splitlines()[-1] == f"{hub.endpoint}/bob/weather/discussions/1"
    assert set(hub.repositories["bob/weather"].files("main")) == {".gitattributes"}

    card = hub.repositories["bob/weather"].files("refs/pr/1")["README.md"].decode()
    assert ModelCard(card).data.pipeline_tag == "text-classification"
    repository = hub.repositories["bob/weather"]
    assert repository.tags == {}
    repository.branches["main"] = repository.pull_requests[1].head  # merged
    assert re.search("'label': '(calm|stormy)'", read(hub, "\n".join(snippets_of(card)), tmp_path / "reader"))


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("stored", "model.safetensors is not what was sent"),
        ("served", "these files are not what was sent: model.safetensors"),
    ],
)
def test_a_corrupted_upload_is_found_by_the_verification(where, found, folder, hub, token, without_checks, capsys):
    hub.corrupt(r"model\.safetensors", where=where)
    assert publish(folder, "alice/lighthouse", "--tag", "v1") == 1
    captured = capsys.readouterr()
    assert found in captured.err
    assert "is there, but does not verify" in captured.err
    assert "verified" not in captured.out
    assert hub.repositories["alice/lighthouse"].tags == {}


@pytest.mark.slow
def test_a_download_that_is_cut_off_is_verified_again(folder, hub, token, without_checks, capsys):
    hub.fault("GET", r"/resolve/.*/tokenizer\.json", truncate=1000, times=1)
    assert publish(folder, "alice/lighthouse") == 0
    assert not hub.faults
    assert "verified: " in capsys.readouterr().out
    # Whoever runs a repository's code has no token.
    assert {request.token for request in hub.requests if "/resolve/" in request.path} == {None}


def test_a_wrong_token_and_a_taken_tag_change_nothing(folder, hub, token, without_checks, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "wrong" * 6)
    assert publish(folder, "alice/lighthouse") == 2
    captured = capsys.readouterr()
    assert "the token is not valid: log in again" in captured.err
    assert "wrong" not in captured.out + captured.err
    assert hub.repositories == {}

    monkeypatch.setenv("HF_TOKEN", token)
    hub.create("alice/lighthouse")
    hub.repositories["alice/lighthouse"].tags["v1"] = hub.commit("alice/lighthouse", {"config.json": b""})
    assert publish(folder, "alice/lighthouse", "--tag", "v1") == 2
    assert "the tag v1 exists and names another release" in capsys.readouterr().err
    assert len(hub.repositories["alice/lighthouse"].commits()) == 2


def test_no_tag_has_the_name_of_a_branch(folder, hub, token, without_opening, capsys):
    assert publish(folder, "alice/lighthouse", "--revision", "v1") == 0
    repository = hub.repositories["alice/lighthouse"]
    assert repository.tags == {"v2": repository.branches["v1"]}
    heads = dict(repository.branches)
    assert publish(folder, "alice/lighthouse", "--tag", "v1") == 2
    assert "v1 is a branch of alice/lighthouse, so no tag can have that name" in capsys.readouterr().err
    assert repository.branches == heads


def test_ctrl_c_and_offline_mode_are_answered_in_one_line(folder, hub, token, capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(hub_upload, "check_release", interrupt)
    assert publish(folder, "alice/lighthouse") == 130
    assert capsys.readouterr().err.startswith("interrupted: ")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert publish(folder, "alice/lighthouse") == 2
    assert capsys.readouterr().err == "error: HF_HUB_OFFLINE is set, so nothing can be published: unset it\n"


PUSH = """
from transformers import AutoTokenizer, DataCollatorForLanguageModeling, Trainer, TrainingArguments
import modeling_gpt_scratch
from transformers import AutoModelForCausalLM
tokenizer = AutoTokenizer.from_pretrained({folder!r})
model = AutoModelForCausalLM.from_pretrained({folder!r})
arguments = TrainingArguments("pushed", push_to_hub=True, hub_model_id="alice/pushed", max_steps=2, report_to=[])
rows = [tokenizer("It was a bright morning, and the gulls said nothing.") for _ in range(8)]
collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collator, processing_class=tokenizer)
trainer.train()
trainer.push_to_hub()
"""
OPEN = """
from transformers import AutoModel, AutoModelForCausalLM, pipeline
AutoModel.from_pretrained("alice/pushed", trust_remote_code=True)
print(AutoModelForCausalLM.from_pretrained("alice/pushed", trust_remote_code=True).__module__)
print(pipeline("text-generation", model="alice/pushed", trust_remote_code=True)("It was")[0]["generated_text"])
"""


@pytest.mark.slow
def test_a_trainers_own_push_to_hub_yields_a_loadable_repository(folder, tmp_path):
    with LoopbackHub() as hub:
        environment = {**os.environ, **hub.environment(hub.add_token("alice"), tmp_path / "home")}
        environment["PYTHONPATH"] = str(ROOT)
        program = PUSH.format(folder=str(folder))
        pushed = subprocess.run(
            [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert pushed.returncode == 0, pushed.stderr
        module, text = read(hub, OPEN, tmp_path / "reader").split("\n", 1)
        assert module.startswith("transformers_modules.")
        assert text.startswith("It was")
