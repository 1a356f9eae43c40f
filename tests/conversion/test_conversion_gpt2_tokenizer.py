"""The class that a tokenizer is saved under in GPT-2's format, and that it stays the same tokenizer."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast

from modeling_gpt_scratch.conversion import convert
from tests.conversion.conversions import write_tokenizer

TEXTS = ["Seven ships,  he said;\n\n\tand it's  3.14", "naïve 北京 👩🏽‍🚀", "a<|endoftext|>b<|pad|> c", ""]


def convert_with(tokenizer, tmp_path, tiny_model, capsys, target_format: str = "gpt2") -> tuple[str, str]:
    """Converts a model beside that tokenizer; returns the class that was written and what was said."""
    tiny_model(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "output", target_format=target_format, report=print)
    written = json.loads((tmp_path / "output" / "tokenizer_config.json").read_text())
    return written["tokenizer_class"], capsys.readouterr().out


def byte_level(merges=(), **settings) -> PreTrainedTokenizerFast:
    """A plain byte-level BPE tokenizer with `</s>`, unless settings say otherwise."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["</s>", *alphabet, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges), **settings.pop("model", {})))
    tokenizer.pre_tokenizer = settings.pop("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    if "normalizer" in settings:
        tokenizer.normalizer = settings.pop("normalizer")
    if "post_processor" in settings:
        tokenizer.post_processor = settings.pop("post_processor")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", **settings)


@pytest.mark.parametrize("side", ["left", "right"])
def test_tokenizer_that_was_trained_here_is_saved_as_gpt2s_and_stays_the_same(
    tmp_path, tiny_model, capsys, tokenizer, side, monkeypatch
):
    monkeypatch.setattr(tokenizer, "padding_side", side)
    name, printed = convert_with(tokenizer, tmp_path, tiny_model, capsys)
    assert name == "GPT2Tokenizer"
    assert "Its tokenizer" not in printed
    for again in (cls.from_pretrained(tmp_path / "output") for cls in (AutoTokenizer, GPT2Tokenizer)):
        assert isinstance(again, GPT2Tokenizer)
        assert (again.pad_token_id, again.eos_token_id, again.bos_token_id) == (1, 0, 0)
        assert (again.padding_side, again.model_max_length, len(again)) == (side, 64, len(tokenizer))
        expected, found = tokenizer(TEXTS, padding=True), again(TEXTS, padding=True)
        assert found["input_ids"] == expected["input_ids"]
        assert found["attention_mask"] == expected["attention_mask"]
        assert again.batch_decode(found["input_ids"]) == tokenizer.batch_decode(expected["input_ids"])


def test_end_of_text_of_another_name_gets_no_second_one(tmp_path, tiny_model, capsys):
    tokenizer = byte_level([("a", "b")])
    name, _ = convert_with(tokenizer, tmp_path, tiny_model, capsys)
    assert name == "GPT2Tokenizer"
    again = AutoTokenizer.from_pretrained(tmp_path / "output")
    assert "<|endoftext|>" not in again.get_vocab()
    assert (again.bos_token, again.unk_token, again.pad_token, again.eos_token) == (None, "</s>", None, "</s>")
    assert again(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]


@pytest.mark.parametrize(
    "settings",
    [
        {"normalizer": normalizers.Lowercase()},
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)},
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)},
        {
            "pre_tokenizer": pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            )
        },
        {"model": {"ignore_merges": True}},
    ],
    ids=["normalizer", "prefix space", "no regex", "digits", "ignores merges"],
)
def test_byte_level_tokenizer_of_another_kind_keeps_its_class_and_is_told(tmp_path, tiny_model, capsys, settings):
    tokenizer = byte_level([("a", "b")], **settings)
    name, printed = convert_with(tokenizer, tmp_path, tiny_model, capsys)
    assert name == type(tokenizer).__name__
    assert f"Its tokenizer is not GPT-2's kind (plain byte-level BPE), so tokenizer_config.json says {name}" in printed
    assert AutoTokenizer.from_pretrained(tmp_path / "output")(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]


def test_template_of_the_tokenizer_survives(tmp_path, tiny_model, capsys):
    template = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
    tokenizer = byte_level(post_processor=template)
    convert_with(tokenizer, tmp_path, tiny_model, capsys)
    assert tokenizer("ab")["input_ids"][-1] == 0
    assert AutoTokenizer.from_pretrained(tmp_path / "output")(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]


def test_tokenizer_of_words_keeps_its_class(tmp_path, tiny_model, capsys):
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(tmp_path / "tokenizer", num_words=20))
    name, printed = convert_with(tokenizer, tmp_path, tiny_model, capsys)
    assert name != "GPT2Tokenizer"
    assert "is not GPT-2's kind" in printed


def test_our_own_folders_keep_the_librarys_name(tmp_path, tiny_model, capsys, tokenizer):
    name, printed = convert_with(tokenizer, tmp_path, tiny_model, capsys, "gpt-scratch")
    assert name == type(tokenizer).__name__
    assert "Its tokenizer" not in printed
