"""Conversion of repositories with the blog's wrapper: the book's model behind a prefix, and code that must not run."""

import json

import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

from modeling_gpt_scratch import GPTScratchForCausalLM
from modeling_gpt_scratch.conversion import convert
from tests.conversion.conversions import (
    TOLERANCE,
    assert_same_logits,
    book_model,
    refusal,
    write_blog,
    write_gpt2,
    write_tokenizer,
)


@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_result_gives_the_logits_of_the_source(tmp_path, tied, qkv_bias):
    source, config = book_model(qkv_bias=qkv_bias, **({"tie_weights": True} if tied else {}))
    folder = write_blog(tmp_path / "source", source.state_dict(), config)
    assert convert(folder, tmp_path / "output") < TOLERANCE
    model = GPTScratchForCausalLM.from_pretrained(tmp_path / "output")
    assert_same_logits(model, source)
    assert model.config.tie_word_embeddings is tied
    assert model.config.qkv_bias is qkv_bias


@pytest.mark.parametrize("end", ["tok_emb.weight", "out_head.weight"])
def test_tied_model_may_lack_one_of_its_ends(tmp_path, end):
    source, config = book_model(tie_weights=True)
    weights = source.state_dict()
    del weights[end]
    convert(write_blog(tmp_path / "source", weights, config), tmp_path / "output")
    assert_same_logits(GPTScratchForCausalLM.from_pretrained(tmp_path / "output"), source)


def test_config_and_code_of_the_wrapper_stay_behind(tmp_path):
    source, config = book_model()
    convert(write_blog(tmp_path / "source", source.state_dict(), config), tmp_path / "output")
    written = json.loads((tmp_path / "output" / "config.json").read_text())
    assert written["model_type"] == "gpt_scratch"
    assert written["auto_map"]["AutoConfig"] == "configuration_gpt_scratch.GPTScratchConfig"
    assert "cfg" not in written
    assert not (tmp_path / "output" / "configuration_x.py").exists()


def test_tokenizer_of_the_repository_comes_along_with_its_pad_token(tmp_path, capsys):
    source, config = book_model()
    folder = write_blog(tmp_path / "source", source.state_dict(), config)
    write_tokenizer(folder, num_words=20)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "<eos>"}))
    convert(folder, tmp_path / "output", report=print)
    assert "no tokenizer" not in capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "output", trust_remote_code=True)
    assert tokenizer("w0 w5")["input_ids"] == [3, 8]
    config = GPTScratchForCausalLM.from_pretrained(tmp_path / "output").config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 2)


def test_fields_of_another_architecture_are_refused(tmp_path, capsys):
    source, config = book_model()
    folder = write_blog(tmp_path / "source", source.state_dict(), config | {"moe": {"num_experts": 4}})
    assert "unknown field moe" in refusal(capsys, tmp_path, folder)


@pytest.mark.parametrize("cfg", [None, "large"])
def test_config_without_the_books_fields_is_refused(tmp_path, capsys, cfg):
    source, config = book_model()
    assert "cfg" in refusal(capsys, tmp_path, write_blog(tmp_path / "source", source.state_dict(), config, cfg=cfg))


def test_tensors_without_the_prefix_are_refused(tmp_path, capsys):
    source, config = book_model()
    weights = {name if "norm" in name else f"model.{name}": tensor for name, tensor in source.state_dict().items()}
    folder = write_gpt2(tmp_path / "source", weights, {"model_type": "gpjtgpt2", "cfg": config})
    assert "10 tensors lack the prefix model. of the blog's wrapper: final_norm.scale, " in refusal(
        capsys, tmp_path, folder
    )


def test_weights_named_as_a_file_are_read_with_the_config_beside_them(tmp_path, capsys):
    source, config = book_model()
    path = write_blog(tmp_path / "source", source.state_dict(), config) / "model.safetensors"
    convert(path, tmp_path / "output")
    assert_same_logits(GPTScratchForCausalLM.from_pretrained(tmp_path / "output"), source)
    assert all(name.startswith("model.") for name in load_file(path))


def test_weights_alone_are_read_as_the_books_behind_a_prefix(tmp_path, capsys):
    source, config = book_model()
    path = write_blog(tmp_path / "source", source.state_dict(), config) / "model.safetensors"
    (tmp_path / "source" / "config.json").unlink()
    assert "model.json does not exist: name the checkpoint's configuration with --config" in refusal(
        capsys, tmp_path, path
    )
    (tmp_path / "sizes.json").write_text(json.dumps(config))
    convert(path, tmp_path / "output", config=tmp_path / "sizes.json")
    assert_same_logits(GPTScratchForCausalLM.from_pretrained(tmp_path / "output"), source)
