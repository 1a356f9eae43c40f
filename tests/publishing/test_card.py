"""The model card says what is known of a model, and of what is not known that it is not."""

import json
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard

from configuration.pretraining import PretrainingRecipe
from modeling_gpt_scratch import GPTScratchForCausalLM, GPTScratchForSequenceClassification
from publishing.card import problems_of_card
from publishing.confidential import personal_data_in
from publishing.contents import CODE_FILES
from publishing.release import describe, prepare_release
from tests.measurements import LM_EVAL
from tests.publishing.model_folder import MODEL, edit_json
from training.errors import InputError
from training.files import weights_sha256


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
        (
            {"corpus": "texts+a", "corpora": [{"corpus": "bob/texts", "revision": "0f" * 20}, {"corpus": "a"}]},
            ["bob/texts"],
            ["und"],
            "the dataset bob/texts (75%) and text that is not published here (`a`) (25%)",
        ),
    ],
)
def test_the_card_knows_the_text_of_prepared_data(corpus, dataset, language, text, folder, tmp_path):
    weights = {"corpus_weights": "[3, 1]"} if "corpora" in corpus else {}
    recipe = PretrainingRecipe.load(folder.parent / "recipe.yaml", {"corpus": "/srv/prepared/stdlib-1a2b"} | weights)
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


SHA256 = "0f" * 32
WEIGHTS = {"model.safetensors": SHA256}
GPT2 = {"name": "openai-community/gpt2", "revision": "1e" * 20, "weights": WEIGHTS}
# Continued from a run's model that was itself continued from GPT-2, whose own tokens nobody has recorded.
PARENT = {"name": "runs/a/model", "revision": None, "weights": WEIGHTS, "tokens": 2048, "parent": GPT2}
FROM_SCRATCH = PARENT | {"parent": None, "positions": {"trained": 32, "now": 64, "new": "interpolate"}}
LINKED = "[{0}](https://huggingface.co/{0})".format


@pytest.mark.parametrize(
    ("parent", "named", "base_model", "origin", "rows"),
    [
        (PARENT, None, None, "`runs/a/model`", ["in this run; its first weights on at least 2,048 before"]),
        (PARENT, "bob/base", "bob/base", LINKED("bob/base"), ["`runs/a/model`: `model.safetensors` with the sha256"]),
        (
            GPT2,
            None,
            "openai-community/gpt2",
            LINKED("openai-community/gpt2"),
            [
                f"`openai-community/gpt2` at the commit `{'1e' * 20}`: `model.safetensors` with the sha256 `{SHA256}`",
                "in this run; what its first weights were trained on is not recorded here",
            ],
        ),
        (
            FROM_SCRATCH,
            None,
            None,
            "`runs/a/model`",
            ["in this run; its first weights on 2,048 before", "| Positions | 64, interpolated from 32 trained ones |"],
        ),
    ],
)
def test_the_card_of_a_continued_pretraining_names_what_it_began_with(
    parent, named, base_model, origin, rows, folder, tmp_path
):
    edit_json(folder.parent / "run.json", program="pretrain", parent=parent)
    (tmp_path / "release").mkdir()
    release = prepare_release(folder, tmp_path / "release", "alice/lighthouse", base_model=named)
    card = ModelCard.load(release.folder / "README.md")
    text = "text that is not published here (`lighthouse`)"
    assert f"parameters, continued from {origin} on {text} (see [Training](#training)).\n" in card.text
    assert all(row in card.text for row in rows)
    assert "from scratch" not in card.text
    assert "Unless its author says otherwise, it has not been taught" in card.text
    assert "| Tokens seen | 1,024 (" in card.text
    assert (card.data.base_model, card.data.license) == (base_model, "unknown")
    assert card.data.metrics == ["loss", "perplexity", "bits_per_byte"]
    assert problems_of_card((release.folder / "README.md").read_text(), release.facts) == []


@pytest.mark.parametrize("parent", [PARENT, None])
def test_the_card_of_another_programs_run_tells_what_its_record_has(parent, folder, tmp_path):
    model = GPTScratchForSequenceClassification.from_pretrained(folder, id2label={0: "calm", 1: "stormy"})
    run = tmp_path / "weather"
    model.save_pretrained(run / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, run / "model")
    (run / "recipe.yaml").write_text("learning_rate: 5.0e-5\nprecision: fp32\nschedule: null\nwarmup_steps: 9\n")
    start = {
        "hardware": {"device": "CPU", "count": 2, "unit": "threads", "system": "Linux"},
        "versions": {"torch": "2"},
    }
    result = {"model_sha256": weights_sha256(run / "model"), "parameters": 40_000, "steps": 1200, "seconds": 9.0}
    result |= {"eval_loss": 0.25, "eval_accuracy": 0.975, "eval_runtime": 0.1, "eval_samples_per_second": 9.0}
    data = {"dataset": "bob/weather", "examples": 1494, "split": {"kind": "shuffled"}}
    record = {**start, "program": "classify", "parent": parent, "data": data, "result": result}
    (run / "run.json").write_text(json.dumps(record))
    (tmp_path / "release").mkdir()
    release = prepare_release(run / "model", tmp_path / "release", "alice/weather")
    card = ModelCard.load(release.folder / "README.md")
    beginning = ", beginning with `runs/a/model` (see [Training](#training))" if parent else ""
    assert f"trained by gpt-scratch's `classify`{beginning}.\n" in card.text
    assert "from scratch" not in card.text
    rows = (
        "| Program | `classify` |",
        *([f"| Began with | `runs/a/model`: `model.safetensors` with the sha256 `{SHA256}` |"] if parent else []),
        "| Data | dataset bob/weather, examples 1494 |",
        "| Steps | 1,200 |",
        "| Precision | fp32 |",
        "| Hardware | CPU, 2 threads (Linux) |",
        "| Time | 9 seconds |",
        "| Versions | torch 2 |",
        "| Trained by commit | not recorded |",
    )
    assert "\n".join(rows) + "\n\n" in card.text
    measured = {(result.task_type, result.metric_type): result.metric_value for result in card.data.eval_results}
    assert measured == {("text-classification", "loss"): 0.25, ("text-classification", "accuracy"): 0.975}
    assert problems_of_card((release.folder / "README.md").read_text(), release.facts) == []
