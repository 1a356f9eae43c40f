"""Each check of a release by itself: it finds what it is for, and lets pass what is right."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

import modeling_gpt_scratch
from publishing import stranger, verification
from publishing.record import RunRecord
from publishing.release import prepare_release
from publishing.verification import check_release, open_as_stranger, problems_found
from training.errors import InputError

# What a fresh process reports of a good release.
GOOD = {
    "versions": {"transformers": "5.23.0", "torch": "2.13.0", "python": "3.11.7"},
    "altered": [],
    "code": "transformers_modules.a.modeling_gpt_scratch",
    "finite": True,
    "logits_shape": [[1, 16, 400], [1, 16, 400]],
    "logits_difference": 1e-6,
    "missing": [],
    "unexpected": [],
    "mismatched": [],
    "tokens": 400,
    "tokenizer_sha256": "0f",
    "vocab_size": 400,
    "special_tokens": {"eos_token_id in config.json": [0, 0], "pad_token_id in generation_config.json": [None, None]},
    "lengths": [64, 64],
    "padding_difference": 1e-6,
    "answer": "The",
}
# The largest of the source's logits.
LARGEST = 10.0


def found_by(changes, native=False, recipe=None, tokenizer_sha256="another"):
    record = None if recipe is None else RunRecord(recipe, {"data": {"tokenizer_sha256": tokenizer_sha256}}, ())
    facts = SimpleNamespace(native=native, record=record)
    probe = {"logits": torch.tensor([-LARGEST, 2.0])}
    return problems_found(SimpleNamespace(facts=facts, probe=probe), GOOD | changes)


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {}),
        ({"code": "transformers.models.gpt2.modeling_gpt2"}, {"native": True}),
        ({"logits_difference": 2.9e-5 * LARGEST}, {}),
        ({"padding_difference": 0.9e-4}, {}),
        ({"tokens": 390, "vocab_size": 448}, {}),  # rounded up, as GPUs like it
        ({"tokens": 390, "vocab_size": 500}, {"recipe": {"pad_vocab_to_multiple_of": 250}}),
        ({"tokens": 290, "vocab_size": 300}, {"recipe": {}, "tokenizer_sha256": "0f"}),  # it ran out of text
        ({"special_tokens": {"eos_token_id in generation_config.json": [0, [5, 0]]}}, {}),
        ({"special_tokens": {"eos_token_id in config.json": [7, 7], "pad_token_id in config.json": [None, 7]}}, {}),
        ({"lengths": [32, 64]}, {}),
    ],
)
def test_what_is_right_passes(changes, options):
    assert found_by(changes, **options) == []


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"altered": ["config.json"], "code": "wrong"}, {}, "these files are not what was sent: config.json"),
        ({"code": "transformers.models.gpt2.modeling_gpt2"}, {}, "not the code that comes with the release"),
        ({}, {"native": True}, "the model ran transformers_modules.a.modeling_gpt_scratch, not the code"),
        ({"missing": ["a", "b"]}, {}, "missing weights: a, b"),
        ({"unexpected": ["a"]}, {}, "unexpected weights: a"),
        ({"mismatched": ["a"]}, {}, "mismatched weights: a"),
        ({"finite": False}, {}, "the logits are not finite"),
        ({"logits_difference": 3.1e-5 * LARGEST}, {}, "the logits differ from the source folder's by 3.10e-04"),
        ({"logits_difference": math.nan}, {}, "the logits differ from the source folder's by nan"),
        ({"code": "transformers.models.gpt2", "logits_difference": 1.0}, {"native": True}, "the logits differ"),
        ({"padding_difference": 1.1e-4}, {}, "padded on the left gives other logits (1.10e-04)"),
        ({"padding_difference": math.nan}, {}, "padded on the left gives other logits (nan)"),
        ({"vocab_size": 401}, {}, "the tokenizer has 400 tokens, but vocab_size is 401"),
        ({"tokens": 401}, {}, "the tokenizer has 401 tokens, but vocab_size is 400"),
        ({"tokens": 290, "vocab_size": 300}, {"recipe": {}}, "the tokenizer has 290 tokens, but vocab_size is 300"),
        ({"tokens": 401}, {"recipe": {}, "tokenizer_sha256": "0f"}, "the tokenizer has 401 tokens"),
        (
            {"special_tokens": {"eos_token_id in config.json": [7, 7], "pad_token_id in config.json": [None, 8]}},
            {},
            "pad_token_id in config.json is 8, but the tokenizer's is None",
        ),
        (
            {"special_tokens": {"eos_token_id in config.json": [7, 7], "pad_token_id in config.json": [6, 7]}},
            {},
            "pad_token_id in config.json is 7, but the tokenizer's is 6",
        ),
        ({"vocab_size": 500}, {"recipe": {"pad_vocab_to_multiple_of": 0}}, "belongs to another model"),
        ({"special_tokens": {"eos_token_id in config.json": [0, 3]}}, {}, "eos_token_id in config.json is 3, but the"),
        ({"special_tokens": {"eos_token_id in config.json": [0, [3]]}}, {}, "eos_token_id in config.json is [3]"),
        ({"lengths": [65, 64]}, {}, "model_max_length is 65, but the model has 64 positions"),
        ({"lengths": [10**30, 64]}, {}, "model_max_length is not set"),
    ],
)
def test_what_is_wrong_is_found(changes, options, message):
    [problem] = found_by(changes, **options)
    assert message in problem


def test_a_fresh_process_knows_a_runs_tokenizer(finished_run):
    record = json.loads((finished_run / "run.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(finished_run / "model")
    assert stranger.sha256_of_tokenizer(tokenizer) == record["data"]["tokenizer_sha256"]


def test_logits_of_another_shape_are_found():
    release = SimpleNamespace(facts=SimpleNamespace(native=False, record=None), probe={"logits": torch.ones(1)})
    found = GOOD | {"logits_shape": [[1, 16, 2], [1, 16, 400]]}
    del found["logits_difference"]  # not computed then
    [problem] = problems_found(release, found)
    assert problem == "the logits have the shape [1, 16, 2], but the source's have [1, 16, 400]"


@pytest.fixture
def release(finished_run, tmp_path):
    (tmp_path / "release").mkdir()
    return prepare_release(finished_run / "model", tmp_path / "release", "alice/lighthouse")


def test_every_check_is_made_and_all_problems_are_told_together(release, monkeypatch):
    monkeypatch.setattr(verification, "open_as_stranger", lambda *_, **__: GOOD | {"missing": ["a"]})
    release.facts.record.recipe["run_name"] = "/srv/books"
    (release.folder / "recipe.yaml").write_text(f"note: hf_{'a1' * 20}")
    (release.folder / "README.md").write_text("---\nlicense: mit\n---\nTODO\n")
    with pytest.raises(InputError) as refusal:
        check_release(release)
    for message in (
        "recipe.yaml: run_name holds an absolute path",
        "recipe.yaml holds a Hugging Face token",
        "README.md still says 'TODO'",
        "missing weights: a",
    ):
        assert message in str(refusal.value)
    assert "a1a1" not in str(refusal.value)


def test_a_release_with_the_least_visible_mistake_is_refused(tiny_model, tokenizer, tmp_path):
    """The exact GELU in place of its tanh form, in a fresh process: what the tolerance lets pass is less by far."""
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    tiny_model(vocab_size=400, **special).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "release").mkdir()
    release = prepare_release(tmp_path / "model", tmp_path / "release", "alice/lighthouse")
    config = (release.folder / "config.json").read_text()
    assert '"hidden_act": "gelu_pytorch_tanh"' in config
    (release.folder / "config.json").write_text(config.replace("gelu_pytorch_tanh", "gelu"))
    with pytest.raises(InputError, match=r"^the logits differ from the source folder's by \S+$"):
        check_release(release)


def test_libraries_come_through_pythonpath_and_this_project_does_not(release, tmp_path, monkeypatch):
    program = (
        "try:\n    import modeling_gpt_scratch\nexcept ModuleNotFoundError:\n    raise ValueError('found') from None"
    )
    (tmp_path / "torch.py").write_text(program)
    root = modeling_gpt_scratch.__path__[0].rpartition("/")[0]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{root}")
    with pytest.raises(InputError, match=r"ValueError: found$"):
        open_as_stranger(release, str(release.folder), environment={})


@pytest.mark.parametrize("task", ["text-generation", "text-classification"])
def test_padding_is_noticed_by_models_that_do_not_honour_it(task, tiny_model):
    input_ids = torch.randint(1, 128, (16,))
    sizes = {"vocab_size": 128, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "pad_token_id": 0}
    network_class = GPT2LMHeadModel if task == "text-generation" else GPT2ForSequenceClassification
    deaf = network_class(GPT2Config(**sizes, initializer_range=0.5)).eval()
    if task == "text-generation":
        assert stranger.padding_difference(tiny_model(), input_ids, task) < verification.PADDING_TOLERANCE
        forward = deaf.forward
        deaf.forward = lambda *arguments, attention_mask=None, **options: forward(*arguments, **options)
    assert stranger.padding_difference(deaf, input_ids, task) > 0.01
