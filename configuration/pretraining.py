"""Recipes of pretraining: a model of a named size, from its initial weights, on windows of tokens."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from modeling_gpt_scratch import GPTScratchConfig

from .data import DataConfig
from .fields import setting
from .recipe import Recipe
from .recipe_file import RecipeError
from .training_arguments import RANGES, REFUSED

MODELS = Path(__file__).parent / "models"


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """The model that a run begins with, and its step."""

    model: str = setting("a size named in configuration/models, without .json")
    tokens_per_step: int = setting(
        "tokens of one optimizer step, over all processes and accumulation steps", within=(1, 2**40)
    )
    initialization: Literal["gpt2", "pytorch"] = setting(
        "`gpt2` (normal, residual outputs scaled down) or `pytorch` (what bare torch layers begin with)", "gpt2"
    )
    initialization_seed: int | None = setting(
        "the seed of the initial weights, where it is not `seed`", None, within=(0, 2**32 - 1)
    )
    pad_vocab_to_multiple_of: int | None = setting(
        "round the model's vocab_size up (128 suits GPUs); the tokenizer stays as it is", None, within=(1, 2**20)
    )


@dataclass(frozen=True, kw_only=True)
class PretrainingRecipe(Recipe):
    """A checked recipe of `python -m training pretrain`.

    `per_device_train_batch_size` may be "auto", which training/planning/micro_batch.py turns into a number.
    """

    pretraining: PretrainingConfig
    data: DataConfig
    model: GPTScratchConfig

    widened: ClassVar[dict[str, Any]] = {"per_device_train_batch_size": int | Literal["auto"]}
    ranges: ClassVar[dict[str, tuple[float, float]]] = {**RANGES, "vocab_size": (1, 2**24)}
    refused: ClassVar[dict[str, str]] = {
        **REFUSED,
        "gradient_accumulation_steps": "follows from `tokens_per_step`, per_device_train_batch_size and the device "
        "count",
        "auto_find_batch_size": "would change the batch: set `per_device_train_batch_size` to auto instead",
        **dict.fromkeys(
            ("classifier_dropout", "classifier_bias"),
            "belongs to classification heads, which pretraining does not have",
        ),
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), "comes from the tokenizer"),
    }

    def matrix_width(self) -> int:
        return self.model.hidden_size

    @classmethod
    def values_named_by(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The sizes of the model that `model` names."""
        if "model" not in values:
            return {}
        file = MODELS / f"{values['model']}.json"
        if file.is_file() and file.parent == MODELS:
            return json.loads(file.read_text(encoding="utf-8"))
        known = ", ".join(sorted(path.stem for path in MODELS.glob("*.json")))
        raise RecipeError(f"model is {values['model']!r}, but the sizes in configuration/models are: {known}")
