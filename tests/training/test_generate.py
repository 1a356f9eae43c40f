"""`python -m training generate`: prompts continued, or refused with a reason."""

import io
import json
import shutil

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from modeling_gpt_scratch import GPTScratchConfig, GPTScratchForCausalLM
from modeling_gpt_scratch.conversion.characters import character_tokenizer
from training.__main__ import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A model folder with random weights: 64 positions, 400 tokens."""
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = GPTScratchConfig(
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.2,  # far from uniform, so that seeds and temperatures make a difference
        eos_token_id=0,
        bos_token_id=0,
        pad_token_id=1,
    )
    GPTScratchForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def generate(folder, capsys):
    def run(*options: str) -> str:
        capsys.readouterr()
        assert main(["generate", str(folder), *options]) == 0
        return capsys.readouterr().out

    return run


def test_prompt_is_continued_with_what_the_model_finds_likeliest(generate, folder, tokenizer):
    ids = tokenizer("the old light", return_tensors="pt")
    model = GPTScratchForCausalLM.from_pretrained(folder)
    expected = model.generate(**ids, max_length=ids["input_ids"].shape[1] + 10, do_sample=False)[0]
    printed = generate("--prompt", "the old light", "--temperature", "0", "--max_new_tokens", "10")
    assert printed == tokenizer.decode(expected, skip_special_tokens=True) + "\n"


def test_several_prompts_are_continued_one_after_the_other(generate):
    greedy = ("--temperature", "0", "--max_new_tokens", "5")
    both = generate("--prompt", "A light", "--prompt", "The wind", *greedy)
    assert both == generate("--prompt", "A light", *greedy) + generate("--prompt", "The wind", *greedy)


def test_standard_input_gives_a_prompt_a_line(generate, monkeypatch):
    greedy = ("--temperature", "0", "--max_new_tokens", "5")
    monkeypatch.setattr("sys.stdin", io.StringIO("A light\nThe wind\n"))
    assert generate(*greedy) == generate("--prompt", "A light", "--prompt", "The wind", *greedy)


@pytest.mark.parametrize("options", [("--prompt", "light \udcff"), ()], ids=["argument", "standard input"])
def test_a_prompt_that_is_no_text_is_refused(options, folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"light \xff\n"), encoding="utf-8"))
    assert main(["generate", str(folder), *options]) == 2
    assert "a prompt has bytes that are no text in this terminal's encoding" in capsys.readouterr().err


def test_empty_prompt_starts_a_text(generate):
    assert len(generate("--prompt", "", "--max_new_tokens", "20", "--seed", "1")) > 20


@pytest.fixture
def other_tokenizer(folder, tmp_path, capsys):
    """Runs the model with another tokenizer beside it."""

    def run(tokenizer, *options: str) -> tuple[int, str, str]:
        copy = shutil.copytree(folder, tmp_path / "copy", dirs_exist_ok=True)
        tokenizer.save_pretrained(copy)
        capsys.readouterr()
        greedy = ("--temperature", "0", "--max_new_tokens", "20")
        return main(["generate", str(copy), *greedy, *options]), *capsys.readouterr()

    return run


@pytest.mark.parametrize("special", [{"eos_token": "<|endoftext|>"}, {"bos_token": "<|endoftext|>"}])
def test_empty_prompt_starts_with_whichever_token_there_is(special, other_tokenizer, tokenizer, generate):
    expected = generate("--prompt", "", "--temperature", "0", "--max_new_tokens", "20")
    plain = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **special)
    code, printed, _ = other_tokenizer(plain, "--prompt", "")
    assert (code, printed) == (0, expected)


def test_without_such_a_token_an_empty_prompt_is_refused_and_others_are_continued(other_tokenizer):
    characters = character_tokenizer("abcdefgh ", special_tokens=False)
    code, printed, error = other_tokenizer(characters, "--prompt", "bad", "--prompt", "???")
    assert code == 2
    assert printed.startswith("bad")
    assert "the prompt '???' has no tokens, and the model's tokenizer none that begins or ends a text" in error


def test_kinds_of_text_that_the_model_does_not_know_are_no_input(other_tokenizer, tokenizer):
    core = tokenizer.backend_tokenizer
    names = ["input_ids", "token_type_ids", "attention_mask"]  # as BERT's tokenizer gives
    kinds = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>", model_input_names=names)
    assert "token_type_ids" in kinds("A light")
    assert other_tokenizer(kinds, "--prompt", "A light")[0] == 0


def test_seed_repeats_a_text_whatever_came_before(generate):
    options = ("--max_new_tokens", "20", "--temperature", "1.5")
    first = generate("--prompt", "A light", "--seed", "1", *options)
    assert generate("--prompt", "The wind", "--prompt", "A light", "--seed", "1", *options).endswith(first)
    assert generate("--prompt", "A light", "--seed", "2", *options) != first


@pytest.mark.parametrize("option", [("--top_k", "1"), ("--top_p", "0.000001"), ("--temperature", "0.0001")])
def test_narrow_sampling_is_greedy(option, generate):
    greedy = generate("--prompt", "A light", "--max_new_tokens", "20", "--temperature", "0")
    assert generate("--prompt", "A light", "--max_new_tokens", "20", "--seed", "1", *option) == greedy


def test_without_a_number_of_tokens_the_text_ends_with_the_models_positions(generate, tokenizer):
    text = generate("--prompt", "A light", "--seed", "1", "--temperature", "1.5")
    assert len(tokenizer(text)["input_ids"]) > 30  # an end of text may come before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prompt", "light " * 100), "but the model holds 64, the new ones included"),
        (("--prompt", "A", "--max_new_tokens", "64"), "max_new_tokens is 64, but after 1 tokens of prompt 63 are left"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(options, message, folder, capsys):
    assert main(["generate", str(folder), *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_folder_without_all_weights_is_refused(folder, tmp_path, capsys):
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    assert main(["generate", str(copy), "--prompt", "x"]) == 2
    assert "lacks weights that its config.json asks for: model.layers.2." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "absent does not exist"),
        ("empty", "is no model folder: it has no config.json"),
        ("broken", "cannot be"),
    ],
)
def test_folder_that_is_no_model_is_refused(name, message, tmp_path, folder, tokenizer, capsys):
    (tmp_path / "empty").mkdir()
    tokenizer.save_pretrained(tmp_path / "broken")
    (tmp_path / "broken" / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"not weights")
    assert main(["generate", str(tmp_path / name), "--prompt", "x"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ("--temperature", "-1"),
        ("--top_p", "2"),
        ("--top_k", "0"),
        ("--max_new_tokens", "many"),
        ("--promt", "x"),
        ("--seed", "-1"),
    ],
)
def test_wrong_options_are_refused(options, folder, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["generate", str(folder), *options])
    assert exit_.value.code == 2
    assert options[0] in capsys.readouterr().err
