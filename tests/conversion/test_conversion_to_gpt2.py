"""Conversion into the library's own GPT-2, from every source."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer, GenerationConfig, GPT2LMHeadModel

from modeling_gpt_scratch.__main__ import main
from modeling_gpt_scratch.conversion import ConversionError, compare_logits, convert, convert_gpt2_checkpoint, to_gpt2
from tests.conversion.conversions import (
    SIZES,
    TOLERANCE,
    assert_same_logits,
    assert_same_weights,
    book_model,
    fused_model,
    gpt2_model,
    random_ids,
    refusal,
    write_blog,
    write_gpt2,
    write_nanogpt,
    write_source,
    write_tokenizer,
)
from tests.strangers import run_as_stranger

# No remote code: with trust_remote_code left out, a folder that asked for it would be refused.
STRANGER = """
import json
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

model = AutoModelForCausalLM.from_pretrained("output")
tokenizer = AutoTokenizer.from_pretrained("output")
with torch.no_grad():
    logits = model(torch.load("ids.pt")).logits
generate = pipeline("text-generation", model="output")
print(
    json.dumps(
        {
            "class": type(model).__module__ + "." + type(model).__name__,
            "logits": logits.tolist(),
            "ids": tokenizer("w0 w5")["input_ids"],
            "tokens": generate("w0 w5", do_sample=False, return_tensors=True)[0]["generated_token_ids"],
        }
    )
)
"""


@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_library_opens_the_result_and_gives_our_logits(tmp_path, tiny_model, tied, qkv_bias):
    source = tiny_model(tie_word_embeddings=tied, qkv_bias=qkv_bias, **SIZES)
    source.save_pretrained(tmp_path / "source")
    assert convert(tmp_path / "source", tmp_path / "output", target_format="gpt2") < TOLERANCE
    model, loading = GPT2LMHeadModel.from_pretrained(tmp_path / "output", output_loading_info=True)
    assert not any(loading.values())
    assert_same_logits(model, lambda input_ids: source(input_ids).logits)
    assert model.config.tie_word_embeddings is tied
    assert (model.lm_head.weight is model.transformer.wte.weight) is tied


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("source_format", ["book", "blog", "nanogpt", "gpt2"])
def test_every_source_goes_there_in_one_command(tmp_path, capsys, source_format, tied):
    if source_format in ("book", "blog"):
        source, config = book_model(**({"tie_weights": True} if tied else {}))
        write = write_source if source_format == "book" else write_blog
        path = write(tmp_path / "source", source.state_dict(), config)
    elif source_format == "nanogpt":
        source, sizes = fused_model(tied=tied, bias=False)
        path = write_nanogpt(tmp_path / "source", source.state_dict(), sizes)
    else:
        source, weights, config = gpt2_model(tied=tied, prefix="")
        path = write_gpt2(tmp_path / "source", weights, config)
    options = ["--from", source_format, "--to", "gpt2"]
    assert main(["convert", str(path), str(tmp_path / "output"), *options]) == 0
    assert float(capsys.readouterr().out.splitlines()[0].split()[-1].rstrip(".")) < TOLERANCE
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "output")
    assert_same_logits(model, source)
    assert model.config.tie_word_embeddings is tied


def test_stranger_opens_the_result_without_remote_code(tmp_path, tiny_model):
    source = tiny_model(**SIZES)
    source.save_pretrained(tmp_path / "source")
    write_tokenizer(tmp_path / "source", num_words=58)
    convert(tmp_path / "source", tmp_path / "output", target_format="gpt2")
    torch.save(random_ids(), tmp_path / "ids.pt")
    report, _ = run_as_stranger(STRANGER, workplace=tmp_path)
    assert report["class"] == "transformers.models.gpt2.modeling_gpt2.GPT2LMHeadModel"
    with torch.no_grad():
        expected = source(random_ids()).logits
    torch.testing.assert_close(torch.tensor(report["logits"]), expected, atol=TOLERANCE, rtol=0)
    assert report["ids"] == [3, 8]
    assert report["tokens"][:2] == [3, 8]
    assert len(report["tokens"]) == 16 or report["tokens"][-1] == 2  # all positions, or the end


def test_files_are_the_librarys_and_the_config_names_n_ctx(tmp_path, tiny_model):
    source = tiny_model(
        embedding_dropout=0.1,
        attention_dropout=0.2,
        residual_dropout=0.3,
        layer_norm_eps=1e-6,
        initializer_range=0.03,
        bos_token_id=1,
        eos_token_id=[2, 7],
        pad_token_id=0,
        use_cache=False,
        **SIZES,
    )
    source.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "output", target_format="gpt2")
    names = {path.name for path in (tmp_path / "output").iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors"}
    config = json.loads((tmp_path / "output" / "config.json").read_text())
    assert "auto_map" not in config
    expected = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_ctx": 16,
        "n_positions": 16,
        "n_inner": None,
        "activation_function": "gelu_new",
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.2,
        "resid_pdrop": 0.3,
        "layer_norm_epsilon": 1e-6,
        "initializer_range": 0.03,
        "bos_token_id": 1,
        "eos_token_id": [2, 7],
        "pad_token_id": 0,
        "use_cache": False,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
    assert {name: config[name] for name in expected} == expected
    generation = GenerationConfig.from_pretrained(tmp_path / "output")
    assert (generation.max_length, generation.eos_token_id, generation.pad_token_id) == (16, [2, 7], 0)


def test_model_without_special_tokens_does_not_get_gpt2s(tmp_path, tiny_model):
    tiny_model(**SIZES).save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "output", target_format="gpt2")
    config = GPT2LMHeadModel.from_pretrained(tmp_path / "output").config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, None, None)


def test_tokenizer_that_is_named_goes_along(tmp_path):
    source, config = book_model()
    path = write_source(tmp_path / "source", source.state_dict(), config)
    tokenizer = write_tokenizer(tmp_path / "tokenizer", num_words=20)
    convert(path, tmp_path / "output", target_format="gpt2", tokenizer=str(tokenizer))
    assert AutoTokenizer.from_pretrained(tmp_path / "output")("w0 w5")["input_ids"] == [3, 8]
    config = GPT2LMHeadModel.from_pretrained(tmp_path / "output").config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 0)


def test_weights_keep_their_dtype(tmp_path, tiny_model):
    tiny_model(qkv_bias=False, **SIZES).bfloat16().save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "output", target_format="gpt2")
    written = load_file(tmp_path / "output" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}


def test_result_does_not_change_with_our_model(tiny_model):
    source = tiny_model(**SIZES)
    result = to_gpt2(source)
    before = result.transformer.wpe.weight.clone()
    with torch.no_grad():
        source.model.embed_positions.weight.zero_()
    assert torch.equal(result.transformer.wpe.weight, before)


def test_other_width_of_the_mlp_is_refused(tmp_path, capsys, tiny_model):
    tiny_model(intermediate_size=48, **SIZES).save_pretrained(tmp_path / "source")
    message = refusal(capsys, tmp_path, tmp_path / "source", "--to", "gpt2")
    assert "intermediate_size is 48 with hidden_size 32" in message
    assert "llama.cpp" in message


def test_other_activations_keep_their_names(tiny_model):
    source = tiny_model(hidden_act="relu", **SIZES)
    result = to_gpt2(source)
    assert result.config.activation_function == "relu"
    assert compare_logits(result, lambda input_ids: source(input_ids).logits.detach()) < TOLERANCE


def test_wrong_result_is_refused(tiny_model):
    source = tiny_model(**SIZES)
    result = to_gpt2(source)
    for block in result.transformer.h:
        block.mlp.act = nn.GELU()
    with pytest.raises(ConversionError, match="logits differ"):
        compare_logits(result, lambda input_ids: source(input_ids).logits.detach())


def test_failure_while_writing_leaves_nothing(tmp_path, capsys, monkeypatch, tiny_model):
    tiny_model(**SIZES).save_pretrained(tmp_path / "source")

    def fail_late(model, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(GPT2LMHeadModel, "save_pretrained", fail_late)
    assert "No space left on device" in refusal(capsys, tmp_path, tmp_path / "source", "--to", "gpt2")


def test_functions_work_on_models_in_memory(tiny_model):
    source = tiny_model(tie_word_embeddings=False, **SIZES)
    gpt2 = to_gpt2(source)
    assert_same_weights(source, convert_gpt2_checkpoint(gpt2.state_dict(), gpt2.config.to_dict()))
