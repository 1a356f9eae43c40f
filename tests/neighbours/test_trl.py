"""The model under TRL: what its trainers show the model, and that their loss is the model's own."""

import json
import math

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("trl", reason="needs the extra 'finetune'")

from datasets import Dataset, disable_progress_bars
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from modeling_gpt_scratch import GPTScratchForCausalLM
from tests.strangers import run_as_stranger

disable_progress_bars()

TEXTS = ["It was a bright morning", "Seven ships", "When night fell he lit the lamp. What else is there to do?"]
QUESTIONS = ["Who knocked?", "How many ships?", "What does a light have to do?"]
ANSWERS = ["A voice in the dark", "Seven", "It only has to burn"]
# The line break keeps the role apart from what follows it, whatever the tokenizer merges.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ message["role"] + ":\n" }}
{%- if message["role"] == "assistant" -%}
{% generation %}{{ message["content"] + eos_token }}{% endgeneration %}
{%- else -%}
{{ message["content"] + "\n" }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ "assistant:\n" }}{%- endif -%}"""

STRANGER = """
import json
import sys

import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, LoraConfig
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

torch.set_num_threads(1)
trainer = SFTTrainer(
    model="model",
    args=SFTConfig("run", trust_remote_code=True, max_steps=3, max_length=64, bf16=False, use_cpu=True,
                   report_to="none", logging_steps=1, learning_rate=1e-2),
    train_dataset=Dataset.from_dict({"text": json.loads(sys.argv[1])}),
    peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=4),
)
trainer.train()
trainer.save_model("adapter")
tokenizer = AutoTokenizer.from_pretrained("adapter", trust_remote_code=True)
model = AutoPeftModelForCausalLM.from_pretrained("adapter", trust_remote_code=True)
batch = tokenizer("It was", return_tensors="pt")
with torch.no_grad():
    difference = (model(**batch).logits - trainer.model.eval()(**batch).logits).abs().max().item()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(json.dumps({"module": type(model.get_base_model()).__module__, "losses": losses, "difference": difference}))
"""


@pytest.fixture
def model(tiny_model, tokenizer) -> GPTScratchForCausalLM:
    return tiny_model(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@pytest.fixture
def sft(model, tokenizer, tmp_path):
    """Builds an `SFTTrainer` whose every step sees the whole dataset."""

    def build(columns: dict, **options) -> SFTTrainer:
        size = len(next(iter(columns.values())))
        arguments = {
            "max_length": 64,
            "max_steps": 4,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": size,
            "per_device_eval_batch_size": size,
            "logging_steps": 1,
            "save_strategy": "no",
            "bf16": False,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
        }
        dataset = Dataset.from_dict(columns)
        return SFTTrainer(
            model=model,
            args=SFTConfig(str(tmp_path / "run"), **arguments | options),
            train_dataset=dataset,
            eval_dataset=dataset,
            processing_class=tokenizer,
        )

    return build


def collate(trainer: SFTTrainer) -> dict:
    return trainer.data_collator(list(trainer.train_dataset))


@torch.no_grad()
def mean_loss(model, documents: list[tuple[list[int], list[int]]]) -> float:
    """Nats per counted token, from the logits of each document alone, in eval mode and without a label in sight."""
    total, count = 0.0, 0
    for input_ids, labels in documents:
        log_probabilities = F.log_softmax(model.eval()(torch.tensor([input_ids])).logits[0].double(), dim=-1)
        for position, label in enumerate(labels[1:]):
            if label != -100:
                total -= log_probabilities[position, label].item()
                count += 1
    return total / count


def losses(trainer: SFTTrainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def check_training(trainer: SFTTrainer, documents: list[tuple[list[int], list[int]]]) -> None:
    expected = mean_loss(trainer.model, documents)
    evaluated = trainer.evaluate()["eval_loss"]
    logged = losses(trainer)
    assert evaluated == pytest.approx(expected, rel=1e-5)
    assert logged[0] == pytest.approx(expected, rel=1e-5)
    assert len(logged) == 4
    assert logged[-1] < logged[0]


def test_plain_text_trains_every_token_and_the_end(sft, tokenizer):
    trainer = sft({"text": TEXTS})
    batch = collate(trainer)
    documents = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in TEXTS]
    for row, mask, labels, document in zip(
        batch["input_ids"], batch["attention_mask"], batch["labels"], documents, strict=True
    ):
        padding = batch["input_ids"].shape[1] - len(document)
        assert row.tolist() == document + [tokenizer.pad_token_id] * padding
        assert labels.tolist() == document + [-100] * padding
        assert mask.tolist() == [1] * len(document) + [0] * padding
    assert batch["attention_mask"].min() == 0
    check_training(trainer, [(document, document) for document in documents])


def test_a_completion_is_trained_and_its_prompt_is_not(sft, tokenizer):
    prompts = [question + "\n" for question in QUESTIONS]
    trainer = sft({"prompt": prompts, "completion": ANSWERS})
    documents = []
    for prompt, answer in zip(prompts, ANSWERS, strict=True):
        question_ids, answer_ids = tokenizer(prompt)["input_ids"], tokenizer(answer)["input_ids"]
        answer_ids = [*answer_ids, tokenizer.eos_token_id]
        documents.append((question_ids + answer_ids, [-100] * len(question_ids) + answer_ids))
    assert [(row["input_ids"], row["labels"]) for row in trainer.train_dataset] == documents
    check_training(trainer, documents)


def test_assistant_only_loss_trains_what_the_chat_template_marks_as_generated(sft, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", CHAT_TEMPLATE)
    conversations = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}] * turns
        for question, answer, turns in zip(QUESTIONS, ANSWERS, [1, 2, 1], strict=True)
    ]
    trainer = sft({"messages": conversations}, assistant_only_loss=True)
    documents = []
    for conversation in conversations:
        input_ids, labels = [], []
        for message in conversation:
            content_ids = tokenizer(message["content"])["input_ids"]
            if message["role"] == "user":
                silent, spoken = tokenizer("user:\n" + message["content"] + "\nassistant:\n")["input_ids"], []
            else:
                silent, spoken = [], [*content_ids, tokenizer.eos_token_id]
            input_ids += silent + spoken
            labels += [-100] * len(silent) + spoken
        documents.append((input_ids, labels))
    assert [(row["input_ids"], row["labels"]) for row in trainer.train_dataset] == documents
    check_training(trainer, documents)


def test_packed_documents_do_not_see_each_other(sft, tokenizer):
    # The default strategy: whole documents, flattened to one row without a mask, told apart by their positions.
    trainer = sft({"text": TEXTS}, packing=True, packing_strategy="bfd")
    batch = collate(trainer)
    assert "attention_mask" not in batch
    assert batch["input_ids"].shape[0] == 1
    assert (batch["position_ids"] == 0).sum() == len(TEXTS)
    documents = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in TEXTS]
    check_training(trainer, [(document, document) for document in documents])


def test_packed_rows_may_together_be_longer_than_the_model(sft, tokenizer):
    texts = TEXTS * 3
    trainer = sft({"text": texts}, packing=True, packing_strategy="bfd")
    assert collate(trainer)["input_ids"].shape[1] > trainer.model.config.max_position_embeddings
    documents = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    check_training(trainer, [(document, document) for document in documents])


def test_wrapped_packing_cuts_one_stream_into_full_rows(sft, tokenizer):
    trainer = sft({"text": TEXTS * 2}, packing=True, packing_strategy="wrapped", max_length=16)
    stream = [token for text in TEXTS * 2 for token in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    rows = [row["input_ids"] for row in trainer.train_dataset]
    assert [token for row in rows for token in row] == stream
    assert {len(row) for row in rows[:-1]} == {16}
    check_training(trainer, [(row, row) for row in rows])


def test_accumulated_small_batches_give_the_loss_of_one_large_batch(sft, tokenizer):
    trainer = sft({"text": TEXTS}, per_device_train_batch_size=1, gradient_accumulation_steps=len(TEXTS))
    documents = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in TEXTS]
    check_training(trainer, [(document, document) for document in documents])


def test_metrics_get_the_logits_that_the_loss_does_without(sft, tokenizer):
    trainer = sft({"text": TEXTS}, loss_type="nll")
    seen = []
    trainer.compute_metrics = lambda prediction: seen.append(prediction) or {}
    trainer.evaluate()
    batch = collate(trainer)
    with torch.no_grad():
        expected = trainer.model.eval()(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(torch.from_numpy(seen[0].predictions), expected)
    assert seen[0].label_ids.tolist() == batch["labels"].tolist()


def test_a_tuned_model_answers_and_stops(sft, tokenizer):
    prompts = [question + "\n" for question in QUESTIONS]
    trainer = sft({"prompt": prompts, "completion": ANSWERS}, max_steps=60, lr_scheduler_type="constant")
    trainer.train()
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    assert batch["attention_mask"].min() == 0  # prompts of uneven length, padded on the left
    generated = trainer.model.eval().generate(**batch, max_new_tokens=30, do_sample=False)
    for row, answer in zip(generated[:, batch["input_ids"].shape[1] :].tolist(), ANSWERS, strict=True):
        expected = [*tokenizer(answer)["input_ids"], tokenizer.eos_token_id]
        assert row[: len(expected)] == expected
        assert set(row[len(expected) :]) <= {tokenizer.pad_token_id}


def test_preferences_start_undecided_and_are_learned(model, tokenizer, tmp_path):
    columns = {"prompt": [question + "\n" for question in QUESTIONS], "chosen": ANSWERS, "rejected": ANSWERS[::-1]}
    columns = {name: values[:1] + values[2:] for name, values in columns.items()}  # the middle answer is the same
    model.save_pretrained(tmp_path / "model")  # the trainer loads its reference from here
    model = GPTScratchForCausalLM.from_pretrained(tmp_path / "model")
    arguments = DPOConfig(
        str(tmp_path / "run"),
        max_steps=6,
        learning_rate=1e-3,
        per_device_train_batch_size=2,
        logging_steps=1,
        save_strategy="no",
        bf16=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = DPOTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(columns), processing_class=tokenizer
    )
    logged = losses(trainer)
    # A policy equal to its reference prefers neither answer: -log sigmoid(0).
    assert logged[0] == pytest.approx(math.log(2), rel=1e-5)
    assert logged[-1] < 0.9 * math.log(2)


@pytest.mark.slow
def test_a_process_without_this_package_tunes_the_folder_with_lora(model, tokenizer, tmp_path):
    pytest.importorskip("peft", reason="needs the extra 'finetune'")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    report, _ = run_as_stranger(STRANGER, json.dumps(TEXTS), workplace=tmp_path)
    assert report["module"].startswith("transformers_modules.")
    documents = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in TEXTS]
    expected = mean_loss(model, [(document, document) for document in documents])
    assert report["losses"][0] == pytest.approx(expected, rel=1e-5)
    assert report["losses"][-1] < report["losses"][0]
    assert report["difference"] < 1e-5
