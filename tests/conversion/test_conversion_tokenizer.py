"""The tokenizer that goes along with a conversion, or is refused."""

from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from modeling_gpt_scratch.__main__ import main
from modeling_gpt_scratch.conversion import convert
from tests.conversion.conversions import refusal, write_source, write_tokenizer


def test_tokenizer_is_saved_beside_the_model_and_its_tokens_enter_the_configs(tmp_path, capsys, book):
    source = write_source(tmp_path / "source", book[0].state_dict(), book[1])
    write_tokenizer(tmp_path / "tokenizer", num_words=20)
    options = ["--tokenizer", str(tmp_path / "tokenizer")]
    assert main(["convert", str(source), str(tmp_path / "output"), *options]) == 0
    assert "--tokenizer" not in capsys.readouterr().out

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "output", trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "output", trust_remote_code=True)
    assert tokenizer("w0 w5")["input_ids"] == [3, 8]
    assert tokenizer.model_max_length == 16
    for config in (model.config, GenerationConfig.from_pretrained(tmp_path / "output")):
        assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 2)
    assert GenerationConfig.from_pretrained(tmp_path / "output").max_length == 16


def test_tokenizer_of_a_converted_folder_is_accepted_without_remote_code(tmp_path, book):
    source = write_source(tmp_path / "source", book[0].state_dict(), book[1])
    convert(source, tmp_path / "first", tokenizer=str(write_tokenizer(tmp_path / "tokenizer", num_words=20)))
    convert(source, tmp_path / "second", tokenizer=str(tmp_path / "first"))
    assert len(AutoTokenizer.from_pretrained(tmp_path / "second", trust_remote_code=True)) == 23


def test_tokenizer_larger_than_the_vocabulary_is_refused(tmp_path, capsys, book):
    source = write_source(tmp_path, book[0].state_dict(), book[1])
    folder = write_tokenizer(tmp_path / "tokenizer", num_words=59)
    message = refusal(capsys, tmp_path, source, "--tokenizer", str(folder))
    assert "has 62 tokens" in message
    assert "only 61" in message


def test_missing_and_damaged_tokenizers_are_refused(tmp_path, capsys, book):
    source = write_source(tmp_path, book[0].state_dict(), book[1])
    folder = write_tokenizer(tmp_path / "tokenizer", num_words=5)
    assert "none" in refusal(capsys, tmp_path, source, "--tokenizer", str(tmp_path / "none"))
    (folder / "tokenizer.json").write_text("{}")
    assert str(folder) in refusal(capsys, tmp_path, source, "--tokenizer", str(folder))
