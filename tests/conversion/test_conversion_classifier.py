"""The book's classifier of chapter 6: another head in the place of the language model's."""

import json

import pytest
import torch
from torch import nn

from modeling_gpt_scratch import GPTScratchForSequenceClassification
from modeling_gpt_scratch.__main__ import main
from modeling_gpt_scratch.conversion import convert
from tests.conversion.conversions import TOLERANCE, book_model, refusal, write_source
from tests.strangers import run_as_stranger

STRANGER = """
import json
from transformers import pipeline

classify = pipeline("text-classification", model="output", trust_remote_code=True)
print(json.dumps(classify(TEXT, top_k=None)))
"""


def book_classifier(num_classes: int = 2, bias: bool = True, **changes):
    model, config = book_model(**changes)
    model.out_head = nn.Linear(config["emb_dim"], num_classes, bias=bias)
    return model.eval(), config


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_classes_are_those_of_the_books_last_position(tmp_path, input_ids, num_classes, bias):
    source, config = book_classifier(num_classes, bias, qkv_bias=True)
    assert convert(write_source(tmp_path / "source", source.state_dict(), config), tmp_path / "output") < TOLERANCE
    model, found = GPTScratchForSequenceClassification.from_pretrained(tmp_path / "output", output_loading_info=True)
    assert not any(found.values())
    assert (model.config.classifier_bias, model.config.num_labels) == (bias, num_classes)
    with torch.no_grad():
        logits = model(input_ids, attention_mask=torch.ones_like(input_ids)).logits
        torch.testing.assert_close(logits, source(input_ids)[:, -1], atol=TOLERANCE, rtol=0)


@pytest.mark.slow
def test_stranger_classifies_a_text_as_the_book_does_when_it_ends_as_the_command_says(tmp_path, capsys, tokenizer):
    source, config = book_classifier(vocab_size=len(tokenizer))
    path = write_source(tmp_path / "source", source.state_dict(), config)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    options = ["--labels", "ham,spam", "--tokenizer", str(tmp_path / "tokenizer")]
    assert main(["convert", str(path), str(tmp_path / "output"), *options]) == 0
    printed = capsys.readouterr().out
    assert "It is a classifier of ham, spam. It reads the last token that the attention mask counts; " in printed
    assert "end each text in <|endoftext|> up to the length that it was trained with." in printed

    text, length = "the gulls said", 14
    ids = tokenizer(text)["input_ids"]
    padded = ids + [tokenizer.eos_token_id] * (length - len(ids))  # as chapter 6 pads
    with torch.no_grad():
        expected = source(torch.tensor([padded]))[0, -1].softmax(-1).tolist()
    text += "<|endoftext|>" * (length - len(ids))
    report, _ = run_as_stranger(f"TEXT = {text!r}\n{STRANGER}", workplace=tmp_path)
    assert {entry["label"]: entry["score"] for entry in report} == pytest.approx(
        dict(zip(("ham", "spam"), expected, strict=True)), abs=1e-5
    )


def test_classes_have_numbers_for_names_unless_they_are_given(tmp_path, capsys):
    source, config = book_classifier()
    convert(write_source(tmp_path, source.state_dict(), config), tmp_path / "output", report=print)
    assert "It is a classifier of LABEL_0, LABEL_1 (--labels A,B gives them names" in capsys.readouterr().out
    written = json.loads((tmp_path / "output" / "config.json").read_text())
    assert written["architectures"] == ["GPTScratchForSequenceClassification"]
    assert not (tmp_path / "output" / "generation_config.json").exists()


@pytest.mark.parametrize("labels", ["ham", "ham,ham", "ham,", "ham,spam,eggs"])
def test_names_that_do_not_fit_the_classes_are_refused(tmp_path, capsys, labels):
    source, config = book_classifier()
    path = write_source(tmp_path, source.state_dict(), config)
    assert "but the classifier has 2 classes: name each once" in refusal(capsys, tmp_path, path, "--labels", labels)


def test_names_of_classes_are_refused_for_language_models(tmp_path, capsys):
    source, config = book_model()
    path = write_source(tmp_path, source.state_dict(), config)
    message = refusal(capsys, tmp_path, path, "--labels", "ham,spam")
    assert "is a language model, which has no classes: leave out --labels" in message


def test_classifier_is_refused_as_gpt2_with_the_reason(tmp_path, capsys):
    source, config = book_classifier()
    path = write_source(tmp_path, source.state_dict(), config)
    message = refusal(capsys, tmp_path, path, "--to", "gpt2")
    assert "gpt2 is written of language models alone (GPT-2's own classifier has no bias" in message
    assert convert(path, tmp_path / "output") < TOLERANCE  # as it says: without --to


def test_language_models_head_with_a_bias_is_refused(tmp_path, capsys):
    source, config = book_model()
    weights = source.state_dict() | {"out_head.bias": torch.ones(61)}
    assert "1 unknown: out_head.bias" in refusal(capsys, tmp_path, write_source(tmp_path, weights, config))


def test_wrong_bias_of_the_head_is_caught_by_the_logits(tmp_path, capsys, monkeypatch):
    source, config = book_classifier()
    monkeypatch.setattr(GPTScratchForSequenceClassification, "_last_token", lambda *arguments: torch.tensor([0, 0]))
    assert "logits differ" in refusal(capsys, tmp_path, write_source(tmp_path, source.state_dict(), config))
