"""Character tokenizers: exact, opened by anybody, and read from nanoGPT's meta.pkl without running what is in it."""

import json
import pickle
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from modeling_gpt_scratch.__main__ import main
from modeling_gpt_scratch.conversion import ConversionError
from modeling_gpt_scratch.conversion.characters import (
    END_OF_TEXT,
    UNKNOWN,
    character_tokenizer,
    is_character_tokenizer,
    read_characters,
)
from modeling_gpt_scratch.conversion.tokenizer import vocabulary_size
from tests.conversion.conversions import RunsCommand, fused_model, refusal, write_nanogpt
from tests.strangers import run_as_stranger

TEXT = "Wer reitet so spät?\n\n\tEs ist  der Vater\r\0 日本🦜 e\u0301 <|pad|> KLMNO"
CHARACTERS = sorted(set(TEXT))


def meta_of(characters) -> dict:
    return {
        "vocab_size": len(characters),
        "itos": dict(enumerate(characters)),
        "stoi": {character: index for index, character in enumerate(characters)},
    }


def write_meta(place: Path, meta: object) -> Path:
    file = place / "meta.pkl"
    file.write_bytes(pickle.dumps(meta))
    return file


@pytest.mark.parametrize("special_tokens", [True, False])
def test_every_character_is_a_token_and_the_text_comes_back(special_tokens, tmp_path):
    tokenizer = character_tokenizer(CHARACTERS, special_tokens=special_tokens)
    tokenizer.save_pretrained(tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    plain = TEXT.replace("<|pad|>", "")  # which is text in shards alone
    assert opened(plain)["input_ids"] == [CHARACTERS.index(character) for character in plain]
    assert opened.decode(opened(plain)["input_ids"]) == plain
    assert len(opened) == vocabulary_size(opened) == len(CHARACTERS) + 3 * special_tokens
    assert is_character_tokenizer(opened)


def test_a_character_that_was_never_seen_is_a_token_of_its_own():
    tokenizer = character_tokenizer("abc", special_tokens=True)
    assert tokenizer.convert_ids_to_tokens(tokenizer("aφ€c")["input_ids"]) == ["a", UNKNOWN, UNKNOWN, "c"]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == (END_OF_TEXT, END_OF_TEXT, UNKNOWN)
    assert len({tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}) == 3
    assert character_tokenizer("abc", special_tokens=False)("aφ€c")["input_ids"] == [0, 2]


def test_other_tokenizers_are_none_of_characters(tokenizer):
    assert not is_character_tokenizer(tokenizer)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_characters_of_nanogpt_are_read_in_their_order(protocol, tmp_path):
    characters = "zyxa\n é日"
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta_of(characters), protocol))
    (tmp_path / "meta.json").write_text(json.dumps(meta_of(characters)))
    for file in ("meta.pkl", "meta.json"):
        assert read_characters(tmp_path / file) == list(characters)


@pytest.mark.parametrize(
    "hide", [lambda evil: evil, lambda evil: meta_of("ab") | {"more": evil}], ids=["alone", "inside"]
)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_calls_something_does_not_run(protocol, hide, tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(hide(RunsCommand(f"touch {ran}")), protocol))
    with pytest.raises(ConversionError, match=r"it wants to call \w+\.system, which is not done"):
        read_characters(tmp_path / "meta.pkl")
    assert not ran.exists()


@pytest.mark.parametrize(
    "content",
    [b"cos\nsystem\n(S'touch ran'\ntR.", b"(S'touch ran'\nios\nsystem\n.", b"Pelsewhere\n.", b"\x80\x04\x82\x01."],
    ids=["GLOBAL", "INST", "PERSID", "EXT1"],
)
def test_no_other_way_out_of_a_pickle_is_open(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("meta.pkl").write_bytes(content)
    with pytest.raises(ConversionError, match=r"expected nanoGPT's meta\.pkl"):
        read_characters(Path("meta.pkl"))
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ([], "it has no `stoi`"),
        ({"itos": {0: "a"}}, "it has no `stoi`"),
        ({"stoi": {"ab": 0}}, "numbers something else than single characters"),
        ({"stoi": {"\ud800": 0}}, "numbers something else than single characters"),
        ({"stoi": {"a": True}}, "numbers something else than single characters"),
        ({"stoi": {"a": 0, "b": 2}}, "has numbers twice, or leaves some out"),
        ({"stoi": {"a": 0, "b": 0}}, "has numbers twice, or leaves some out"),
        ({"stoi": {"a": 0, "b": 1}, "itos": {0: "b", 1: "a"}}, "contradicts itself"),
        ({"stoi": {"a": 0, "b": 1}, "itos": {0: "a", 10**5000: "b"}}, "contradicts itself"),
    ],
)
def test_what_is_no_numbering_of_characters_is_refused(meta, message, tmp_path):
    with pytest.raises(ConversionError, match=message):
        read_characters(write_meta(tmp_path, meta))


def test_a_torn_file_is_refused(tmp_path):
    file = write_meta(tmp_path, meta_of("abc"))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ConversionError, match="holds no characters"):
        read_characters(file)


STRANGER = """
import json, sys
from transformers import AutoTokenizer, pipeline
folder, prompt = sys.argv[1:]
generator = pipeline("text-generation", model=folder, device="cpu", trust_remote_code=True)
text = generator(prompt, max_new_tokens=5, do_sample=False)[0]["generated_text"]
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
print(json.dumps({"text": text, "ids": tokenizer(prompt)["input_ids"], "eos": tokenizer.eos_token_id}))
"""


@pytest.mark.slow
def test_nanogpts_first_model_becomes_a_folder_that_anybody_opens(tmp_path, capsys):
    characters = CHARACTERS[:30]
    model, sizes = fused_model(vocab_size=30)
    source = write_nanogpt(tmp_path / "out", model.state_dict(), sizes)
    meta = write_meta(tmp_path, meta_of(characters))
    assert main(["convert", str(source), str(tmp_path / "model"), "--tokenizer", str(meta)]) == 0
    assert "has no end of text, so it always writes as many tokens as are asked for" in capsys.readouterr().out
    prompt = "Wer reitet"
    found, _ = run_as_stranger(STRANGER, str(tmp_path / "model"), prompt, workplace=tmp_path)
    assert found["ids"] == [characters.index(character) for character in prompt]
    assert found["text"].startswith(prompt)
    assert len(found["text"]) == len(prompt) + 5
    assert found["eos"] is None


def test_characters_of_another_model_are_refused(tmp_path, capsys):
    model, sizes = fused_model(vocab_size=30)
    source = write_nanogpt(tmp_path, model.state_dict(), sizes)
    meta = write_meta(tmp_path, meta_of(CHARACTERS[:31]))
    assert "has 31 tokens, but the model's vocabulary only 30" in refusal(
        capsys, tmp_path, source, "--tokenizer", str(meta)
    )
