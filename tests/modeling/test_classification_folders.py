"""Folders of classifiers: a language model's opens as one, and anybody's pipeline runs one."""

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from tests.modeling.comparison import HEADS
from tests.strangers import run_as_stranger


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_language_models_folder_opens_as_a_classifier(tied, tiny_model, tmp_path):
    language_model = tiny_model(tie_word_embeddings=tied)
    language_model.save_pretrained(tmp_path)
    for auto_class, head in zip(
        (AutoModelForSequenceClassification, AutoModelForTokenClassification), HEADS, strict=True
    ):
        model, info = auto_class.from_pretrained(tmp_path, num_labels=4, output_loading_info=True)
        assert type(model) is head
        assert {name.split(".")[0] for name in info["missing_keys"]} == {"score"}
        assert model.score.out_features == 4
        expected = language_model.model.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.model.state_dict().items())


STRANGER = """
import json, sys
import torch
from transformers import (
    AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer, pipeline
)
texts = json.loads(sys.argv[1])
trust = {"trust_remote_code": True}
torch.set_num_threads(1)
report = {}
for task, auto_class in (
    ("text-classification", AutoModelForSequenceClassification),
    ("token-classification", AutoModelForTokenClassification),
):
    model = auto_class.from_pretrained(task, **trust)
    tokenizer = AutoTokenizer.from_pretrained(task, **trust)
    model.save_pretrained("again")
    again = auto_class.from_pretrained("again", **trust)
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model(**batch).logits
        assert torch.equal(again(**batch).logits, logits)
    report[task] = {
        "class": type(model).__name__,
        "module": type(model).__module__.split(".")[0],
        "logits": logits.tolist(),
        "pipeline": json.loads(json.dumps(pipeline(task, model=task, tokenizer=task, **trust)(texts), default=float)),
    }
print(json.dumps(report))
"""


def test_pipelines_classify_with_the_code_in_the_folder(classifier, tokenizer, tmp_path):
    texts = ["It was a bright morning", "Seven ships", "When night fell he lit the lamp."]
    names = {0: "calm", 1: "storm", 2: "fog"}
    models = {}
    for task, head in zip(("text-classification", "token-classification"), HEADS, strict=True):
        models[task] = model = classifier(
            head, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, id2label=names
        )
        model.save_pretrained(tmp_path / task)
        tokenizer.save_pretrained(tmp_path / task)
    report, stderr = run_as_stranger(STRANGER, json.dumps(texts), workplace=tmp_path)
    assert "newly initialized" not in stderr
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    for (task, model), head in zip(models.items(), HEADS, strict=True):
        found = report[task]
        assert (found["class"], found["module"]) == (head.__name__, "transformers_modules")
        with torch.no_grad():
            logits = model(**batch).logits
        torch.testing.assert_close(torch.tensor(found["logits"]), logits, atol=1e-6, rtol=0)
    probabilities = torch.tensor(report["text-classification"]["logits"]).softmax(dim=-1)
    for row, answer in zip(probabilities, report["text-classification"]["pipeline"], strict=True):
        assert answer["label"] == names[int(row.argmax())]
        assert answer["score"] == pytest.approx(row.max().item(), abs=1e-5)
    for text, answer in zip(texts, report["token-classification"]["pipeline"], strict=True):
        assert len(answer) == len(tokenizer(text)["input_ids"])
        assert {token["entity"] for token in answer} <= set(names.values())
