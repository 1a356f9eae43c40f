"""The shipped sizes and recipes say what was published."""

import re

import pytest
import torch

from configuration.pretraining import MODELS, PretrainingRecipe
from modeling_gpt_scratch import GPTScratchForCausalLM
from training.optimization.steps import accumulation_steps, steps_for_epochs

RECIPES = sorted((MODELS.parent / "recipes").glob("*.yaml"))
BLOG = [path for path in RECIPES if path.stem.startswith("blog-")]
BASELINE = "blog-baseline"
BUDGET = 3_260_190_720  # tokens
NO_DROPOUT = dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout"), 0)
SCHEDULE = {"learning_rate": 1.4e-3, "schedule": "cosine", "warmup_steps": 0.05, "learning_rate_floor": 0.1}
STACK = {**SCHEDULE, **NO_DROPOUT, "max_grad_norm": 3.5, "weight_decay": 0.01}
# What differs from the baseline, and the published test loss.
PUBLISHED = {
    "blog-baseline": ({}, "3.691526"),
    "blog-first-run": (
        {
            "tokens_per_step": 6 * 1024,
            "max_steps": 530_630,
            "per_device_train_batch_size": 6,
            "logging_steps": 320,
            "save_steps": 16_000,
        },
        "3.943522",
    ),
    "blog-gradient-clipping": ({"max_grad_norm": 3.5}, "3.678317"),
    "blog-remove-dropout": (NO_DROPOUT, "3.641282"),
    "blog-qkv-bias": ({"qkv_bias": True}, "3.669385"),
    "blog-update-learning-rate": ({"learning_rate": 1.4e-3}, None),
    "blog-schedule-learning-rate": (SCHEDULE, "3.601917"),
    "blog-weight-decay-gpt2": ({"weight_decay": 0.01}, "3.642940"),
    "blog-weight-decay-cerebras": ({"weight_decay": 0.33724}, "3.813856"),
    "blog-weight-tying": ({"tie_word_embeddings": True}, "3.874305"),
    "blog-no-amp": ({"precision": "fp32"}, "3.678968"),
    "blog-stack-1": (STACK, "3.577761"),
    "blog-stack-2": ({**STACK, "qkv_bias": True}, "3.604342"),
    "blog-stack-3": ({**SCHEDULE, **NO_DROPOUT, "max_grad_norm": 3.5}, "3.590266"),
    "blog-local-stack": ({**STACK, "per_device_train_batch_size": 6}, "3.538161"),
}


SIZES = [
    # GPT-2's released sizes; the paper's table 2 rounds them, and gives 117M and 345M for the first two.
    ("small", {}, 124_439_808),
    ("medium", {}, 354_823_168),
    ("large", {}, 774_030_080),
    ("xl", {}, 1_557_611_200),
    ("blog-163m", {}, 163_009_536),
    ("blog-163m", {"tie_word_embeddings": "true"}, 124_412_160),
    ("book", {}, 163_009_536 - (1024 - 256) * 768),
    ("demo", {}, 4_273_664),
]


def shipped(name: str):
    return PretrainingRecipe.load(MODELS.parent / "recipes" / f"{name}.yaml", {})


@pytest.mark.parametrize(("model", "changes", "parameters"), SIZES)
def test_every_size_has_its_published_number_of_parameters(model, changes, parameters):
    fields = {"model": model, "corpus": "stdlib", "tokens_per_step": "4096", "output_dir": "runs/x"}
    config = PretrainingRecipe.load(None, fields | changes).model
    with torch.device("meta"):
        built = GPTScratchForCausalLM(config)
    assert built.num_parameters() == parameters


def test_every_size_is_tested():
    assert {path.stem for path in MODELS.glob("*.json")} == {name for name, _, _ in SIZES}


def test_every_published_run_has_a_recipe():
    assert {path.stem for path in BLOG} == PUBLISHED.keys()


def test_the_baseline_has_the_published_settings():
    settings = shipped(BASELINE).as_dict()
    expected = {
        "learning_rate": 4e-4,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "weight_decay": 0.1,
        "weight_decay_on": "everything",
        "embedding_dropout": 0.1,
        "attention_dropout": 0.1,
        "residual_dropout": 0.1,
        "schedule": "constant",
        "warmup_steps": 0,
        "max_grad_norm": 0,
        "initialization": "pytorch",
        "precision": "fp16",
        "muon_learning_rate": None,
        "shuffle": False,
        "seed": 42,
    }
    assert {name: settings[name] for name in expected} == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_of_the_blog_differs_from_the_baseline_as_published(name):
    changes, loss = PUBLISHED[name]
    baseline, settings = shipped(BASELINE).as_dict(), shipped(name).as_dict()
    differing = {key for key in settings if settings[key] != baseline[key]} - {"output_dir"}
    assert differing == changes.keys()
    assert {key: settings[key] for key in changes} == changes
    first_line = (MODELS.parent / "recipes" / f"{name}.yaml").read_text().splitlines()[0]
    assert first_line.startswith("# ")
    assert re.findall(r"\d\.\d{6}", first_line) == ([loss] if loss else [])


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_blogs_runs_train_on_their_budget_rounded_up_to_whole_batches(name):
    recipe = shipped(name)
    tokens = recipe.training["max_steps"] * recipe.pretraining.tokens_per_step
    assert 0 <= tokens - BUDGET < recipe.pretraining.tokens_per_step
    assert recipe.model.max_position_embeddings == 1024
    assert recipe.pretraining.tokens_per_step == (6 if name == "blog-first-run" else 96) * 1024


@pytest.mark.parametrize(
    ("name", "processes", "accumulation"),
    [("blog-baseline", 8, 1), ("blog-baseline", 1, 8), ("blog-first-run", 1, 1), ("blog-local-stack", 1, 16)],
)
def test_the_blogs_batches_are_made_as_published(name, processes, accumulation):
    recipe = shipped(name)
    micro_batch = recipe.training["per_device_train_batch_size"]
    assert accumulation_steps(recipe.pretraining.tokens_per_step, micro_batch, 1024, processes) == accumulation


def test_the_book_trains_ten_epochs_of_nine_batches():
    recipe = shipped("book")
    windows_per_step = recipe.pretraining.tokens_per_step // recipe.model.max_position_embeddings
    assert windows_per_step == recipe.training["per_device_train_batch_size"] == 2
    # The book counts 18 windows in its training part, which it visits in 9 batches.
    assert steps_for_epochs(recipe.training["num_train_epochs"], 18, windows_per_step) == 90
    settings = recipe.as_dict()
    expected = {"learning_rate": 4e-4, "weight_decay": 0.1, "weight_decay_on": "everything", "schedule": "constant"}
    expected |= {"initialization": "pytorch", "embedding_dropout": 0.1, "attention_dropout": 0.1, "max_grad_norm": 0}
    assert {name: settings[name] for name in expected} == expected


def test_the_documentation_gives_each_size_and_each_recipe_its_figure():
    text = (MODELS.parent.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
    for name, changes, parameters in SIZES:
        assert changes or re.search(rf"\| `{name}` \|.*\| {parameters:,} \|\n", text), name
    for name, (_, loss) in PUBLISHED.items():
        assert f"| `{name}` | {loss or 'none'} |" in text, name
