"""Conversion of GPT-2 as the library stores it: files, prefixes, masks, settings that we have and that we lack."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoTokenizer, GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from modeling_gpt_scratch import GPTScratchForCausalLM
from modeling_gpt_scratch.conversion import ConversionError, convert, convert_gpt2_checkpoint, gpt2
from modeling_gpt_scratch.conversion.opening import locate
from tests.conversion.conversions import (
    TOLERANCE,
    RunsCommand,
    assert_refused_without_running,
    assert_same_logits,
    gpt2_model,
    random_ids,
    refusal,
    write_gpt2,
    write_tokenizer,
)


def write_sharded(folder, weights: dict, config: dict, suffix: str = "safetensors"):
    """The weights in two files and an index."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    places = {}
    for number in (1, 2):
        name = f"{stem}-0000{number}-of-00002.{suffix}"
        part = {key: tensor for index, (key, tensor) in enumerate(weights.items()) if index % 2 == number - 1}
        (save_file if suffix == "safetensors" else torch.save)(part, folder / name)
        places |= dict.fromkeys(part, name)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("prefix", ["transformer.", ""])
@pytest.mark.parametrize("tied", [False, True])
def test_result_gives_the_logits_of_the_source(tmp_path, tied, prefix, name):
    source, weights, config = gpt2_model(prefix=prefix, tied=tied)
    assert convert(write_gpt2(tmp_path / "source", weights, config, name), tmp_path / "output") < TOLERANCE
    model = GPTScratchForCausalLM.from_pretrained(tmp_path / "output")
    assert_same_logits(model, source)
    assert model.config.tie_word_embeddings is tied
    assert ("lm_head.weight" in load_file(tmp_path / "output" / "model.safetensors")) is not tied


def test_measure_of_the_conversion_is_the_librarys_model():
    """What `convert` compares with gives the logits of an independent model, too."""
    source, weights, config = gpt2_model()
    assert_same_logits(gpt2.gpt2_reference(weights, config), source)


def test_folder_that_the_library_saved_is_converted(tmp_path):
    torch.manual_seed(0)
    source = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_positions=16, n_embd=32, n_layer=2, n_head=4)).eval()
    source.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "output")
    model = GPTScratchForCausalLM.from_pretrained(tmp_path / "output")
    with torch.no_grad():
        expected = source(random_ids()).logits
        torch.testing.assert_close(model(random_ids()).logits, expected, atol=TOLERANCE, rtol=0)
    # The library's class says 50256 for every model; these have no such token.
    assert (model.config.bos_token_id, model.config.eos_token_id) == (None, None)


def test_library_names_win_over_the_state_of_training_beside_them(tmp_path):
    _, weights, config = gpt2_model()
    folder = write_gpt2(tmp_path / "source", weights, config)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "pytorch_model.bin"):
        (folder / name).write_bytes(b"not to be read")
    assert convert(folder, tmp_path / "output") < TOLERANCE


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_several_files_with_an_index_are_read_as_one(tmp_path, suffix):
    source, weights, config = gpt2_model(tied=False)
    convert(write_sharded(tmp_path / "source", weights, config, suffix), tmp_path / "output")
    assert_same_logits(GPTScratchForCausalLM.from_pretrained(tmp_path / "output"), source)


def test_index_of_files_that_are_missing_elsewhere_or_repeated_is_refused(tmp_path, capsys):
    _, weights, config = gpt2_model()
    folder = write_sharded(tmp_path / "source", weights, config)
    second = folder / "model-00002-of-00002.safetensors"
    second.rename(tmp_path / second.name)
    assert f"names the file {second.name}" in refusal(capsys, tmp_path, folder)
    index = folder / "model.safetensors.index.json"
    elsewhere = index.read_text().replace(second.name, f"../{second.name}")
    whole = index.read_text()
    index.write_text(elsewhere)
    assert f"names the file ../{second.name}" in refusal(capsys, tmp_path, folder)
    with pytest.raises(ConversionError, match=r"names the file \.\./"):  # nor is it hashed, for a run's record
        locate(str(folder))
    index.write_text(whole)
    save_file(weights, second)
    assert "repeats tensors of another part" in refusal(capsys, tmp_path, folder)
    index.write_text('{"weight_map": []}')
    assert "no weight_map" in refusal(capsys, tmp_path, folder)


def test_masks_of_old_versions_are_left_out_after_a_look_at_their_shape(tmp_path, capsys):
    source, weights, config = gpt2_model(prefix="")
    for layer in range(2):
        weights[f"h.{layer}.attn.bias"] = torch.ones(16, 16, dtype=torch.uint8).tril().view(1, 1, 16, 16)
        weights[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    convert(write_gpt2(tmp_path / "source", weights, config), tmp_path / "output")
    assert_same_logits(GPTScratchForCausalLM.from_pretrained(tmp_path / "output"), source)
    weights["h.1.attn.bias"] = torch.ones(1, 1, 8, 8)
    folder = write_gpt2(tmp_path / "wrong", weights, config)
    assert "h.1.attn.bias is (1, 1, 8, 8), expected (1, 1, 16, 16)" in refusal(
        capsys, tmp_path, folder, output="second"
    )


def test_settings_arrive_in_the_config():
    _, weights, config = gpt2_model()
    found = convert_gpt2_checkpoint(weights, config | {"pad_token_id": 3, "use_cache": False}).config
    assert (found.embedding_dropout, found.attention_dropout, found.residual_dropout) == (0.2, 0.1, 0.3)
    assert (found.vocab_size, found.hidden_size, found.num_hidden_layers, found.num_attention_heads) == (61, 32, 2, 4)
    assert (found.max_position_embeddings, found.intermediate_size, found.qkv_bias) == (16, 128, True)
    assert (found.hidden_act, found.initializer_range, found.use_cache) == ("gelu_pytorch_tanh", 0.03, False)
    assert (found.bos_token_id, found.eos_token_id, found.pad_token_id) == (2, 2, 3)


def test_other_widths_activations_and_epsilons_are_kept():
    source, weights, config = gpt2_model(inner=48, activation=nn.ReLU(), epsilon=0.1)
    settings = {"n_inner": 48, "activation_function": "relu", "layer_norm_epsilon": 0.1}
    model = convert_gpt2_checkpoint(weights, config | settings)
    assert_same_logits(model, source)
    assert (model.config.intermediate_size, model.config.hidden_act) == (48, "relu")


def test_setting_that_changes_the_precision_alone_is_accepted():
    source, weights, config = gpt2_model()
    assert_same_logits(convert_gpt2_checkpoint(weights, config | {"reorder_and_upcast_attn": True}), source)


def test_settings_that_we_lack_are_refused_together(tmp_path, capsys):
    _, weights, config = gpt2_model()
    settings = {
        "scale_attn_weights": False,
        "scale_attn_by_inverse_layer_idx": True,
        "add_cross_attention": True,
        "activation_function": "gelu_newest",
    }
    message = refusal(capsys, tmp_path, write_gpt2(tmp_path / "source", weights, config | settings))
    for name, value in settings.items():
        assert f"{name} is {value!r}" in message


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"n_head": 5}, "not a multiple of num_attention_heads"),
        ({"n_embd": "32"}, "n_embd"),
        ({"embd_pdrop": 1}, "[0, 1)"),
    ],
)
def test_settings_that_describe_no_model_are_refused(tmp_path, capsys, settings, complaint):
    _, weights, config = gpt2_model()
    assert complaint in refusal(capsys, tmp_path, write_gpt2(tmp_path / "source", weights, config | settings))


def test_head_for_another_task_is_refused(tmp_path, capsys):
    GPT2ForSequenceClassification(
        GPT2Config(vocab_size=61, n_positions=16, n_embd=32, n_layer=2, n_head=4, num_labels=3)
    ).save_pretrained(tmp_path / "source")
    assert "1 unknown: score.weight" in refusal(capsys, tmp_path, tmp_path / "source")


def test_tied_config_with_a_different_head_is_refused(tmp_path, capsys):
    _, weights, config = gpt2_model(tied=False)
    del config["tie_word_embeddings"]  # the library's default is true
    message = refusal(capsys, tmp_path, write_gpt2(tmp_path / "source", weights, config))
    assert "lm_head.weight differs from transformer.wte.weight" in message


def test_untied_config_without_a_head_is_refused(tmp_path, capsys):
    _, weights, config = gpt2_model()
    folder = write_gpt2(tmp_path / "source", weights, config | {"tie_word_embeddings": False})
    assert "1 missing: lm_head.weight" in refusal(capsys, tmp_path, folder)


def test_untied_model_with_equal_ends_stays_untied():
    _, weights, config = gpt2_model()
    weights["lm_head.weight"] = weights["transformer.wte.weight"].clone()
    model = convert_gpt2_checkpoint(weights, config | {"tie_word_embeddings": False})
    assert model.lm_head.weight is not model.model.embed_tokens.weight


def test_leftovers_missing_tensors_and_wrong_shapes_are_named_together(tmp_path, capsys):
    _, weights, config = gpt2_model()
    weights["transformer.h.0.crossattention.bias"] = torch.ones(1)
    weights["wte.weight"] = weights["transformer.wte.weight"]  # with and without the prefix
    del weights["transformer.h.1.ln_2.bias"]
    weights["transformer.h.0.mlp.c_fc.weight"] = weights["transformer.h.0.mlp.c_fc.weight"].T.contiguous()
    message = refusal(capsys, tmp_path, write_gpt2(tmp_path / "source", {**weights}, config, "pytorch_model.bin"))
    assert "2 unknown: transformer.h.0.crossattention.bias, wte.weight;" in message
    assert "1 missing: transformer.h.1.ln_2.bias;" in message
    assert "transformer.h.0.mlp.c_fc.weight is (128, 32), expected (32, 128)" in message


def test_tensor_of_another_dtype_is_raised_and_told(tmp_path, capsys):
    _, weights, config = gpt2_model()
    weights["transformer.ln_f.bias"] = weights["transformer.ln_f.bias"].half()
    convert(write_gpt2(tmp_path / "source", weights, config), tmp_path / "output", report=print)
    assert "are of torch.float16 and torch.float32: all were raised to torch.float32." in capsys.readouterr().out
    written = load_file(tmp_path / "output" / "model.safetensors")
    assert torch.equal(written["model.norm.bias"], weights["transformer.ln_f.bias"].float())


def test_weights_keep_their_dtype_and_value(tmp_path):
    _, weights, config = gpt2_model()
    weights = {name: tensor.bfloat16() for name, tensor in weights.items()}
    convert(write_gpt2(tmp_path / "source", weights, config), tmp_path / "output")
    written = load_file(tmp_path / "output" / "model.safetensors")["model.layers.1.self_attn.v_proj.weight"]
    assert written.dtype == torch.bfloat16
    assert torch.equal(written, weights["transformer.h.1.attn.c_attn.weight"][:, 64:].T)


@pytest.mark.parametrize("mistake", ["matrices are not transposed", "key and value are mixed up"])
def test_mistakes_of_the_table_are_caught_before_anything_is_written(tmp_path, capsys, monkeypatch, mistake):
    if mistake == "matrices are not transposed":
        monkeypatch.setattr(gpt2, "TRANSPOSED", ("c_attn.weight", "c_fc.weight", "mlp.c_proj.weight"))
    else:
        name = "transformer.h.N.attn.c_attn.weight"
        query, key, value = gpt2.GPT2_NAMES[name].split(gpt2.JOINED)
        monkeypatch.setitem(gpt2.GPT2_NAMES, name, gpt2.JOINED.join([query, value, key]))
    _, weights, config = gpt2_model()
    assert "logits differ" in refusal(capsys, tmp_path, write_gpt2(tmp_path / "source", weights, config))


def test_tokenizer_of_the_folder_comes_along_and_the_configs_own_tokens_stay(tmp_path):
    _, weights, config = gpt2_model()
    folder = write_gpt2(tmp_path / "source", weights, config | {"eos_token_id": [2, 7], "bos_token_id": None})
    write_tokenizer(folder, num_words=20)
    convert(folder, tmp_path / "output")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "output", trust_remote_code=True)
    assert tokenizer("w0 w5")["input_ids"] == [3, 8]
    assert tokenizer.model_max_length == 16
    written = json.loads((tmp_path / "output" / "config.json").read_text())
    # A second end, which the tokenizer does not know of; the others come from the tokenizer.
    assert (written["eos_token_id"], written["bos_token_id"], written["pad_token_id"]) == ([2, 7], 1, 0)


def test_tokenizer_that_is_named_replaces_the_folders_own(tmp_path):
    _, weights, config = gpt2_model()
    folder = write_gpt2(tmp_path / "source", weights, config | {"eos_token_id": [2, 7]})
    write_tokenizer(folder, num_words=20)
    other = write_tokenizer(tmp_path / "other", num_words=30)
    convert(folder, tmp_path / "output", tokenizer=str(other))
    assert len(AutoTokenizer.from_pretrained(tmp_path / "output", trust_remote_code=True)) == 33
    assert json.loads((tmp_path / "output" / "config.json").read_text())["eos_token_id"] == 2


def test_damaged_tokenizer_of_the_folder_is_refused(tmp_path, capsys):
    _, weights, config = gpt2_model()
    folder = write_gpt2(tmp_path / "source", weights, config)
    (folder / "tokenizer.json").write_text("{}")
    assert f"The tokenizer {folder} cannot be loaded" in refusal(capsys, tmp_path, folder)


def test_pickle_that_would_run_a_command_is_refused_and_does_not_run(capsys, tmp_path):
    _, weights, config = gpt2_model()
    weights["extra"] = RunsCommand(f"touch {tmp_path / 'ran'}")
    assert_refused_without_running(
        capsys, tmp_path, write_gpt2(tmp_path / "source", weights, config, "pytorch_model.bin")
    )
