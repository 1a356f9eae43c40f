"""How a source is said to write (generation_config.json) goes along with its conversion."""

import json

import pytest
from transformers import GenerationConfig

from modeling_gpt_scratch.conversion import convert
from tests.conversion.conversions import book_model, gpt2_model, refusal, write_blog, write_gpt2, write_tokenizer

SETTINGS = {"do_sample": True, "temperature": 0.7, "eos_token_id": [2, 7, 50256], "bos_token_id": 50256}


@pytest.fixture
def source(tmp_path, tiny_model):
    """Writes a folder of a format with these settings."""

    def build(settings, source_format="gpt2"):
        folder = tmp_path / "source"
        if source_format == "blog":
            book, config = book_model()
            write_blog(folder, book.state_dict(), config)
        elif source_format == "gpt2":
            _, weights, config = gpt2_model()
            write_gpt2(folder, weights, config | {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0})
        else:
            special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
            tiny_model(vocab_size=61, max_position_embeddings=16, **special).save_pretrained(folder)
        (folder / "generation_config.json").write_text(settings if isinstance(settings, str) else json.dumps(settings))
        return folder

    return build


@pytest.mark.parametrize("target", ["gpt-scratch", "gpt2"])
@pytest.mark.parametrize("source_format", ["blog", "gpt2", "gpt-scratch"])
def test_what_the_user_has_set_stays_and_what_the_model_cannot_do_is_mended(tmp_path, source, source_format, target):
    convert(source(SETTINGS | {"max_length": 99}, source_format), tmp_path / "output", target_format=target)
    written = GenerationConfig.from_pretrained(tmp_path / "output")
    assert (written.do_sample, written.temperature, written.eos_token_id) == (True, 0.7, [2, 7])
    assert written.max_length == 16
    if source_format != "blog":  # whose configuration has no special tokens
        assert (written.bos_token_id, written.pad_token_id) == (1, 0)


@pytest.mark.parametrize(
    ("lengths", "expected"), [({}, (16, None)), ({"max_length": 9}, (9, None)), ({"max_new_tokens": 5}, (None, 5))]
)
def test_own_lengths_stay(tmp_path, source, lengths, expected):
    convert(source(SETTINGS | lengths), tmp_path / "output")
    written = GenerationConfig.from_pretrained(tmp_path / "output")
    assert (written.max_length, written.max_new_tokens) == expected


def test_own_special_tokens_stay_unless_another_tokenizer_is_named(tmp_path, source):
    folder = write_tokenizer(source(SETTINGS), num_words=20)
    convert(folder, tmp_path / "first")
    assert GenerationConfig.from_pretrained(tmp_path / "first").eos_token_id == [2, 7]
    convert(folder, tmp_path / "second", tokenizer=str(folder))
    assert GenerationConfig.from_pretrained(tmp_path / "second").eos_token_id == 2


def test_settings_that_cannot_be_read_or_written_are_refused(tmp_path, capsys, source):
    assert "generation_config.json cannot be read" in refusal(capsys, tmp_path, source("["))
    message = refusal(capsys, tmp_path, source({"output_scores": True, "max_length": 99}))
    assert "cannot be saved: GenerationConfig is invalid: - `output_scores`" in message


@pytest.mark.parametrize("target", ["gpt-scratch", "gpt2"])
def test_flags_without_effect_are_left_out_and_named(tmp_path, source, target):
    flags = {"temperature": 0.7, "top_k": 20, "min_p": 0.1, "top_p": 1.0, "length_penalty": 2.0, "num_beams": 1}
    lines = []
    convert(source(flags | {"max_length": 9}), tmp_path / "output", target_format=target, report=lines.append)
    assert "does nothing without sampling or beams: temperature, top_k, min_p, length_penalty." in lines[1]
    written = GenerationConfig.from_pretrained(tmp_path / "output")
    written.validate(strict=True)
    assert (written.temperature, written.min_p, written.max_length) == (None, None, 9)


def test_flags_with_effect_stay_without_a_word(tmp_path, source):
    flags = {"do_sample": True, "temperature": 0.7, "num_beams": 2, "length_penalty": 2.0}
    lines = []
    convert(source(flags), tmp_path / "output", report=lines.append)
    written = GenerationConfig.from_pretrained(tmp_path / "output")
    assert (written.temperature, written.length_penalty) == (0.7, 2.0)
    assert not any("Left out" in line for line in lines)
