"""Recipes of pretraining: a model of a named size from its initial weights, or another one's, on windows of tokens."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from modeling_gpt_scratch import GPTScratchConfig

from .continuation import taken_from_parent
from .data import DataConfig
from .fields import setting
from .recipe import Recipe
from .recipe_file import RecipeError
from .training_arguments import RANGES, REFUSED

MODELS = Path(__file__).parent / "models"


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """The model that a run begins with, and its step."""

    model: str | None = setting(
        "a size named in configuration/models, without .json; null: that of the model which init_from names", None
    )
    init_from: str | None = setting(
        "continue the pretraining of this model: a model folder, a checkpoint of a run, a checkpoint of other code "
        "that `convert` recognises, or a Hub name (openai-community/gpt2). Its sizes and its tokenizer count",
        None,
        is_path=True,
    )
    init_from_revision: str | None = setting(
        "commit, branch or tag of init_from on the Hub; null: main. A run keeps to its first commit", None
    )
    new_positions: Literal["interpolate", "begin"] | None = setting(
        "where max_position_embeddings is more than init_from has: `interpolate` (its position embeddings, stretched "
        "over the new length) or `begin` (they stay, and the further ones begin anew)",
        None,
    )
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
        """The sizes that `model` names, and what comes from the model that `init_from` names."""
        sizes = {} if values.get("model") is None else cls._sizes_called(values["model"])
        if values.get("init_from") is not None:
            return taken_from_parent(sizes | values, cls.parts()["model"]) | sizes
        problems = [
            f"{name} is {values[name]}, but is for a model that is continued: set init_from, or leave it out"
            for name in ("init_from_revision", "new_positions")
            if values.get(name) is not None
        ]
        if values.get("model") is None:
            problems.append("model is missing: name a size, or by init_from a model to continue")
        if problems:
            raise RecipeError("\n".join(problems))
        return sizes

    @staticmethod
    def _sizes_called(model: str) -> dict[str, Any]:
        file = MODELS / f"{model}.json"
        if file.is_file() and file.parent == MODELS:
            return json.loads(file.read_text(encoding="utf-8"))
        known = ", ".join(sorted(path.stem for path in MODELS.glob("*.json")))
        raise RecipeError(f"model is {model!r}, but the sizes in configuration/models are: {known}")
