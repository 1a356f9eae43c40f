"""The model under the Language Model Evaluation Harness: its command reports what the logits say."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from tests.strangers import stranger_environment

pytest.importorskip("lm_eval", reason="needs the extra 'evaluate'")

CHOICE_TASK = """\
task: lighthouse_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
ROLLING_TASK = """\
task: lighthouse_rolling
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: word_perplexity
  - metric: bits_per_byte
"""
CHOICES = ["three", "seven ships", "a letter", "the wind from the west"]
QUESTIONS = ["How many came home?", "What did the keeper see?", "What is in the book?", "Who knocked?", "And then?"]
LONG = "By noon the wind had turned. Clouds came over the hills, the sea went grey, and the seven ships were three."
TEXTS = [
    "When night fell he lit the lamp.",
    f"{LONG} {LONG}",
]  # the second has more tokens than the model has positions


@pytest.fixture(scope="module")
def report(tiny_model, tokenizer, tmp_path_factory):
    """What the command writes about a folder, run where this package cannot be seen."""
    workplace = tmp_path_factory.mktemp("harness")
    model = tiny_model(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(workplace / "model")
    tokenizer.save_pretrained(workplace / "model")

    questions = [
        {"question": question, "choices": CHOICES, "answer": number % len(CHOICES)}
        for number, question in enumerate(QUESTIONS)
    ]
    tasks = workplace / "tasks"
    tasks.mkdir()
    for name, task, rows in (
        ("choice", CHOICE_TASK, questions),
        ("rolling", ROLLING_TASK, [{"text": text} for text in TEXTS]),
    ):
        data = workplace / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tasks / f"{name}.yaml").write_text(task.format(data=data))

    environment = stranger_environment(workplace) | {"HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [
        *[str(Path(sys.executable).parent / "lm_eval"), "run"],
        *["--model", "hf", "--model_args", "pretrained=model,trust_remote_code=True,dtype=float32"],
        *["--tasks", "lighthouse_choice,lighthouse_rolling", "--include_path", str(tasks)],
        *["--device", "cpu", "--batch_size", "3", "--output_path", "results", "--log_samples"],
    ]
    process = subprocess.run(
        command, cwd=workplace, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert process.returncode == 0, process.stderr
    (results,) = (workplace / "results").rglob("results_*.json")
    samples = {}
    for path in (workplace / "results").rglob("samples_*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        samples[rows[0]["doc"].keys() >= {"choices"}] = sorted(rows, key=lambda row: row["doc_id"])
    return SimpleNamespace(
        model=model,
        tokenizer=tokenizer,
        results=json.loads(results.read_text())["results"],
        questions=questions,
        choice_samples=samples[True],
        rolling_samples=samples[False],
        used_folder_code=any((workplace / "modules").rglob("modeling_gpt_scratch.py")),
    )


@torch.no_grad()
def log_likelihood(model, input_ids: list[int], count: int) -> float:
    """Of the last `count` tokens, in nats."""
    logits = model(torch.tensor([input_ids[:-1]])).logits[0].double()
    chosen = F.log_softmax(logits, dim=-1).gather(1, torch.tensor(input_ids[1:])[:, None])
    return chosen[-count:].sum().item()


def choice_log_likelihoods(report) -> list[list[float]]:
    rows = []
    for question in report.questions:
        prompt = report.tokenizer(question["question"])["input_ids"]
        answers = [report.tokenizer(" " + choice)["input_ids"] for choice in question["choices"]]
        rows.append([log_likelihood(report.model, prompt + answer, len(answer)) for answer in answers])
    return rows


def rolling_log_likelihood(report, text: str) -> float:
    """Every token once, after as many tokens as fit; the end-of-text token stands before the first."""
    limit = report.model.config.max_position_embeddings
    stream = [report.tokenizer.eos_token_id, *report.tokenizer(text)["input_ids"]]
    total, done = 0.0, 1
    while done < len(stream):
        end = min(done + limit, len(stream))
        total += log_likelihood(report.model, stream[max(0, end - limit - 1) : end], end - done)
        done = end
    return total


@pytest.mark.slow
def test_the_command_runs_the_code_in_the_folder(report):
    assert report.used_folder_code


@pytest.mark.slow
def test_log_likelihoods_of_choices_are_those_of_the_logits(report):
    # Batched and padded there, one by one here.
    for sample, expected in zip(report.choice_samples, choice_log_likelihoods(report), strict=True):
        reported = [float(likelihood) for likelihood, _ in sample["filtered_resps"]]
        assert reported == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_accuracy_counts_the_most_likely_choices(report):
    best = [row.index(max(row)) for row in choice_log_likelihoods(report)]
    right = [chosen == question["answer"] for chosen, question in zip(best, report.questions, strict=True)]
    assert report.results["lighthouse_choice"]["acc,none"] == pytest.approx(sum(right) / len(right))
    assert [bool(sample["acc"]) for sample in report.choice_samples] == right
    assert 0 < sum(right) < len(right)  # the data can tell right from wrong


@pytest.mark.slow
def test_perplexity_covers_every_token_of_texts_of_any_length(report):
    lengths = [len(report.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert lengths[0] < report.model.config.max_position_embeddings < lengths[1]
    total = sum(rolling_log_likelihood(report, text) for text in TEXTS)
    words = sum(len(text.split()) for text in TEXTS)
    size = sum(len(text.encode()) for text in TEXTS)
    reported = report.results["lighthouse_rolling"]
    assert reported["word_perplexity,none"] == pytest.approx(math.exp(-total / words), rel=1e-4)
    assert reported["bits_per_byte,none"] == pytest.approx(-total / size / math.log(2), rel=1e-5)
