"""Tokenizers from their choice in a recipe to the finished model folder, as `pretrain` makes it."""

import json
import random
import re
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from modeling_gpt_scratch.conversion.characters import character_tokenizer
from tests.strangers import run_as_stranger
from training.__main__ import main
from training.data import tokenization
from training.data.shards import read_manifest
from training.data.writing import PartWriter
from training.record import read_metrics

WORDS = ["tree", "river", "stone", "bird", "cloud", "light", "road", "night"]


class Crash(BaseException):
    """Ends a preparation as no `except` of ours foresees."""


@pytest.fixture(scope="module")
def poem(tmp_path_factory) -> Path:
    words, folder = random.Random(1), tmp_path_factory.mktemp("poem")
    for number in range(10):
        lines = [" ".join(words.choices(WORDS, k=8)) + ".\n" for _ in range(20)]
        (folder / f"{number}.txt").write_text("".join(lines))
    return folder


@pytest.fixture
def pretrain(command, poem, tmp_path, capsys):
    """Runs a tiny pretraining to its end and gives its result and what it said."""

    def run(**options) -> tuple[dict, str]:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "muon_learning_rate": None}
        steps = {"max_steps": 2, "save_strategy": "no", "eval_strategy": "no", "save_steps": None, "eval_steps": None}
        code = main(command(**{"corpus": poem, **sizes, **steps} | options))
        said = capsys.readouterr()
        assert code == 0, said.err
        record = json.loads((Path(options.get("output_dir", tmp_path / "run")) / "run.json").read_text())
        return record["result"], said.out

    return run


STRANGER = """
import json, sys
from transformers import AutoTokenizer, pipeline
folder, prompt = sys.argv[1:]
generator = pipeline("text-generation", model=folder, device="cpu", trust_remote_code=True)
text = generator(prompt, max_new_tokens=5, do_sample=False)[0]["generated_text"]
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
print(json.dumps({"text": text, "tokens": tokenizer.tokenize(prompt), "size": generator.model.config.vocab_size}))
"""


@pytest.mark.slow
def test_a_model_of_characters_is_opened_by_anybody(pretrain, poem, tmp_path, capsys):
    result, said = pretrain(tokenizer="characters", vocab_size=None)
    size = len(set("".join(file.read_text() for file in poem.iterdir()))) + 3
    assert f"the tokenizer has {size} tokens, special ones and one for each character: so has the model" in said
    assert 0 < result["eval_bits_per_byte"] < 10
    prompt = "tree\nby  night"
    found, _ = run_as_stranger(STRANGER, str(tmp_path / "run" / "model"), prompt, workplace=tmp_path)
    # Two of the letters were never seen in training.
    assert found["tokens"] == ["<|unknown|>" if letter == "y" else letter for letter in prompt]
    assert found["text"].startswith("tree\nb")
    assert found["size"] == size
    assert main(["generate", str(tmp_path / "run" / "model"), "--prompt", "", "--max_new_tokens", "9"]) == 0


@pytest.mark.slow
def test_prepared_characters_are_gone_on_with_and_used_again(pretrain, tmp_path, monkeypatch, poem):
    monkeypatch.setattr(tokenization, "BATCH_CHARACTERS", 500)
    monkeypatch.setattr(tokenization, "SECONDS_BETWEEN_STATES", 0)
    add, added = PartWriter.add, []

    def crash_at_the_fifth(self, encoded):
        added.append(encoded)
        if len(added) == 5:
            raise Crash
        add(self, encoded)

    with monkeypatch.context() as patch:
        patch.setattr(PartWriter, "add", crash_at_the_fifth)
        with pytest.raises(Crash):
            pretrain(tokenizer="characters")
    first, said = pretrain(tokenizer="characters")
    assert "going on after" in said
    (folder,) = tmp_path.glob("data/*-*")
    copy = shutil.copytree(folder, tmp_path / "copy")
    for number, tokenizer in enumerate(("characters", None)):
        again, said = pretrain(corpus=copy, tokenizer=tokenizer, output_dir=tmp_path / f"run-{number}")
        assert again["model_sha256"] == first["model_sha256"]
        assert "so has the model" in said
    whole, _ = pretrain(tokenizer="characters", data_dir=tmp_path / "whole", output_dir=tmp_path / "run-2")
    assert whole["model_sha256"] == first["model_sha256"]


def test_prepared_data_of_other_tokens_is_not_of_characters(pretrain, command, tmp_path, capsys):
    pretrain()
    (folder,) = tmp_path.glob("data/*-*")
    assert main(command(corpus=folder, tokenizer="characters", output_dir=tmp_path / "other")) == 2
    assert "tokenizer is characters, but was another one" in capsys.readouterr().err


@pytest.mark.parametrize(("multiple", "padded"), [(None, 0), (64, 64)])
def test_a_model_has_as_many_tokens_as_its_text_gave(multiple, padded, pretrain, tmp_path):
    _, said = pretrain(vocab_size=4000, pad_vocab_to_multiple_of=multiple)
    tokens = len(AutoTokenizer.from_pretrained(tmp_path / "run" / "model"))
    assert tokens < 400
    assert f"vocab_size is 4,000, but the tokenizer has {tokens} tokens: so has the model" in said
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert model.config.vocab_size == (-(-tokens // padded) * padded if padded else tokens)


def write_word_tokenizer(folder: Path, words: list[str]) -> Path:
    """One that gives no text back: it writes in small letters, leaves out spaces, and does not know every word."""
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]").save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("known", "loss"),
    [(WORDS[1:], r"1?\d\.\d % of the tokens of {} are \[UNK\]"), (WORDS, r"\d+.\d % of the text of {} comes back")],
    ids=["unknown words", "changed text"],
)
def test_a_tokenizer_that_loses_text_has_no_bits_per_byte(known, loss, pretrain, tmp_path):
    tokenizer = write_word_tokenizer(tmp_path / "tokenizer", ["[UNK]", "[SEP]", ".", *known])
    result, said = pretrain(tokenizer=tokenizer, eos_token="[SEP]")
    for part in ("validation", "test"):
        lines = [line for line in said.splitlines() if f" of {part} " in line]
        assert len(lines) == 1
        assert lines[0].endswith(": the text cannot be had back, and bits per byte is left out")
        assert re.match(loss.format(part), lines[0])
    assert not any("bits_per_byte" in name for name in [*result, *result["initial"]])
    assert result["test_loss"] > 0
    assert not any("eval_bits_per_byte" in line for line in read_metrics(tmp_path / "run"))
    assert "bits per byte\n" not in said
    assert AutoTokenizer.from_pretrained(tmp_path / "run" / "model").eos_token == "[SEP]"


def test_ids_may_be_left_out_below_the_highest(pretrain, command, tokenizer, tmp_path, capsys):
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    end = parts["added_tokens"][1] | {"id": 70_000, "content": "<end>"}
    parts["added_tokens"].append(end)
    parts["model"]["vocab"]["<end>"] = 70_000
    core = Tokenizer.from_str(json.dumps(parts))
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>").save_pretrained(tmp_path / "gap")
    assert main(command(tokenizer=tmp_path / "gap", vocab_size=500)) == 2
    found = "the tokenizer has 401 tokens, whose ids go up to 70,000, but vocab_size is 500"
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {found}: set vocab_size to 70001 or more"
    pretrain(tokenizer=tmp_path / "gap", vocab_size=70001)
    (folder,) = tmp_path.glob("data/*-*")
    assert (read_manifest(folder)["dtype"], read_manifest(folder)["tokenizer"]["tokens"]) == ("uint32", 70001)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").config.eos_token_id == 70_000


def test_nanogpts_characters_are_a_tokenizer_with_an_end_of_text(pretrain, tmp_path, poem):
    characters = sorted(set("".join(file.read_text() for file in poem.iterdir())), reverse=True)
    meta = {"stoi": {character: index for index, character in enumerate(characters)}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    result, _ = pretrain(tokenizer=tmp_path / "meta.json")
    assert result["eval_bits_per_byte"] > 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    assert tokenizer(characters[3])["input_ids"] == [3]
    assert tokenizer.eos_token_id == len(characters)


def test_files_that_number_no_characters_are_refused(command, tmp_path, capsys):
    (tmp_path / "meta.pkl").write_bytes(b"cos\nsystem\n.")
    assert main(command(tokenizer=tmp_path / "meta.pkl")) == 2
    assert "it wants to call os.system, which is not done" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("tokenizer", ["train", "characters"])
def test_an_end_of_text_is_not_named_for_what_has_its_own(tokenizer, command, capsys):
    assert main(command(tokenizer=tokenizer, eos_token="</s>")) == 2
    assert f"eos_token is '</s>', but tokenizer is {tokenizer}, which has an end of text" in capsys.readouterr().err


def test_prepared_data_with_another_end_of_text_is_refused(pretrain, command, tmp_path, capsys):
    tokenizer = character_tokenizer(sorted(set(" ".join(WORDS) + ".\n")), special_tokens=True)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    pretrain(tokenizer=tmp_path / "tokenizer", eos_token="<|pad|>")
    (folder,) = tmp_path.glob("data/*-*")
    assert main(command(corpus=folder, tokenizer=tmp_path / "tokenizer", output_dir=tmp_path / "other")) == 2
    assert "eos_token is <|endoftext|>, but was <|pad|>" in capsys.readouterr().err
