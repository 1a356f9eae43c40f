"""Conversion into llama.cpp's file: what is in it, what llama.cpp makes of it, and what is refused."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import AddedToken, processors
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_gpt_scratch.__main__ import main
from modeling_gpt_scratch.conversion import ollama
from modeling_gpt_scratch.conversion.byte_level import HARD_TEXTS
from tests.conftest import TEXT
from tests.conversion.conversions import (
    TOLERANCE,
    book_model,
    fused_model,
    gpt2_model,
    write_gpt2,
    write_nanogpt,
    write_source,
)
from tests.conversion.gguf_files import changed, to_gguf
from tests.llama_cpp import greedy_tokens, tokens_of
from training.data.tokenizer import train_tokenizer

gguf = pytest.importorskip("gguf")

PROMPT = "It was a bright"  # as TEXT begins
CHATML = """\
{%- for message in messages -%}
{{ "<|im_start|>" + message["role"] + "\\n" + message["content"] + "<|im_end|>\\n" }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ "<|im_start|>assistant\\n" }}{%- endif -%}"""


@pytest.fixture
def learned(write_own):
    """A source whose model knows a text by heart, so that its likeliest tokens are far likelier than the next ones."""

    def learn(**fields) -> SimpleNamespace:
        source = write_own(**fields)
        batch = source.tokenizer(TEXT[:150], return_tensors="pt", truncation=True)
        model = copy.deepcopy(source.model).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(60):
            model(**batch, labels=batch["input_ids"]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval().save_pretrained(source.place)
        return SimpleNamespace(place=source.place, model=model, tokenizer=source.tokenizer)

    return learn


def read(file: Path) -> tuple[dict, dict[str, str]]:
    """The fields of a file, and the types of its tensors."""
    reader = gguf.GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}


def written(source: SimpleNamespace, prompt: str, n: int) -> list[int]:
    """What our own model writes, greedily."""
    batch = source.tokenizer(prompt, return_tensors="pt")
    ids = source.model.generate(**batch, do_sample=False, max_new_tokens=n, pad_token_id=1)[0]
    return ids[batch["input_ids"].shape[1] :].tolist()


SHAPES = {
    "as trained here": {},
    "untied, other MLP, no bias": {"tie_word_embeddings": False, "intermediate_size": 96, "qkv_bias": False},
    "padded vocabulary": {"vocab_size": 448},
}


@pytest.mark.parametrize("fields", SHAPES.values(), ids=SHAPES)
def test_llama_cpp_writes_what_our_model_writes(tmp_path, learned, fields):
    source = learned(**fields)
    expected = written(source, PROMPT, 24)
    assert len(set(expected)) > 12  # no endless repetition, which any model writes
    for dtype in ("f32", "f16", "q8_0"):
        file = to_gguf(source.place, tmp_path / dtype, dtype)
        assert greedy_tokens(file, PROMPT, 24) == expected, dtype


def test_llama_cpp_cuts_text_as_our_tokenizer_does(tmp_path, write_own):
    # One that has merged whatever may stand in one word, so that words cut otherwise are other tokens.
    source = write_own(tokenizer=train_tokenizer(iter(HARD_TEXTS * 2), 1000))
    file = to_gguf(source.place, tmp_path / "output")
    texts = [*HARD_TEXTS, "spelled<|endoftext|> <|pad|>\n<|endoftext|>"]
    assert tokens_of(file, texts) == [source.tokenizer(text)["input_ids"] for text in texts]


def test_llama_cpp_reads_tokens_that_were_added_and_begins_as_the_tokenizer_does(tmp_path, write_own, tokenizer):
    begins = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    tokenizer = changed(tokenizer, post_processor=begins)
    tokenizer.add_tokens([AddedToken("<|im_start|>", special=True), AddedToken("Leuchtturm", normalized=False)])
    source = write_own(tokenizer=tokenizer)
    file = to_gguf(source.place, tmp_path / "output")
    texts = ["<|im_start|>user\n", "der Leuchtturm, die Leuchttürme", ""]
    ids = tokens_of(file, texts)
    assert ids == [AutoTokenizer.from_pretrained(source.place)(text)["input_ids"] for text in texts]
    assert ids[0][:2] == [0, 400]


def test_llama_cpp_stops_where_our_model_does(tmp_path, learned):
    source = learned()
    ids = written(source, PROMPT, 24)
    end = next(token for token in ids[5:] if token not in ids[:5])
    source.model.generation_config.eos_token_id = [end, source.tokenizer.eos_token_id]
    source.model.save_pretrained(source.place)
    file = to_gguf(source.place, tmp_path / "output")
    assert greedy_tokens(file, PROMPT, 24) == ids[: ids.index(end) + 1]
    fields, _ = read(file)
    assert (fields["tokenizer.ggml.eos_token_id"], fields["tokenizer.ggml.eot_token_id"]) == (0, end)


def test_library_reads_the_same_logits_from_the_file(tmp_path, write_own):
    source = write_own(tie_word_embeddings=False, qkv_bias=False)
    file = to_gguf(source.place, tmp_path / "output")
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, n_positions=64)
    ids = torch.randint(400, (2, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, source.model(ids).logits, atol=TOLERANCE, rtol=0)


def test_file_says_what_the_model_is(tmp_path, write_own):
    file = to_gguf(write_own(vocab_size=402).place, tmp_path / "my models", "q8_0")
    assert sorted(path.name for path in file.parent.iterdir()) == ["Modelfile", "my-models-q8_0.gguf"]
    fields, types = read(file)
    sizes = {"context_length": 64, "embedding_length": 32, "feed_forward_length": 128, "block_count": 2}
    assert {name: fields[f"gpt2.{name}"] for name in sizes} == sizes
    assert fields["tokenizer.ggml.pre"] == "gpt-2"
    kinds = fields["tokenizer.ggml.token_type"]
    assert (kinds[0], kinds[1], kinds[2]) == (gguf.TokenType.CONTROL, gguf.TokenType.CONTROL, gguf.TokenType.NORMAL)
    assert kinds[400:] == [gguf.TokenType.UNUSED] * 2
    assert types["blk.1.ffn_up.weight"] == "Q8_0"
    assert types["position_embd.weight"] == types["blk.0.ffn_up.bias"] == "F32"
    assert "output.weight" not in types  # tied


@pytest.mark.parametrize("source_format", ["book", "nanogpt", "gpt2"])
def test_other_sources_go_there_in_one_command(tmp_path, capsys, tokenizer, source_format):
    sizes = {"vocab_size": len(tokenizer)}
    options = ["--from", source_format, "--to", "gguf", "--tokenizer", str(tmp_path / "tokenizer")]
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    if source_format == "book":
        source, config = book_model(**sizes)
        path = write_source(tmp_path / "source", source.state_dict(), config)
    elif source_format == "nanogpt":
        source, config = fused_model(activation=torch.nn.GELU("tanh"), **sizes)
        path = write_nanogpt(tmp_path / "source", source.state_dict(), config)
        options += ["--activation", "gelu_pytorch_tanh"]
    else:
        source, weights, config = gpt2_model(**sizes)
        path = write_gpt2(tmp_path / "source", weights, config | sizes)
    assert main(["convert", str(path), str(tmp_path / "output"), *options]) == 0
    assert float(capsys.readouterr().out.splitlines()[0].split()[-1].rstrip(".")) < TOLERANCE
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "output", gguf_file="output-f32.gguf", n_positions=16)
    ids = torch.randint(400, (2, 16))
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, source(ids), atol=TOLERANCE, rtol=0)


def test_modelfile_of_a_base_model_continues_text(tmp_path, write_own):
    file = to_gguf(write_own().place, tmp_path / "output")
    assert (file.parent / "Modelfile").read_text().splitlines() == [
        "FROM ./output-f32.gguf",
        "PARAMETER num_ctx 64",
        'PARAMETER stop "<|endoftext|>"',
        'TEMPLATE """{{ .Prompt }}"""',
    ]


def test_chat_template_is_in_the_file_and_written_for_ollama(tmp_path, write_own, tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = CHATML
    file = to_gguf(write_own(tokenizer=tokenizer).place, tmp_path / "output")
    assert read(file)[0]["tokenizer.chat_template"] == CHATML
    said = "{{ .Content }}<|im_end|>\n"
    assert (
        (file.parent / "Modelfile")
        .read_text()
        .endswith(
            f'TEMPLATE """{{{{ range .Messages }}}}{{{{ if eq .Role "system" }}}}<|im_start|>system\n{said}'
            f'{{{{ else if eq .Role "user" }}}}<|im_start|>user\n{said}'
            f'{{{{ else if eq .Role "assistant" }}}}<|im_start|>assistant\n{said}'
            '{{ end }}{{ end }}<|im_start|>assistant\n"""\n'
        )
    )


def test_chat_template_that_ollama_cannot_express_is_said(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "{{ messages | length }}" + CHATML
    text = ollama.modelfile("x.gguf", 64, [], tokenizer)
    assert "# Ollama cannot express this model's chat template" in text
    assert text.endswith('TEMPLATE """{{ .Prompt }}"""\n')
