"""Checkpoints with nanoGPT's tensors and not its sizes: its first weeks, forks, build-nanogpt, minGPT."""

import json

import pytest
import torch
from torch import nn

from modeling_gpt_scratch import GPTScratchForCausalLM
from modeling_gpt_scratch.__main__ import main
from modeling_gpt_scratch.conversion import convert
from tests.conversion.conversions import (
    TOLERANCE,
    assert_same_logits,
    book_model,
    fused_model,
    refusal,
    write_nanogpt,
    write_source,
)

TANH = nn.GELU("tanh")


def without(sizes: dict, *names: str) -> dict:
    return {name: value for name, value in sizes.items() if name not in names}


def test_sizes_of_january_2023_have_no_bias_and_mean_one(tmp_path):
    source, sizes = fused_model(activation=TANH)  # the function that it had then
    path = write_nanogpt(tmp_path, source.state_dict(), without(sizes, "bias"))
    assert convert(path, tmp_path / "output") < TOLERANCE
    model = GPTScratchForCausalLM.from_pretrained(tmp_path / "output")
    assert_same_logits(model, source)
    assert model.config.qkv_bias


def test_fields_of_forks_are_left_aside_and_told(tmp_path, capsys):
    source, sizes = fused_model()
    path = write_nanogpt(tmp_path, source.state_dict(), sizes | {"flash": True, "rope": 0})
    convert(path, tmp_path / "output", report=print)
    assert "Left aside, as nanoGPT has no such fields: flash=True, rope=0. If one of them" in capsys.readouterr().out
    assert_same_logits(GPTScratchForCausalLM.from_pretrained(tmp_path / "output"), source)


def test_sizes_in_a_dictionary_named_config_are_read(tmp_path):
    source, sizes = fused_model(activation=TANH)
    content = {"model": source.state_dict(), "config": without(sizes, "bias", "dropout"), "step": 1}
    assert convert(write_source(tmp_path, content, None), tmp_path / "output") < TOLERANCE
    assert_same_logits(GPTScratchForCausalLM.from_pretrained(tmp_path / "output"), source)


def write_relative(folder, tied: bool):
    """The weights of build-nanogpt (tied) or minGPT (not tied, with masks), alone, and their model."""
    source, _ = fused_model(tied=tied, activation=TANH)
    weights = source.state_dict()
    if not tied:
        for layer in range(2):
            weights[f"transformer.h.{layer}.attn.bias"] = torch.ones(16, 16).tril().view(1, 1, 16, 16)
            weights[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return source, write_source(folder, weights, None)


@pytest.mark.parametrize("tied", [True, False], ids=["build-nanogpt", "minGPT"])
@pytest.mark.parametrize("option", ["--n_head", "--config"])
def test_weights_alone_need_only_the_number_of_heads_as_the_message_says(tmp_path, capsys, option, tied):
    source, path = write_relative(tmp_path / "source", tied)
    message = refusal(capsys, tmp_path, path)
    assert "add --n_head N, " in message
    assert 'or --config sizes.json with {"n_head": N}' in message
    (tmp_path / "sizes.json").write_text('{"n_head": 4}')
    value = "4" if option == "--n_head" else str(tmp_path / "sizes.json")
    assert main(["convert", str(path), str(tmp_path / "output"), option, value]) == 0
    printed = capsys.readouterr().out
    assert "Its activation is gelu_pytorch_tanh, which the checkpoint does not say." in printed
    assert "build-nanogpt and minGPT have it" in printed
    assert "convert again with --activation gelu." in printed
    model = GPTScratchForCausalLM.from_pretrained(tmp_path / "output")
    assert_same_logits(model, source)
    assert model.config.tie_word_embeddings is tied
    assert model.config.max_position_embeddings == 16


def test_activation_is_assumed_by_what_only_nanogpt_has(tmp_path, capsys):
    source, sizes = fused_model(bias=False)
    path = write_source(tmp_path, source.state_dict(), None)
    convert(path, tmp_path / "no-biases", n_head=4, report=print)
    assert_same_logits(GPTScratchForCausalLM.from_pretrained(tmp_path / "no-biases"), source)
    assert "convert again with --activation gelu_pytorch_tanh." in capsys.readouterr().out
    source, sizes = fused_model()
    (tmp_path / "sizes.json").write_text(json.dumps(sizes))
    convert(write_source(tmp_path, source.state_dict(), None), tmp_path / "said", config=tmp_path / "sizes.json")
    assert_same_logits(GPTScratchForCausalLM.from_pretrained(tmp_path / "said"), source)


@pytest.mark.parametrize("n_head", ["5", "0"])
def test_heads_that_do_not_divide_the_width_are_refused(tmp_path, capsys, n_head):
    _, path = write_relative(tmp_path / "source", tied=True)
    assert "num_attention_heads" in refusal(capsys, tmp_path, path, "--n_head", n_head)


def test_sizes_that_are_said_twice_are_refused(tmp_path, capsys):
    source, sizes = fused_model()
    path = write_nanogpt(tmp_path, source.state_dict(), sizes)
    message = refusal(capsys, tmp_path, path, "--n_head", "4")
    assert "said twice, by " in message
    assert "ckpt.pt itself and by --n_head: leave out --n_head" in message
    path = write_source(tmp_path, source.state_dict(), sizes)
    message = refusal(capsys, tmp_path, path, "--n_head", "4", "--config", str(tmp_path / "model.json"))
    assert "said twice, by --config and by --n_head: leave out --n_head" in message


def test_options_of_nanogpt_are_refused_for_other_formats(tmp_path, capsys):
    source, config = book_model()
    path = write_source(tmp_path, source.state_dict(), config)
    assert "--n_head is for nanogpt alone" in refusal(capsys, tmp_path, path, "--n_head", "4")


def test_tensors_that_are_missing_are_named_and_not_the_sizes_that_they_show(tmp_path, capsys):
    source, _ = fused_model()
    weights = source.state_dict()
    del weights["transformer.h.1.mlp.c_fc.bias"]
    path = write_source(tmp_path, weights, None)
    assert "1 missing: transformer.h.1.mlp.c_fc.bias" in refusal(capsys, tmp_path, path, "--n_head", "4")
