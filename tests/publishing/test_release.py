"""What `hub_upload.py --dry-run` lets pass and what it refuses, and why."""

import getpass
import json
import shutil
import socket
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

import hub_upload
from configuration.pretraining import PretrainingRecipe
from hub_upload import check_release, describe, prepare_release
from modeling_gpt_scratch import GPTScratchForCausalLM, GPTScratchForTokenClassification
from publishing.confidential import personal_data_in, secrets_in
from publishing.contents import CODE_FILES
from publishing.record import RunRecord
from publishing.release import staging_folder
from publishing.source import read_config
from tests.measurements import LM_EVAL, OPENED
from training.errors import InputError

ROOT = Path(__file__).parents[2]
MODEL = {
    *("README.md", "config.json", *CODE_FILES, "generation_config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json"),
}
RECORD = {"loss.png", "metrics.jsonl", "recipe.yaml", "run.json"}


@pytest.fixture
def folder(run):
    return run / "model"


def edit_json(file, **changes):
    fields = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in (fields | changes).items() if value != "absent"}))


def edit_config(folder, **changes):
    edit_json(folder / "config.json", **changes)


def test_a_good_folder_is_listed(folder, monkeypatch, capsys):
    monkeypatch.setattr(hub_upload, "check_release", lambda *_: [OPENED])
    (folder / "notes.txt").write_text("private")
    (folder / "training_args.bin").write_bytes(b"left by a Trainer")
    assert hub_upload.main([str(folder), "alice/lighthouse", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "it opens with Transformers 5.23.0: " in printed
    listed, left_out = printed.split("stays here:")
    assert left_out.strip() == "notes.txt, training_args.bin"
    assert {line.split("bytes  ")[1] for line in listed.splitlines() if "bytes  " in line} == MODEL | RECORD


def test_a_release_of_another_form_is_whole_too(folder, tmp_path):
    edit_json(folder / "generation_config.json", do_sample=True, temperature=0.7)
    (tmp_path / "native").mkdir()
    native = prepare_release(folder, tmp_path / "native", "alice/lighthouse", native=True)
    assert set(native.files) == {name for name in MODEL | RECORD if not name.endswith(".py")}
    assert "auto_map" not in read_config(native.folder)
    assert set(CODE_FILES) <= set(native.left_at_home)
    settings = json.loads((native.folder / "generation_config.json").read_text())
    assert (settings["do_sample"], settings["temperature"], settings["max_length"]) == (True, 0.7, 64)
    assert "trust_remote_code" not in (native.folder / "README.md").read_text()
    assert check_release(native)[0]["code"].startswith("transformers.models.gpt2")

    GPTScratchForTokenClassification.from_pretrained(folder).to(torch.bfloat16).save_pretrained(tmp_path / "tagger")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path / "tagger")
    (tmp_path / "tagging").mkdir()
    tagging = prepare_release(tmp_path / "tagger", tmp_path / "tagging", "alice/tagger")
    assert set(tagging.files) == MODEL - {"generation_config.json"}
    assert "entity" in check_release(tagging)[0]["answer"]


def spoil_weights(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def add_pickle(folder):
    torch.save({}, folder / "pytorch_model.bin")


def add_import(folder):
    file = folder / "modeling_gpt_scratch.py"
    file.write_text("import einops\n" + file.read_text())


def add_line(folder):
    file = folder / "modeling_gpt_scratch.py"
    file.write_text(file.read_text() + "\nprint('hello')\n")


def other_code(folder):
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    edit_config(folder, auto_map=auto_map | {"AutoModel": "bob/model--modeling_bob.BobModel"})


def retrain(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({name: weight + 0.1 for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"})


def lose_its_record(folder):
    (folder.parent / "run.json").unlink()


FILES_REFUSED = [
    (lambda folder: shutil.rmtree(folder), "does not exist"),
    (lambda folder: (folder / "config.json").unlink(), "has no configuration (config.json): it is no model folder"),
    (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
    (lambda folder: (folder / "config.json").write_text("[]"), "config.json cannot be read: it holds no mapping"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer (tokenizer.json or vocab.json)"),
    (
        lambda folder: (folder / "tokenizer_config.json").unlink(),
        "has no settings of the tokenizer (tokenizer_config.json)",
    ),
    (lambda folder: edit_json(folder / "tokenizer_config.json", auto_map={}), "a tokenizer with code of its own"),
    (
        lambda folder: (folder / "generation_config.json").unlink(),
        "has no settings for writing text (generation_config.json)",
    ),
    (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 9), "model.safetensors cannot be read"),
    (spoil_weights, "model.safetensors holds NaN or infinity in model.norm.weight: take an earlier checkpoint"),
    (lambda folder: (folder / "optimizer.pt").touch(), "holds optimizer.pt, so it is a checkpoint to go on training"),
    (add_pickle, "pytorch_model.bin can run code when it is opened"),
    (lambda folder: (folder / "modeling_gpt_scratch.py").write_text("class"), "is not Python code"),
    (lambda folder: edit_config(folder, auto_map={"AutoModel": 3}), "auto_map is {'AutoModel': 3}, not this project's"),
    (
        lambda folder: edit_config(folder, custom_pipelines={}),
        "custom_pipelines, which name code that is not published",
    ),
    (lambda folder: edit_config(folder, _name_or_path="/srv/x"), "config.json has an absolute path as _name_or_path"),
    (add_import, "modeling_gpt_scratch.py, line 1: imports einops, which users may not have"),
    (add_line, "modeling_gpt_scratch.py is not this project's file, and nobody else's code is published"),
    (other_code, "bob/model--modeling_bob.BobModel"),
    (lambda folder: edit_config(folder, model_type="bob"), "only models of this project are published"),
    (lambda folder: edit_config(folder, architectures=["GPTScratchModel"]), "says architectures ['GPTScratchModel']"),
    (lambda folder: edit_config(folder, auto_map={}), "config.json's auto_map is {}, not this project's"),
    (
        lambda folder: (folder / "modeling_gpt_scratch.py").unlink(),
        "has no code (modeling_gpt_scratch.py): everybody else needs it",
    ),
    (lambda folder: edit_config(folder, hidden_size=40), "does not open: "),
    (lambda folder: (folder / "README.md").symlink_to(folder / "config.json"), "README.md is a symbolic link"),
    (lambda folder: (folder / "README.md").write_text("---\na: [\n---\n"), "README.md's metadata cannot be read"),
    (lambda folder: edit_json(folder.parent / "run.json", result="absent"), "is not finished: run.json"),
    (lambda folder: (folder.parent / "run.json").write_text("{"), "record beside"),
    (retrain, "are not those that the run beside it wrote, so its record says nothing of them"),
]


@pytest.mark.parametrize(("damage", "message"), FILES_REFUSED)
def test_a_folder_that_no_release_can_be_made_of_is_refused(damage, message, folder, capsys):
    damage(folder)
    assert hub_upload.main([str(folder), "alice/lighthouse", "--dry-run"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert all(line.startswith("error: ") for line in captured.err.splitlines() if "Loading weights" not in line)
    assert "would be published" not in captured.out


def test_a_release_that_strangers_could_not_use_is_refused_with_every_reason(folder, capsys):
    (folder.parent / "run.json").unlink()  # the record of other weights
    weights = load_file(folder / "model.safetensors")
    embeddings = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = torch.cat([embeddings, embeddings[:1]])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    edit_config(folder, vocab_size=401, eos_token_id=3, num_hidden_layers=3)
    edit_json(folder / "generation_config.json", pad_token_id=7)
    edit_json(folder / "tokenizer_config.json", model_max_length=65)
    (folder / "README.md").write_text(f"---\nlanguage: English\n---\nTODO: hf_{'a1' * 20}\n")

    assert hub_upload.main([str(folder), "alice/lighthouse", "--dry-run"]) == 2
    captured = capsys.readouterr()
    for message in (
        "missing weights: model.layers.2.",
        "eos_token_id in config.json is 3, but the tokenizer's is 0",
        "pad_token_id in generation_config.json is 7, but the tokenizer's is 1",
        "the tokenizer's model_max_length is 65, but the model has 64 positions",
        "the tokenizer has 400 tokens, but vocab_size is 401: it belongs to another model",
        "README.md still says 'TODO'",
        "README.md holds a Hugging Face token",
        "the language 'English', which is no ISO 639 code",
    ):
        assert message in captured.err
    assert "a1a1" not in captured.err + captured.out
    assert "would be published" not in captured.out


@pytest.mark.parametrize(
    "secret",
    [
        "hf_" + "aB3" * 12,
        "hf_oauth_eyJ" + "aB3." * 10,
        "hf_jwt_" + "aB3-" * 10,
        "token_hf_" + "aB3" * 12,
        "AWS_SECRET_ACCESS_KEY=" + "aB3+" * 10,
        "sk-proj-" + "aB3_" * 10,
        "AKIA" + "ABCD" * 4,
        "ghp_" + "aB3" * 12,
        "github_pat_" + "aB3_" * 10,
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "wandb_v1_" + "aB3_" * 19,
        "WANDB_API_KEY=" + "0f" * 20,
        '"wandb_api_key": "' + "0f" * 20,
        'wandb.login(key="' + "0f" * 20,
        "wandb login " + "0f" * 20,
        "AIza" + "aB3_-" * 7,
        "GOCSPX-" + "aB3_" * 7,
        "ya29." + "aB3_" * 20,
        "xoxb-" + "123456789012-" * 2 + "aB3" * 8,
        "xoxe.xoxp-1-" + "aB3" * 20,
        "xapp-1-A0B1C2-" + "aB3" * 20,
        "https://hooks.slack.com/services/T0AB/B0CD/" + "aB3" * 8,
        "glpat-" + "aB3_" * 5,
        "gldt-" + "aB3_" * 5,
        "npm_" + "aB3" * 12,
        "//npm.example.org/:_authToken=" + "aB3-" * 9,
        "//npm.example.org/:_password=" + "aB3=" * 2,
        "machine api.wandb.ai login user password aB3",
        "machine example.org\n  login ann\n  password aB3",
        "machine localhost login ann password aB3",
        "\ndefault login ann password aB3",
        "what the user is logged in with",
    ],
)
def test_a_secret_is_found_in_any_file_and_never_shown(secret, tmp_path):
    (tmp_path / ".eval_results").mkdir()
    for name in ("README.md", "tokenizer.json", ".eval_results/task.yaml", "loss.png"):
        (tmp_path / name).write_bytes(b"\x89PNG\x00 " + secret.encode() + b" ")
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors", {"note": secret})
    found = secrets_in(tmp_path, "what the user is logged in with")
    files = [".eval_results/task.yaml", "README.md", "loss.png", "model.safetensors", "tokenizer.json"]
    assert [line.split(" holds ")[0] for line in found] == files
    assert not any(secret in line for line in found)


def test_ordinary_text_is_no_secret(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    for file in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("modeling_gpt_scratch/*.py")]:
        shutil.copy(file, tmp_path)
    lines = (
        "sk-estimator-doc-link-fitted-and-long, sk-learn-pipeline-classifier-v2/README.md",
        "hf_hub_download, BEGIN PRIVATE KEY",
        "npm_config_registry, xoxo-love-letters-2024, xapp-name, glpat-, AIzawa",
        "//npm.example.org/:_authToken=${NPM_TOKEN}",
        "machine learning login form password x; the default login form password field",
        "machine learning, log in with a password; a machine's login and password",
        f"wandb login; tracked by wandb 0.22 at commit {'0f' * 20}; WANDB_API_KEY is not set",
    )
    (tmp_path / "notes.md").write_text("\n".join(lines))
    (tmp_path / "run.json").write_text(json.dumps({"versions": {"wandb": "0.22.3"}, "git_commit": "0f" * 20}))
    assert secrets_in(tmp_path, None) == []


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("/srv/books", "an absolute path"),
        ("see /srv", "an absolute path"),
        ("~/books", "an absolute path"),
        ("C:\\books", "an absolute path"),
        ("file:///srv", "an absolute path"),
        ("bob@lab.example.org", "an address"),
        ("run-of-ann", "your user name"),
        ("books on LIGHTHOUSE-7", "this machine's name"),
    ],
)
def test_a_record_that_names_somebody_or_some_place_is_refused(value, what, monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "ann")
    monkeypatch.setattr(socket, "gethostname", lambda: "lighthouse-7")
    recipe, run = {"corpus": value, "seed": 1}, {"data": {"corpus": [{"path": value}]}}
    assert personal_data_in(RunRecord(recipe, run, ()), "bob") == [
        f"recipe.yaml: corpus holds {what}: change it in the run folder",
        f"run.json: data.corpus.path holds {what}: change it in the run folder",
    ]


def test_a_finished_runs_own_record_names_nobody(finished_run, monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "house")  # a part of a word is no name
    recipe = yaml.safe_load((finished_run / "recipe.yaml").read_text())
    run = json.loads((finished_run / "run.json").read_text())
    assert personal_data_in(RunRecord(recipe, run, ()), "alice") == []
    monkeypatch.setattr(getpass, "getuser", lambda: "alice")  # who publishes under this name
    hub = {"corpus": "hf:alice/texts", "data_dir": "data/x", "note": "https://example.org/a and 3/4 @ 2.5 GHz"}
    assert personal_data_in(RunRecord(hub, {}, ()), "alice") == []
    assert personal_data_in(RunRecord(hub, {}, ()), "lab") != []


def test_a_checkpoint_that_is_still_being_saved_is_refused(finished_run, tmp_path, capsys):
    shutil.copytree(finished_run / "model", tmp_path / ".saving" / "checkpoint-4")
    assert hub_upload.main([str(tmp_path / ".saving" / "checkpoint-4"), "alice/lighthouse", "--dry-run"]) == 2
    assert "is a checkpoint that is still being saved, or was given up" in capsys.readouterr().err


def test_the_card_tells_what_the_record_says(folder, tmp_path):
    (tmp_path / "release").mkdir()
    release = prepare_release(folder, tmp_path / "release", "alice/lighthouse", revision="v1", languages=("en",))
    card = ModelCard.load(release.folder / "README.md")
    record = json.loads((folder.parent / "run.json").read_text())["result"]
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-generation"
    assert card.data.language == ["en"]
    assert card.data.metrics == ["loss", "perplexity", "bits_per_byte"]
    measured = {(result.dataset_split, result.metric_type): result.metric_value for result in card.data.eval_results}
    assert measured["test", "loss"] == round(record["test_loss"], 4)
    assert measured["validation", "bits_per_byte"] == round(record["eval_bits_per_byte"], 4)
    for text in (
        f"{record['parameters']:,} parameters",
        f"{record['tokens']:,} (",
        "trained from scratch on text that is not published here (`lighthouse`)",
        " seconds, ",
        "![Loss by step](loss.png)",
        'revision="v1"',
        f"runs these {len(CODE_FILES)} files",
        *(f"| `{name}` | `{sha256}` |" for name, sha256 in release.facts.code.items()),
        "convert alice/lighthouse as-gpt2 --to gpt2",
    ):
        assert text in card.text, text
    assert set(release.facts.code) == set(CODE_FILES)


@pytest.mark.parametrize(
    ("corpus", "dataset", "language", "text"),
    [
        ({"corpus": "bob/texts", "revision": "0f" * 20}, ["bob/texts"], ["und"], "the dataset bob/texts"),
        ({"corpus": "stdlib", "python": "3.11.7"}, None, ["code"], "the source of Python 3.11.7's standard library"),
        ({"corpus": "stdlib", "files": 3}, None, ["und"], "text that is not published here (`stdlib`)"),
    ],
)
def test_the_card_knows_the_text_of_prepared_data(corpus, dataset, language, text, folder, tmp_path):
    recipe = PretrainingRecipe.load(folder.parent / "recipe.yaml", {"corpus": "/srv/prepared/stdlib-1a2b"})
    (folder.parent / "recipe.yaml").write_text(recipe.dump())
    data = json.loads((folder.parent / "run.json").read_text())["data"]
    edit_json(folder.parent / "run.json", data=data | {"corpus": corpus | {"sha256": data["corpus"]["sha256"]}})
    (tmp_path / "release").mkdir()
    release = prepare_release(folder, tmp_path / "release", "alice/lighthouse")
    card = ModelCard.load(release.folder / "README.md")
    assert (card.data.datasets, card.data.language) == (dataset, language)
    assert f"trained from scratch on {text}" in card.text
    assert {result.dataset_type for result in card.data.eval_results} == {corpus["corpus"]}
    assert personal_data_in(release.facts.record, "alice") == []  # of an absolute path no more than its end is recorded


def test_the_card_lists_each_environment_of_a_run_once(folder, tmp_path):
    run = json.loads((folder.parent / "run.json").read_text())
    [start] = run["starts"]
    hardware = {"device": "NVIDIA H100", "count": 8, "unit": "GPUs", "system": "Linux x86_64"}
    first = {"step": 0, "hardware": hardware, "versions": {"torch": "2.12.0"}, "git_commit": None}
    edit_json(folder.parent / "run.json", starts=[first, first | {"step": 2}, start | {"step": 3}])
    (tmp_path / "release").mkdir()
    text = (prepare_release(folder, tmp_path / "release", "alice/lighthouse").folder / "README.md").read_text()
    assert f"| Hardware | NVIDIA H100, 8 GPUs (Linux x86_64); then {start['hardware']['device']}, " in text
    assert f"| Versions | torch 2.12.0; then python {start['versions']['python']}, " in text
    assert text.count("NVIDIA H100") == 1


def test_a_model_is_published_from_a_place_that_cannot_be_written(folder, monkeypatch):
    make = tempfile.mkdtemp

    def refuse(suffix=None, prefix=None, dir=None):
        if dir is not None:
            raise PermissionError(f"{dir} is for reading only")
        return make(suffix, prefix, dir)

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with staging_folder(folder) as staging:
        assert staging.parent == Path(tempfile.gettempdir())
    assert not staging.exists()


def test_the_card_says_what_opened_it_and_what_it_was_tuned_from_and_offers_what_works(tiny_model, tokenizer, tmp_path):
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    tiny_model(vocab_size=400, intermediate_size=96, **special).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "release").mkdir()
    release = prepare_release(
        tmp_path / "model", tmp_path / "release", "alice/tuned", revision=None, base_model="bob/base"
    )
    versions = {"transformers": "5.15.0", "torch": "2.13.0", "python": "3.11.7"}
    release = describe(release, opened_with=(versions, versions | {"transformers": "5.23.0"}))
    card = ModelCard.load(release.folder / "README.md")
    assert card.data.base_model == "bob/base"
    assert "tuned from [bob/base](https://huggingface.co/bob/base)" in card.text
    assert "| 5.15.0 | 2.13.0 | 3.11.7 |\n| 5.23.0 | 2.13.0 | 3.11.7 |\n" in card.text
    assert "--to gpt2" not in card.text  # refused: its MLP is three times as wide
    # Nobody knows the commit that a pull request will be merged as.
    assert "The snippets load the newest commit" in card.text
    assert 'from_pretrained("alice/tuned", trust_remote_code=True)' in card.text


def test_a_release_lies_beside_its_model_while_it_is_checked(folder, monkeypatch, capsys):
    seen = []

    def look(release, token, versions):
        weights = release.files["model.safetensors"]
        seen.append((release.folder.parent, release.folder.name[:9], weights.stat().st_ino))
        return [OPENED]

    monkeypatch.setattr(hub_upload, "check_release", look)
    assert hub_upload.main([str(folder), "--dry-run"]) == 0
    assert seen == [(folder.parent.resolve(), ".release-", (folder / "model.safetensors").stat().st_ino)]
    assert not list(folder.parent.glob(".release-*"))
    assert "would be published as v1:" in capsys.readouterr().out


def test_an_authors_own_card_is_kept_and_its_metadata_completed(folder, tmp_path):
    (folder / "README.md").write_text("---\nlicense: mit\ntags:\n- poetry\n---\n\n# Mine\n\nAll of it.\n")
    (tmp_path / "release").mkdir()
    release = prepare_release(folder, tmp_path / "release", "alice/lighthouse")
    card = ModelCard.load(release.folder / "README.md")
    assert card.text.strip() == "# Mine\n\nAll of it."
    assert (card.data.license, card.data.tags, card.data.language) == ("mit", ["poetry"], ["und"])


def test_results_of_lm_eval_are_on_the_card_and_in_the_hubs_own_form(folder, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(LM_EVAL))
    (tmp_path / "release").mkdir()
    evaluations = (tmp_path / "results.json",)
    release = prepare_release(folder, tmp_path / "release", "alice/lighthouse", evaluations=evaluations)
    result = ModelCard.load(release.folder / "README.md").data.eval_results[-1]
    assert (result.dataset_type, result.metric_type, result.metric_value) == (
        "EleutherAI/lambada_openai",
        "acc",
        0.1235,
    )
    [entry] = yaml.safe_load(release.files[".eval_results/lambada_openai.yaml"].read_text())
    assert entry["dataset"] == {"id": "EleutherAI/lambada_openai", "task_id": "lambada_openai"}
    assert (entry["value"], entry["notes"]) == (0.1235, "acc, 0-shot")

    with pytest.raises(InputError, match="release is not empty, and all that it holds would be published"):
        prepare_release(folder, tmp_path / "release", "alice/lighthouse")
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "another").mkdir()
    with pytest.raises(InputError, match="holds no results of lm-eval"):
        prepare_release(folder, tmp_path / "another", "alice/lighthouse", evaluations=evaluations)


def test_a_model_without_a_record_says_so(tiny_model, tokenizer, tmp_path):
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    GPTScratchForCausalLM(tiny_model(vocab_size=400, **special).config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "release").mkdir()
    release = prepare_release(tmp_path / "model", tmp_path / "release", "alice/lighthouse")
    assert set(release.files) == MODEL
    text = (release.folder / "README.md").read_text()
    assert "This repository holds no record of how the model was trained" in text
    assert "No measurements are recorded" in text
    assert ModelCard(text).data.license == "unknown"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "OWNER/NAME is missing"),
        (["alice"], "alice is no repository's name: write OWNER/NAME"),
        (["alice/-x"], "alice/-x is no repository's name: "),
        (["alice/a--b"], "alice/a--b is no repository's name: Cannot have -- or .."),
        (["alice/model.git"], "alice/model.git is no repository's name: "),
        (["alice/" + "x" * 97], "is no repository's name: "),
        (["alice/x", "--base-model", "runs/demo/model"], "runs/demo/model is no repository's name: write OWNER/NAME"),
        (["alice/x", "--check-with", "5.15.0,latest"], "'latest' is no version of Transformers"),
        (["alice/x", "--tag", 'v 1 "beta"'], "is no name that git allows"),
        (["alice/x", "--revision", "a..b"], "is no name that git allows"),
        (["alice/x", "--tag", "main"], "--tag main is the branch's name, which only one of the two can have"),
        (["alice/x", "--tag", "v1", "--revision", "v1"], "--tag v1 is the branch's name"),
        (["alice/x", "--license", "My Own"], "--license My Own is no licence's name on the Hub"),
        (["alice/x", "--create-pr", "--tag", "v1"], "--create-pr makes none: tag it when it is merged"),
        (["alice/x", "--create-pr", "--private"], "--create-pr needs one that exists"),
        (["alice/x", "--create-pr", "--revision", "b"], "leave one of the two out"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, folder, capsys):
    assert hub_upload.main([str(folder), *options]) == 2
    assert message in capsys.readouterr().err
