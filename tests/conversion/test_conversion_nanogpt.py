"""Conversion of nanoGPT's checkpoints: biases or none, compiled or not, and which activation they were trained with."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer

from modeling_gpt_scratch import GPTScratchForCausalLM
from modeling_gpt_scratch.__main__ import main
from modeling_gpt_scratch.conversion import convert, convert_nanogpt_checkpoint, gpt2
from tests.conversion.conversions import (
    TOLERANCE,
    RunsCommand,
    assert_refused_without_running,
    assert_same_logits,
    book_model,
    fused_model,
    refusal,
    write_nanogpt,
    write_source,
)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_result_gives_the_logits_of_the_source(tmp_path, tied, bias):
    source, sizes = fused_model(tied=tied, bias=bias)
    assert convert(write_nanogpt(tmp_path, source.state_dict(), sizes), tmp_path / "output") < TOLERANCE
    model = GPTScratchForCausalLM.from_pretrained(tmp_path / "output")
    assert_same_logits(model, source)
    assert model.config.tie_word_embeddings is tied
    assert ("lm_head.weight" in load_file(tmp_path / "output" / "model.safetensors")) is not tied


def test_sizes_arrive_in_the_config():
    source, sizes = fused_model(dropout=0.25)
    found = convert_nanogpt_checkpoint(source.state_dict(), sizes).config
    assert (found.embedding_dropout, found.attention_dropout, found.residual_dropout) == (0.25, 0.25, 0.25)
    assert (found.vocab_size, found.hidden_size, found.num_hidden_layers, found.num_attention_heads) == (61, 32, 2, 4)
    assert (found.max_position_embeddings, found.intermediate_size, found.layer_norm_eps) == (16, 128, 1e-5)
    assert (found.qkv_bias, found.hidden_act) == (True, "gelu")


def test_model_without_biases_gets_zeros_where_ours_always_has_them():
    source, sizes = fused_model(bias=False)
    weights = convert_nanogpt_checkpoint(source.state_dict(), sizes).state_dict()
    biases = [name for name in weights if name.endswith(".bias")]
    assert len(biases) == 5 * 2 + 1
    assert not any("q_proj" in name or "k_proj" in name or "v_proj" in name for name in biases)
    assert all(not weights[name].any() for name in biases)


def test_folder_of_a_run_is_a_source(tmp_path):
    source, sizes = fused_model()
    write_nanogpt(tmp_path / "out", source.state_dict(), sizes)
    assert convert(tmp_path / "out", tmp_path / "output") < TOLERANCE


def test_prefix_of_a_compiled_model_and_masks_of_old_versions_are_left_out(tmp_path):
    source, sizes = fused_model()
    weights = source.state_dict()
    for layer in range(2):
        weights[f"transformer.h.{layer}.attn.bias"] = torch.ones(16, 16).tril().view(1, 1, 16, 16)
    weights = {f"_orig_mod.{name}": tensor for name, tensor in weights.items()}
    convert(write_nanogpt(tmp_path, weights, sizes), tmp_path / "output")
    assert_same_logits(GPTScratchForCausalLM.from_pretrained(tmp_path / "output"), source)


def test_mask_of_another_length_is_refused(tmp_path, capsys):
    source, sizes = fused_model()
    weights = source.state_dict() | {"transformer.h.1.attn.bias": torch.ones(1, 1, 8, 8)}
    message = refusal(capsys, tmp_path, write_nanogpt(tmp_path, weights, sizes))
    assert "transformer.h.1.attn.bias is (1, 1, 8, 8), expected (1, 1, 16, 16)" in message


@pytest.mark.parametrize(
    ("options", "name", "function"),
    [
        ([], "gelu", nn.GELU()),
        (["--activation", "gelu"], "gelu", nn.GELU()),
        (["--activation", "gelu_pytorch_tanh"], "gelu_pytorch_tanh", nn.GELU("tanh")),
    ],
)
def test_activation_is_the_one_that_was_asked_for_and_is_told(tmp_path, capsys, options, name, function):
    source, sizes = fused_model(activation=function)
    path = write_nanogpt(tmp_path, source.state_dict(), sizes)
    assert main(["convert", str(path), str(tmp_path / "output"), *options]) == 0
    assert f"Its activation is {name}, " in capsys.readouterr().out
    model = GPTScratchForCausalLM.from_pretrained(tmp_path / "output")
    assert model.config.hidden_act == name
    assert_same_logits(model, source)


def test_activation_is_refused_for_other_formats(tmp_path, capsys):
    source, config = book_model()
    path = write_source(tmp_path, source.state_dict(), config)
    assert "--activation is for nanogpt alone" in refusal(capsys, tmp_path, path, "--activation", "gelu")


def test_tokenizer_of_two_files_is_read_as_gpt2s(tmp_path):
    source, sizes = fused_model()
    write_nanogpt(tmp_path / "out", source.state_dict(), sizes)
    vocabulary = {"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3, "\u0120": 4}
    (tmp_path / "out" / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "out" / "merges.txt").write_text("#version: 0.2\na b\n")
    convert(tmp_path / "out", tmp_path / "output")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "output", trust_remote_code=True)
    assert tokenizer("ab ba")["input_ids"] == [3, 4, 2, 1]
    assert tokenizer.eos_token_id == 0


def test_padded_vocabulary_is_kept(tmp_path):
    source, sizes = fused_model(vocab_size=64)
    convert(write_nanogpt(tmp_path, source.state_dict(), sizes), tmp_path / "output")
    assert load_file(tmp_path / "output" / "model.safetensors")["model.embed_tokens.weight"].shape == (64, 32)


def test_weights_keep_their_dtype(tmp_path):
    source, sizes = fused_model(bias=False)
    weights = {name: tensor.bfloat16() for name, tensor in source.state_dict().items()}
    convert(write_nanogpt(tmp_path, weights, sizes), tmp_path / "output")
    written = load_file(tmp_path / "output" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}


def test_biases_that_the_sizes_deny_are_refused(tmp_path, capsys):
    source, sizes = fused_model()
    message = refusal(capsys, tmp_path, write_nanogpt(tmp_path, source.state_dict(), sizes | {"bias": False}))
    assert "13 unknown: transformer.h.0.ln_1.bias, " in message


def test_biases_that_the_sizes_promise_are_missed(tmp_path, capsys):
    source, sizes = fused_model(bias=False)
    message = refusal(capsys, tmp_path, write_nanogpt(tmp_path, source.state_dict(), sizes | {"bias": True}))
    assert "13 missing: transformer.h.0.ln_1.bias, " in message


def test_leftovers_missing_tensors_and_wrong_shapes_are_named_together(tmp_path, capsys):
    source, sizes = fused_model()
    weights = source.state_dict()
    weights["transformer.h.2.ln_1.weight"] = weights.pop("transformer.h.1.ln_1.weight")
    weights["transformer.h.1.attn.c_attn.weight"] = weights["transformer.h.1.attn.c_attn.weight"].T
    message = refusal(capsys, tmp_path, write_nanogpt(tmp_path, weights, sizes))
    assert "1 unknown: transformer.h.2.ln_1.weight;" in message
    assert "1 missing: transformer.h.1.ln_1.weight;" in message
    assert "transformer.h.1.attn.c_attn.weight is (32, 96), expected (96, 32)" in message


def test_problems_of_the_sizes_are_named_together(tmp_path, capsys):
    source, sizes = fused_model()
    wrong = {**sizes, "n_head": "4", "bias": 1}
    message = refusal(capsys, tmp_path, write_nanogpt(tmp_path, source.state_dict(), wrong))
    for problem in ("bias is 1, expected bool", "n_head is '4', expected int"):
        assert problem in message
    message = refusal(capsys, tmp_path, write_nanogpt(tmp_path, source.state_dict(), sizes | {"n_head": 5}))
    assert "not a multiple of num_attention_heads" in message
    assert "--n_head N" in refusal(capsys, tmp_path, write_nanogpt(tmp_path, source.state_dict(), [1, 2]))


def test_mixed_up_names_are_caught_by_the_logits(tmp_path, capsys, monkeypatch):
    name = "transformer.h.N.attn.c_attn.weight"
    query, key, value = gpt2.GPT2_NAMES[name].split(gpt2.JOINED)
    monkeypatch.setitem(gpt2.GPT2_NAMES, name, gpt2.JOINED.join([query, value, key]))
    source, sizes = fused_model()
    assert "logits differ" in refusal(capsys, tmp_path, write_nanogpt(tmp_path, source.state_dict(), sizes))


def test_pickle_that_would_run_a_command_is_refused_and_does_not_run(capsys, tmp_path):
    source, sizes = fused_model()
    path = write_nanogpt(tmp_path, source.state_dict(), sizes, config=RunsCommand(f"touch {tmp_path / 'ran'}"))
    assert_refused_without_running(capsys, tmp_path, path)
