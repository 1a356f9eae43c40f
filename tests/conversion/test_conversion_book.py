"""Conversion of checkpoints of the book's model: what is equal, and what is refused."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_model
from torch import nn
from transformers import AutoModelForCausalLM

from modeling_gpt_scratch import GPTScratchForCausalLM
from modeling_gpt_scratch.__main__ import main
from modeling_gpt_scratch.conversion import ConversionError, compare_logits, convert, convert_book_checkpoint
from modeling_gpt_scratch.conversion import book as book_format
from publishing.contents import CODE_FILES
from tests.conversion.conversions import BOOK_CONFIG, TOLERANCE, book_model, refusal, write_source
from tests.strangers import stranger_environment


@pytest.mark.parametrize("name", ["model.pth", "model.pt", "model.safetensors"])
@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_opened_folder_gives_the_logits_of_the_source(tmp_path, input_ids, tied, qkv_bias, name):
    source, config = book_model(qkv_bias=qkv_bias, **({"tie_weights": True} if tied else {}))
    write_source(tmp_path / "source", source.state_dict(), config, name)
    assert convert(tmp_path / "source", tmp_path / "output") < TOLERANCE

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "output", trust_remote_code=True)
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids).logits, source(input_ids), atol=TOLERANCE, rtol=0)
    assert model.config.tie_word_embeddings is tied
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    assert ("lm_head.weight" in load_file(tmp_path / "output" / "model.safetensors")) is not tied


def test_folder_opens_in_a_process_without_this_package(tmp_path, book, input_ids):
    source, config = book
    write_source(tmp_path / "source", source.state_dict(), config)
    convert(tmp_path / "source", tmp_path / "output")
    torch.save(input_ids, tmp_path / "ids.pt")
    program = (
        "import sys, torch; from transformers import AutoModelForCausalLM; folder = sys.argv[1]\n"
        "model = AutoModelForCausalLM.from_pretrained(folder + '/output', trust_remote_code=True)\n"
        "assert 'modeling_gpt_scratch' not in sys.modules\n"
        "torch.save(model(torch.load(folder + '/ids.pt')).logits.detach(), folder + '/logits.pt')"
    )
    environment = stranger_environment(tmp_path)
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=tmp_path, env=environment)
    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), source(input_ids), atol=TOLERANCE, rtol=0)


def test_command_prints_the_place_the_difference_and_how_to_add_a_tokenizer(tmp_path, capsys, book):
    source = write_source(tmp_path, book[0].state_dict(), book[1])
    assert main(["convert", str(source), str(tmp_path / "new" / "output")]) == 0
    written, hint = capsys.readouterr().out.splitlines()
    assert str(tmp_path / "new" / "output") in written
    difference = float(written.split()[-1].rstrip("."))
    assert 0 < difference < TOLERANCE
    assert "--tokenizer" in hint
    names = {path.name for path in (tmp_path / "new" / "output").iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors", *CODE_FILES}


def test_output_folder_has_the_permissions_of_any_new_folder(tmp_path, book):
    source = write_source(tmp_path / "source", book[0].state_dict(), book[1])
    convert(source, tmp_path / "output")
    assert (tmp_path / "output").stat().st_mode == (tmp_path / "source").stat().st_mode


def test_book_fields_arrive_in_the_config(tmp_path):
    source, config = book_model(drop_rate=0.25, qkv_bias=True)
    model = convert_book_checkpoint(source.state_dict(), config)
    found = model.config
    assert (found.embedding_dropout, found.attention_dropout, found.residual_dropout) == (0.25, 0.25, 0.25)
    assert (found.vocab_size, found.hidden_size, found.num_hidden_layers, found.num_attention_heads) == (61, 32, 2, 4)
    assert (found.max_position_embeddings, found.intermediate_size, found.qkv_bias) == (16, 128, True)
    assert model.generation_config.max_length == 16


def test_checkpoint_with_a_model_state_dict_and_other_entries_is_unwrapped(tmp_path, book):
    source, config = book
    wrapper = {"model_state_dict": source.state_dict(), "optimizer_state_dict": {"state": {}, "lr": 0.1}}
    assert convert(write_source(tmp_path, wrapper, config), tmp_path / "output") < TOLERANCE


def test_checkpoint_of_the_legacy_file_format_is_read(tmp_path, book):
    path = write_source(tmp_path, {}, book[1])
    torch.save(book[0].state_dict(), path, _use_new_zipfile_serialization=False)
    assert convert(path, tmp_path / "output") < TOLERANCE


def test_checkpoint_without_masks_is_converted(tmp_path, book):
    weights = {name: tensor for name, tensor in book[0].state_dict().items() if not name.endswith("mask")}
    assert convert(write_source(tmp_path, weights, book[1]), tmp_path / "output") < TOLERANCE


def test_checkpoint_without_head_is_tied(tmp_path, input_ids):
    source, _ = book_model(tie_weights=True)
    weights = source.state_dict()
    del weights["out_head.weight"]
    convert(write_source(tmp_path, weights, BOOK_CONFIG), tmp_path / "output")
    model = GPTScratchForCausalLM.from_pretrained(tmp_path / "output")
    assert model.config.tie_word_embeddings
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids).logits, source(input_ids), atol=TOLERANCE, rtol=0)


def test_tied_checkpoint_of_safetensors_save_model_is_converted(tmp_path, input_ids):
    source, config = book_model(tie_weights=True)
    save_model(source, tmp_path / "model.safetensors")
    assert "tok_emb.weight" not in load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.json").write_text(json.dumps(config))
    convert(tmp_path / "model.safetensors", tmp_path / "output")
    model = GPTScratchForCausalLM.from_pretrained(tmp_path / "output")
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids).logits, source(input_ids), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_keep_their_dtype_and_value(tmp_path, book, dtype):
    weights = book[0].to(dtype).state_dict()
    convert(write_source(tmp_path, weights, book[1]), tmp_path / "output")
    written = load_file(tmp_path / "output" / "model.safetensors")["model.layers.1.self_attn.v_proj.weight"]
    assert written.dtype == dtype
    assert torch.equal(written, weights["trf_blocks.1.att.W_value.weight"])


def test_converted_model_does_not_change_with_the_source_tensors(book):
    weights = book[0].state_dict()
    model = convert_book_checkpoint(weights, book[1])
    before = model.model.embed_tokens.weight.clone()
    weights["tok_emb.weight"].zero_()
    assert torch.equal(model.model.embed_tokens.weight, before)


def test_config_option_replaces_the_file_beside_the_source(tmp_path, book):
    source = write_source(tmp_path, book[0].state_dict(), {"wrong": 1})
    (tmp_path / "other.json").write_text(json.dumps(book[1]))
    assert convert(source, tmp_path / "output", config=tmp_path / "other.json") < TOLERANCE


def test_unknown_keys_missing_keys_and_wrong_shapes_are_named_together(tmp_path, capsys, book):
    weights = book[0].state_dict()
    weights["trf_blocks.2.norm1.scale"] = weights.pop("trf_blocks.1.norm1.scale")
    weights["pos_emb.weight"] = weights["pos_emb.weight"][:8]
    weights["trf_blocks.0.att.mask"] = torch.ones(8, 8)
    message = refusal(capsys, tmp_path, write_source(tmp_path, weights, book[1]))
    assert "1 unknown: trf_blocks.2.norm1.scale;" in message
    assert "1 missing: trf_blocks.1.norm1.scale;" in message
    assert "2 of a wrong shape: " in message
    assert "pos_emb.weight is (8, 32), expected (16, 32)" in message
    assert "trf_blocks.0.att.mask is (8, 8), expected (16, 16)" in message


def test_many_unknown_keys_are_counted_and_the_first_named(tmp_path, capsys, book):
    weights = {f"other_{name}": tensor for name, tensor in book[0].state_dict().items()}
    message = refusal(capsys, tmp_path, write_source(tmp_path, weights, book[1]), "--from", "book")
    assert f"{len(weights)} unknown: other_tok_emb.weight, other_pos_emb.weight, " in message
    assert "other_final_norm.scale" not in message


def test_biases_that_the_config_denies_are_refused(tmp_path, capsys):
    source, config = book_model(qkv_bias=True)
    path = write_source(tmp_path, source.state_dict(), config | {"qkv_bias": False})
    assert "6 unknown: trf_blocks.0.att.W_query.bias, " in refusal(capsys, tmp_path, path)


def test_one_tensor_of_integers_is_refused(tmp_path, capsys, book):
    weights = book[0].state_dict()
    weights["out_head.weight"] = weights["out_head.weight"].long()
    message = refusal(capsys, tmp_path, write_source(tmp_path, weights, book[1]))
    assert "dtypes torch.float32, torch.int64, expected floating-point dtypes alone" in message


def test_checkpoint_of_integers_is_refused(tmp_path, capsys, book):
    weights = {name: tensor.long() for name, tensor in book[0].state_dict().items()}
    assert "dtypes torch.int64, expected" in refusal(capsys, tmp_path, write_source(tmp_path, weights, book[1]))


def test_tied_config_with_a_different_head_is_refused(tmp_path, capsys, book):
    path = write_source(tmp_path, book[0].state_dict(), book[1] | {"tie_weights": True})
    assert "tie_weights is true" in refusal(capsys, tmp_path, path)


def test_untied_config_without_head_is_refused(tmp_path, capsys, book):
    weights = book[0].state_dict()
    del weights["out_head.weight"]
    path = write_source(tmp_path, weights, book[1] | {"tie_weights": False})
    assert "1 missing: out_head.weight" in refusal(capsys, tmp_path, path)


def test_config_problems_are_named_together(tmp_path, capsys, book):
    config = {**book[1], "moe": {"num_experts": 4}, "n_heads": "4", "n_layers": True}
    del config["drop_rate"]
    message = refusal(capsys, tmp_path, write_source(tmp_path, book[0].state_dict(), config))
    for problem in ("unknown field moe", "missing field drop_rate", "n_heads is '4', expected int", "n_layers is True"):
        assert problem in message


def test_sizes_that_do_not_fit_together_are_refused(tmp_path, capsys, book):
    path = write_source(tmp_path, book[0].state_dict(), book[1] | {"n_heads": 5})
    assert "not a multiple of num_attention_heads" in refusal(capsys, tmp_path, path)


@pytest.mark.parametrize(
    ("field", "complaint"),
    [("n_layers", "1000000000000 blocks, but the checkpoint has only 33 tensors"), ("emb_dim", "no possible model")],
)
def test_sizes_beyond_any_computer_are_refused(tmp_path, capsys, book, field, complaint):
    path = write_source(tmp_path, book[0].state_dict(), book[1] | {field: 10**12})
    assert complaint in refusal(capsys, tmp_path, path)


def test_absurd_sizes_are_refused_before_memory_is_asked_for(tmp_path, capsys, book):
    path = write_source(tmp_path, book[0].state_dict(), book[1] | {"vocab_size": 10**12})
    assert "expected (1000000000000, 32)" in refusal(capsys, tmp_path, path)


@pytest.mark.parametrize("text", ["{", "[1, 2]", b"\xff\xfe"])
def test_unreadable_config_is_refused(tmp_path, capsys, book, text):
    path = write_source(tmp_path, book[0].state_dict(), None)
    (tmp_path / "model.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert "model.json" in refusal(capsys, tmp_path, path)


def test_missing_config_is_refused(tmp_path, capsys, book):
    path = write_source(tmp_path, book[0].state_dict(), None)
    message = refusal(capsys, tmp_path, path)
    assert "model.json does not exist" in message
    assert "--config" in message


def test_mixed_up_names_are_caught_by_the_logits_and_nothing_is_written(tmp_path, capsys, monkeypatch, book):
    names = dict(book_format.BOOK_NAMES)
    key, value = "trf_blocks.N.att.W_key.weight", "trf_blocks.N.att.W_value.weight"
    names[key], names[value] = names[value], names[key]
    monkeypatch.setattr(book_format, "BOOK_NAMES", names)
    assert "logits differ" in refusal(capsys, tmp_path, write_source(tmp_path, book[0].state_dict(), book[1]))


def test_small_difference_of_the_logits_is_refused(book):
    source, config = book
    model = convert_book_checkpoint(source.state_dict(), config)
    for layer in model.model.layers:
        layer.mlp.act_fn = nn.GELU()  # the exact form: the least visible mistake
    with pytest.raises(ConversionError, match="logits differ"):
        compare_logits(model, source)


def test_checkpoint_with_a_weight_that_is_no_number_is_refused(tmp_path, capsys, book):
    weights = book[0].state_dict()
    weights["trf_blocks.1.ff.layers.0.bias"][3] = torch.nan
    assert "not finite" in refusal(capsys, tmp_path, write_source(tmp_path, weights, book[1]))
