"""Our own folders as sources, and our models there and back again."""

import json
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

from modeling_gpt_scratch import GPTScratchForCausalLM, GPTScratchForSequenceClassification
from modeling_gpt_scratch.conversion import convert
from tests.conversion.architectures import BookModel
from tests.conversion.conversions import (
    SIZES,
    TOLERANCE,
    assert_same_weights,
    gpt2_model,
    random_ids,
    refusal,
    write_gpt2,
    write_source,
    write_tokenizer,
)


@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_there_and_back_gives_the_same_weights(tmp_path, tiny_model, tied, qkv_bias):
    source = tiny_model(tie_word_embeddings=tied, qkv_bias=qkv_bias, **SIZES)
    source.save_pretrained(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "gpt2", target_format="gpt2")
    convert(tmp_path / "gpt2", tmp_path / "again")
    again = GPTScratchForCausalLM.from_pretrained(tmp_path / "again")
    assert_same_weights(source, again)
    assert again.config.tie_word_embeddings is tied
    assert again.config.qkv_bias  # GPT-2's are zero then, but they are there


def test_back_and_there_gives_the_same_weights(tmp_path):
    _, weights, config = gpt2_model(tied=False)
    write_gpt2(tmp_path / "gpt2", weights, config)
    convert(tmp_path / "gpt2", tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "again", target_format="gpt2")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())


def test_our_own_training_checkpoint_becomes_a_model_folder(tmp_path, tiny_model):
    source = tiny_model(tie_word_embeddings=False, qkv_bias=False, bos_token_id=1, **SIZES)
    folder = tmp_path / "checkpoint-3"
    source.save_pretrained(folder)
    write_tokenizer(folder, num_words=20)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "trainer_state.json"):
        (folder / name).write_bytes(b"not to be read")
    (folder / "modeling_gpt_scratch.py").write_text("raise SystemExit('this code must not run')")
    settings = json.loads((folder / "config.json").read_text())
    settings["auto_map"] = {"AutoModel": "elsewhere/code--modeling.Model"}
    (folder / "config.json").write_text(json.dumps(settings))

    assert convert(folder, tmp_path / "output") == 0
    again = GPTScratchForCausalLM.from_pretrained(tmp_path / "output")
    assert_same_weights(source, again)
    assert again.config.bos_token_id == 1
    written = json.loads((tmp_path / "output" / "config.json").read_text())
    assert written["auto_map"]["AutoModel"] == "modeling_gpt_scratch.GPTScratchModel"
    assert "SystemExit" not in (tmp_path / "output" / "modeling_gpt_scratch.py").read_text()
    assert {"optimizer.pt", "training_args.bin"}.isdisjoint(path.name for path in (tmp_path / "output").iterdir())


def test_our_folder_with_leftovers_missing_tensors_or_an_invalid_config_is_refused(tmp_path, capsys, tiny_model):
    source = tiny_model(**SIZES)
    weights = {name: tensor for name, tensor in source.state_dict().items() if name != "lm_head.weight"}
    config = json.loads(source.config.to_json_string(use_diff=False))
    folder = write_gpt2(tmp_path / "head", weights | {"value.weight": torch.ones(3, 32)}, config)
    assert "1 unknown: value.weight" in refusal(capsys, tmp_path, folder, "--to", "gpt2")
    folder = write_gpt2(tmp_path / "untied", weights, config | {"tie_word_embeddings": False})
    assert "1 missing: lm_head.weight" in refusal(capsys, tmp_path, folder)
    folder = write_gpt2(tmp_path / "different", weights | {"lm_head.weight": torch.ones(61, 32)}, config)
    assert "lm_head.weight differs from model.embed_tokens.weight" in refusal(capsys, tmp_path, folder)
    folder = write_gpt2(tmp_path / "invalid", weights, config | {"num_attention_heads": 5})
    assert "not a multiple of num_attention_heads" in refusal(capsys, tmp_path, folder)


@pytest.mark.parametrize("target", ["gpt-scratch", "gpt2", "gguf"])
def test_our_classifier_is_refused_as_one(tmp_path, capsys, tiny_config, target):
    if target == "gguf":
        pytest.importorskip("gguf")
    GPTScratchForSequenceClassification(tiny_config(num_labels=3)).save_pretrained(tmp_path / "source")
    message = refusal(capsys, tmp_path, tmp_path / "source", "--to", target)
    assert "The checkpoint is a classifier, which has score.weight in the place of" in message


@pytest.fixture
def large_place(tmp_path):
    """A folder that does not outlive the test, as those of pytest do."""
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        yield Path(folder)


@pytest.mark.slow
def test_model_of_gpt2_smalls_size_survives_the_whole_way(large_place):
    config = {"vocab_size": 50257, "context_length": 1024, "emb_dim": 768, "n_heads": 12, "n_layers": 12}
    config |= {"drop_rate": 0.0, "qkv_bias": False}
    torch.manual_seed(0)
    with torch.device("meta"):
        names = {name: tensor.shape for name, tensor in BookModel(config).state_dict().items()}
    weights = {
        name: torch.randn(shape) * 0.02 + name.endswith(".scale")
        for name, shape in names.items()
        if not name.endswith("mask")
    }
    convert(write_source(large_place / "book", weights, config, "model.safetensors"), large_place / "ours")
    assert convert(large_place / "ours", large_place / "gpt2", target_format="gpt2") < TOLERANCE
    assert convert(large_place / "gpt2", large_place / "again") < TOLERANCE

    ours, again = (GPTScratchForCausalLM.from_pretrained(large_place / name) for name in ("ours", "again"))
    assert not ours.config.tie_word_embeddings
    assert not again.config.tie_word_embeddings
    assert_same_weights(ours, again)
    input_ids = random_ids(50257, 64)
    with torch.no_grad():
        expected = ours(input_ids).logits
        for model in (again, GPT2LMHeadModel.from_pretrained(large_place / "gpt2")):
            torch.testing.assert_close(model(input_ids).logits, expected, atol=1e-5, rtol=0)
