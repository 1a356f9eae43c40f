"""What does not go to llama.cpp: refused with a reason, and nothing is left behind."""

import copy
import importlib.util
import json

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors

from modeling_gpt_scratch import GPTScratchForSequenceClassification
from modeling_gpt_scratch.conversion import ConversionError, convert
from modeling_gpt_scratch.conversion import gguf as conversion
from tests.conversion.conversions import refusal, write_tokenizer
from tests.conversion.gguf_files import changed, to_gguf

gguf = pytest.importorskip("gguf")


def test_other_activations_are_refused(tmp_path, capsys, write_own):
    message = refusal(capsys, tmp_path, write_own(hidden_act="gelu").place, "--to", "gguf")
    assert "its activation is gelu, but llama.cpp computes GPT-2's tanh-GELU alone" in message


def test_widths_that_q8_0_cannot_store_are_refused_and_f16_takes_them(tmp_path, capsys, write_own):
    source = write_own(intermediate_size=80)
    message = refusal(capsys, tmp_path, source.place, "--to", "gguf", "--dtype", "q8_0")
    assert "hidden_size is 32 and intermediate_size 80, but q8_0 is for multiples of 32: name --dtype f16" in message
    assert to_gguf(source.place, tmp_path / "output", "f16").is_file()


def test_numbers_that_a_type_cannot_hold_are_refused(tmp_path, capsys, write_own):
    source = write_own()
    with torch.no_grad():
        source.model.model.layers[0].mlp.fc_in.weight[0, 0] = 1e5
    source.model.save_pretrained(source.place)
    message = refusal(capsys, tmp_path, source.place, "--to", "gguf", "--dtype", "f16")
    assert "blk.0.ffn_up.weight has numbers that are too large for f16: name --dtype f32" in message


def test_classification_head_is_refused(tmp_path, capsys, tiny_config, tokenizer):
    GPTScratchForSequenceClassification(tiny_config(vocab_size=400)).save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    assert "score.weight" in refusal(capsys, tmp_path, tmp_path / "source", "--to", "gguf")


def test_source_without_a_tokenizer_is_refused_and_the_advice_works(tmp_path, capsys, tiny_model, tokenizer):
    tiny_model(vocab_size=400).save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    message = refusal(capsys, tmp_path, tmp_path / "source", "--to", "gguf")
    assert "it has no tokenizer, which the file must hold: add one with --tokenizer" in message
    convert(tmp_path / "source", tmp_path / "output", target_format="gguf", tokenizer=str(tmp_path / "tokenizer"))


def without_a_byte(tokenizer):
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    core["model"]["vocab"]["<|lost|>"] = core["model"]["vocab"].pop("ÿ")
    core["model"]["merges"] = [merge for merge in core["model"]["merges"] if "ÿ" not in "".join(merge)]
    changed_tokenizer = copy.deepcopy(tokenizer)
    changed_tokenizer._tokenizer = Tokenizer.from_str(json.dumps(core))
    return changed_tokenizer


def with_token(tokenizer, token):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens([token])
    return tokenizer


OTHER_TOKENIZERS = {
    "normalizer Lowercase": lambda tokenizer: changed(tokenizer, normalizer=normalizers.Lowercase()),
    "pre_tokenizer Whitespace": lambda tokenizer: changed(tokenizer, pre_tokenizer=pre_tokenizers.Whitespace()),
    "add_prefix_space True": lambda tokenizer: changed(tokenizer, pre_tokenizer=pre_tokenizers.ByteLevel()),
    "1 of the 256 bytes missing": without_a_byte,
    "'<mask>' swallow spaces": lambda tokenizer: with_token(tokenizer, AddedToken("<mask>", lstrip=True)),
    "puts the ids [1] before a text": lambda tokenizer: changed(
        tokenizer, post_processor=processors.TemplateProcessing(single="<|pad|> $A", special_tokens=[("<|pad|>", 1)])
    ),
}


@pytest.mark.parametrize("reason", OTHER_TOKENIZERS)
def test_tokenizers_of_other_rules_are_refused(tmp_path, tiny_model, tokenizer, reason):
    other = OTHER_TOKENIZERS[reason](tokenizer)
    model = tiny_model(vocab_size=448)
    with pytest.raises(ConversionError) as caught:
        conversion.write_gguf_folder(tmp_path / "output", model, None, other)
    assert reason in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_tokenizer_of_words_is_refused(tmp_path, capsys, tiny_model):
    tiny_model(vocab_size=61).save_pretrained(tmp_path / "source")
    write_tokenizer(tmp_path / "source", num_words=58)
    message = refusal(capsys, tmp_path, tmp_path / "source", "--to", "gguf")
    assert "no plain byte-level BPE as GPT-2's is (pre_tokenizer Whitespace, model WordLevel)" in message


def test_tokenizer_without_an_end_is_refused(tmp_path, capsys, tiny_model, tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = None
    tiny_model(vocab_size=400).save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    assert "no end-of-text token" in refusal(capsys, tmp_path, tmp_path / "source", "--to", "gguf")


def test_missing_package_is_said_before_anything_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = refusal(capsys, tmp_path, tmp_path / "nothing", "--to", "gguf")
    assert "--to gguf needs the gguf package: pip install '.[gguf]'" in message


def test_dtype_is_for_this_target_alone(tmp_path, capsys, write_own):
    message = refusal(capsys, tmp_path, write_own().place, "--dtype", "f16")
    assert "--dtype is for --to gguf alone" in message


def test_file_that_does_not_give_back_the_logits_has_no_name(tmp_path, monkeypatch, write_own):
    source = write_own()
    mixed_up = {"blk.N.attn_norm.weight": "blk.N.ffn_norm.weight", "blk.N.ffn_norm.weight": "blk.N.attn_norm.weight"}
    names = {mixed_up.get(name, name): ours for name, ours in conversion.GGUF_NAMES.items()}
    monkeypatch.setattr(conversion, "GGUF_NAMES", names)
    with pytest.raises(ConversionError, match="read back, gives logits that differ"):
        to_gguf(source.place, tmp_path / "output")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_file_that_does_not_give_back_the_tokens_has_no_name(tmp_path, monkeypatch, write_own):
    source = write_own()
    original = gguf.GGUFWriter.add_token_merges
    monkeypatch.setattr(gguf.GGUFWriter, "add_token_merges", lambda self, merges: original(self, merges[::-1]))
    with pytest.raises(ConversionError, match="read back, cuts "):
        to_gguf(source.place, tmp_path / "output")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_failure_while_writing_leaves_nothing(tmp_path, capsys, monkeypatch, write_own):
    source = write_own()

    def fail(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", fail)
    assert "No space left on device" in refusal(capsys, tmp_path, source.place, "--to", "gguf")
