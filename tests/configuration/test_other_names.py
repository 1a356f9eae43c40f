"""What other code calls a setting: whoever types it is told ours, and following the advice works."""

import re
from typing import Any

import pytest

from configuration.other_names import OTHER_NAMES
from configuration.pretraining import PretrainingRecipe

MINIMAL = {"model": "demo", "corpus": "stdlib", "tokens_per_step": "4096", "output_dir": "runs/x"}
WORDS = {
    "eval_strategy": "steps",
    "hidden_act": "relu",
    "model": "small",
    "optim": "sgd",
    "precision": "bf16",
    "schedule": "constant",
}
TRUTHS = ("qkv_bias", "tie_word_embeddings", "torch_compile")
TEXTS = ("corpus", "ddp_backend", "output_dir", "report_to", "run_name", "tokenizer")
SHARES = ("_beta1", "_beta2", "_dropout", "_eps", "_epsilon", "_floor", "_rate")


@pytest.fixture(scope="module")
def before() -> dict[str, Any]:
    return PretrainingRecipe.load(None, MINIMAL).as_dict()


def value_for(name: str, before: dict[str, Any]) -> str:
    """A value that the setting can have, and which is not its default."""
    if name in TRUTHS:
        return str(not before[name]).lower()
    if name in TEXTS:
        return "other"
    return WORDS.get(name, "0.25" if name.endswith(SHARES) else "16")


@pytest.mark.parametrize("other", OTHER_NAMES)
def test_following_the_advice_sets_something(other, before):
    problem = PretrainingRecipe.problem_of_unknown(other)
    advice = re.fullmatch(rf"{other} is no setting: did you mean (.*)\?", problem)[1]
    named = [name for name in re.findall(r"\w+", advice) if name in PretrainingRecipe.settings()]
    assert advice.startswith(named[0])
    values = {name: value_for(name, before) for name in named}
    changed = PretrainingRecipe.load(None, MINIMAL | values).as_dict()
    assert {name for name in changed if changed[name] != before[name]} >= set(named)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("block_size", "max_position_embeddings"),
        ("batch_size", "per_device_train_batch_size, beside tokens_per_step"),
        ("n_embd", "hidden_size"),
        ("drop_rate", "embedding_dropout, attention_dropout and residual_dropout"),
        ("min_lr", "learning_rate_floor, as a share of the peak"),
        ("learning-rate", "learning_rate"),
        ("Batch-Size", "per_device_train_batch_size, beside tokens_per_step"),
    ],
)
def test_the_usual_names_are_known_however_they_are_typed(typed, meant):
    assert PretrainingRecipe.problem_of_unknown(typed) == f"{typed} is no setting: did you mean {meant}?"


def test_no_other_name_is_a_setting():
    assert not OTHER_NAMES.keys() & (PretrainingRecipe.settings().keys() | PretrainingRecipe.refused.keys())
