"""What a configuration promises: GPT-2 small by default, an exact round trip through JSON, no nonsense accepted."""

import dataclasses
import doctest
import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from modeling_gpt_scratch import (
    GPTScratchConfig,
    GPTScratchForCausalLM,
    GPTScratchForSequenceClassification,
    GPTScratchForTokenClassification,
    GPTScratchModel,
    configuration_gpt_scratch,
)

AUTO_MAP = {
    "AutoConfig": "configuration_gpt_scratch.GPTScratchConfig",
    "AutoModel": "modeling_gpt_scratch.GPTScratchModel",
    "AutoModelForCausalLM": "modeling_gpt_scratch.GPTScratchForCausalLM",
    "AutoModelForSequenceClassification": "modeling_gpt_scratch.GPTScratchForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_gpt_scratch.GPTScratchForTokenClassification",
}
EVERY_FIELD = {
    "vocab_size": 300,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "intermediate_size": 100,
    "max_position_embeddings": 77,
    "hidden_act": "relu",
    "qkv_bias": False,
    "embedding_dropout": 0.1,
    "attention_dropout": 0.2,
    "residual_dropout": 0,
    "classifier_dropout": 0.3,
    "classifier_bias": True,
    "layer_norm_eps": 1e-6,
    "initializer_range": 0.03,
    "tie_word_embeddings": False,
    "use_cache": False,
    "bos_token_id": 1,
    "eos_token_id": [1, 2],
    "pad_token_id": 0,
}


def test_defaults_are_gpt2_small():
    with torch.device("meta"):
        model = GPTScratchForCausalLM(GPTScratchConfig())
    assert model.num_parameters() == 124_439_808
    assert model.config.max_position_embeddings == 1024


def test_mlp_is_four_times_the_width_unless_told_otherwise(tiny_config):
    assert tiny_config().intermediate_size == 128
    assert tiny_config(intermediate_size=50).intermediate_size == 50


@pytest.mark.parametrize("fields", [{}, EVERY_FIELD], ids=["defaults", "every field set"])
def test_json_round_trip_changes_nothing(fields, tmp_path):
    config = GPTScratchConfig(**fields)
    config.save_pretrained(tmp_path / "first")
    loaded = AutoConfig.from_pretrained(tmp_path / "first")
    assert type(loaded) is GPTScratchConfig
    assert all(getattr(loaded, name) == value for name, value in fields.items())
    for field in dataclasses.fields(GPTScratchConfig):
        if field.name != "transformers_version":  # written on saving
            assert getattr(loaded, field.name) == getattr(config, field.name), field.name
    loaded.save_pretrained(tmp_path / "second")
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "second"))
    assert first == second


def test_every_field_set_covers_the_declared_fields():
    own = set(GPTScratchConfig.__annotations__)
    assert own == set(EVERY_FIELD)
    default = GPTScratchConfig()
    assert [name for name, value in EVERY_FIELD.items() if value == getattr(default, name)] == ["residual_dropout"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", "32"),
        ("hidden_size", 32.0),
        ("num_hidden_layers", None),
        ("intermediate_size", "128"),
        ("hidden_act", None),
        ("qkv_bias", "yes"),
        ("residual_dropout", "0.1"),
        ("layer_norm_eps", "1e-5"),
        ("tie_word_embeddings", 1),
        ("eos_token_id", "<|endoftext|>"),
        ("eos_token_id", [1, "2"]),
        ("pad_token_id", 1.0),
    ],
)
def test_wrong_types_are_refused_by_name(field, value, tiny_config):
    with pytest.raises(StrictDataclassError, match=field):
        tiny_config(**{field: value})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": 5}, "hidden_size is 32, not a multiple of num_attention_heads, which is 5"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, but must be at least 1"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"hidden_size": -4}, "hidden_size is -4"),
        ({"intermediate_size": 0}, "intermediate_size is 0"),
        ({"max_position_embeddings": 0}, "max_position_embeddings is 0"),
        ({"attention_dropout": 1.0}, r"attention_dropout is 1.0, but a dropout probability lies in \[0, 1\)"),
        ({"embedding_dropout": -0.1}, "embedding_dropout is -0.1"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps is 0.0, but must be positive"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
        ({"initializer_range": -0.02}, "initializer_range is -0.02"),
        ({"hidden_act": "gelo"}, "hidden_act is 'gelo', which is not one of .*gelu_pytorch_tanh"),
        ({"pad_token_id": 128}, "pad_token_id is 128, outside of the vocabulary of 128 tokens"),
        ({"eos_token_id": [0, -1]}, "eos_token_id is -1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, message, tiny_config):
    with pytest.raises(StrictDataclassError, match=message):
        tiny_config(**fields)


def test_one_message_lists_every_problem(tiny_config):
    fields = {
        "num_hidden_layers": 0,
        "num_attention_heads": 5,
        "residual_dropout": 1.5,
        "initializer_range": 0.0,
        "hidden_act": "gelo",
        "bos_token_id": 128,
        "eos_token_id": [0, 500],
    }
    with pytest.raises(StrictDataclassError) as caught:
        tiny_config(**fields)
    message = str(caught.value)
    assert [name for name in fields if f"{name} is " not in message and f"{name}, which is " not in message] == []


def test_a_bad_assignment_is_refused_when_saving(tiny_config, tmp_path):
    config = tiny_config()
    config.num_attention_heads = 5
    with pytest.raises(StrictDataclassError, match="not a multiple of num_attention_heads"):
        config.save_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("build", "code_file"),
    [
        (lambda config: config, "configuration_gpt_scratch.py"),
        (GPTScratchModel, "modeling_gpt_scratch.py"),
        (GPTScratchForCausalLM, "modeling_gpt_scratch.py"),
        (GPTScratchForSequenceClassification, "modeling_gpt_scratch.py"),
        (GPTScratchForTokenClassification, "modeling_gpt_scratch.py"),
    ],
    ids=["config", "model", "causal lm", "sequence classification", "token classification"],
)
def test_auto_map_is_complete_and_code_is_there_whichever_class_saves(build, code_file, tiny_config, tmp_path):
    saved = build(tiny_config())
    for folder in (tmp_path / "first", tmp_path / "second"):  # the second is saved by what was loaded from the first
        saved.save_pretrained(folder)
        assert json.loads((folder / "config.json").read_text())["auto_map"] == AUTO_MAP
        assert (folder / "configuration_gpt_scratch.py").is_file()
        assert (folder / code_file).is_file()
        saved = type(saved).from_pretrained(folder)


def test_docstring_example_runs():
    results = doctest.testmod(configuration_gpt_scratch)
    assert results.attempted == 3
    assert results.failed == 0
