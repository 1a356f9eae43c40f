"""
The one loader of run recipes.

A recipe is flat YAML. Its keys are the fields of three dataclasses: [`RunConfig`] (ours), `TrainingArguments` (the
library's) and `GPTScratchConfig` (the model's; its values start from a named size in `configuration/models`). A recipe
file may start from another one (`base`). Any field can be overridden as `--field value`. Everything is checked here,
once; all problems are reported together.
"""

import argparse
import dataclasses
import difflib
import json
import math
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import TrainingArguments

from modeling_gpt_scratch import GPTScratchConfig

from .fields import convert, describe, from_text, members
from .recipe_file import RecipeError, read_recipe_file

MODELS = Path(__file__).parent / "models"

_DERIVED = "is derived from the device: set `precision` instead"
_FIXED = "is fixed by the program"
_SCHEDULE = "spends step 0 at a rate of 0: set `schedule`, warmup_steps, decay_steps and learning_rate_floor instead"
_PUBLISHING = "belongs to publishing, which is hub_upload.py's work"
# Fields that a recipe cannot set, because setting them would do nothing or do harm.
REFUSED = {
    **dict.fromkeys(("bf16", "fp16", "tf32", "bf16_full_eval", "fp16_full_eval", "use_cpu"), _DERIVED),
    "gradient_accumulation_steps": "follows from `tokens_per_step`, per_device_train_batch_size and the device count",
    "auto_find_batch_size": "would change the batch: set `per_device_train_batch_size` to auto instead",
    **dict.fromkeys(("lr_scheduler_type", "lr_scheduler_kwargs"), _SCHEDULE),
    "classifier_dropout": "belongs to classification heads, which pretraining does not have",
    **dict.fromkeys(
        ("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
        "is not needed: the checkpoint with the lowest validation loss is always kept",
    ),
    "save_only_model": "would leave checkpoints that a run cannot go on from",
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), "comes from the tokenizer"),
    **dict.fromkeys(
        (
            "batch_eval_metrics",
            "dataloader_drop_last",
            "do_eval",
            "do_predict",
            "do_train",
            "eval_accumulation_steps",
            "eval_do_concat_batches",
            "eval_use_gather_object",
            "ignore_data_skip",
            "include_for_metrics",
            "include_num_input_tokens_seen",
            "label_names",
            "length_column_name",
            "liger_kernel_config",
            "local_rank",
            "logging_nan_inf_filter",
            "parallelism_config",
            "prediction_loss_only",
            "remove_unused_columns",
            "resume_from_checkpoint",
            "train_sampling_strategy",
            "use_liger_kernel",
        ),
        _FIXED,
    ),
    **dict.fromkeys(
        (
            "hub_always_push",
            "hub_model_id",
            "hub_private_repo",
            "hub_revision",
            "hub_strategy",
            "hub_token",
            "push_to_hub",
        ),
        _PUBLISHING,
    ),
}


RUN_HELP = {
    "model": "a size named in configuration/models, without .json",
    "corpus": "`stdlib` (the running Python's standard library), a file or folder of text (.txt, .md, .py, .jsonl, "
    ".jsonl.gz, .parquet), `hf:owner/name` (a dataset on the Hub, streamed), a folder of token files "
    "(train.safetensors and validation.safetensors), or a folder of prepared data (data_dir/<corpus>-<hash>)",
    "tokens_per_step": "tokens of one optimizer step, over all processes and accumulation steps",
    "text_field": "the field of a .jsonl line, or the column of a table, that holds the text",
    "dataset_config": "configuration of a dataset on the Hub, such as FineWeb's sample-10BT; null: its default",
    "dataset_split": "split of a dataset on the Hub; all its rows are parted anew",
    "dataset_revision": "commit, branch or tag of a dataset on the Hub; null: main. A run keeps to its first commit",
    "deduplicate": "keep only the first of documents with the same text",
    "tokenize_processes": "processes that encode text; null: one for each core. The shards do not depend on it",
    "tokenizer": "`train` (byte-level BPE of vocab_size tokens, on the training part), or a folder or Hub name",
    "split": "how train, validation and test are parted: by each document's `hash`, in `contiguous` stretches of text, "
    "or `auto`: by hash from 100 documents up",
    "split_fractions": "shares of train, validation and test; 0.98, 0.01, 0.01 by hash, 0.9, 0.05, 0.05 contiguous",
    "shuffle": "visit the training windows in a random order of (seed, epoch)",
    "precision": "arithmetic of the matrix products; bf16 and fp16 by autocast, weights stay in fp32",
    "cpu_matmul_precision": "fp32 matrix products on CPUs: `medium` may be much faster, and may compute in bf16",
    "initialization": "`gpt2` (normal, residual outputs scaled down) or `pytorch` (what bare torch layers begin with)",
    "initialization_seed": "the seed of the initial weights, where it is not `seed`",
    "pad_vocab_to_multiple_of": "round the model's vocab_size up (128 suits GPUs); the tokenizer stays as it is",
    "document_masking": "documents in one window do not see each other; positions restart at each end of text",
    "muon_learning_rate": "train the blocks' matrices with Muon at this learning rate, all else by `optim`",
    "max_skipped_steps": "steps in a row that may be left out because their gradient is not finite; one more stops",
    "weight_decay_on": "`matrices` (embeddings too, but no biases and norms) or `everything`",
    "schedule": "how the learning rates go down at the end: `constant` (not at all), `linear` or `cosine`",
    "decay_steps": "steps that this takes; below 1: their share of the run; null: all after the warm-up",
    "learning_rate_floor": "what the rates go down to, as a share of their peak",
    "data_dir": "where prepared token shards are kept, shared by runs",
}

# Smallest and largest value of fields whose own classes do not check it, or too late.
RANGES = {
    "data_seed": (0, 2**32 - 1),
    "dataloader_num_workers": (0, 1024),
    "initialization_seed": (0, 2**32 - 1),
    "label_smoothing_factor": (0, 1),
    "learning_rate_floor": (0, 1),
    "max_skipped_steps": (0, 2**40),
    "max_steps": (1, 2**40),
    "num_train_epochs": (1e-6, 1e6),
    "pad_vocab_to_multiple_of": (1, 2**20),
    "per_device_eval_batch_size": (1, 2**20),
    "seed": (0, 2**32 - 1),
    "tokenize_processes": (1, 1024),
    "tokens_per_step": (1, 2**40),
    "vocab_size": (1, 2**24),
}
# A run is one pass over its sampler, however often that visits the text, so the Trainer sees no epochs.
STEPS_NOT_EPOCHS = ("eval_strategy", "logging_strategy", "save_strategy")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What a run needs beyond the model's config and `TrainingArguments`."""

    model: str
    corpus: str
    tokens_per_step: int
    text_field: str = "text"
    dataset_config: str | None = None
    dataset_split: str = "train"
    dataset_revision: str | None = None
    deduplicate: bool = False
    tokenize_processes: int | None = None
    tokenizer: str = "train"
    split: Literal["auto", "hash", "contiguous"] = "auto"
    split_fractions: list[float] | None = None
    shuffle: bool = True
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    cpu_matmul_precision: Literal["highest", "high", "medium"] = "highest"
    initialization: Literal["gpt2", "pytorch"] = "gpt2"
    initialization_seed: int | None = None
    pad_vocab_to_multiple_of: int | None = None
    document_masking: bool = False
    muon_learning_rate: float | None = None
    max_skipped_steps: int = 0
    weight_decay_on: Literal["matrices", "everything"] = "matrices"
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    decay_steps: int | float | None = None
    learning_rate_floor: float = 0.0
    data_dir: str = "data"

    def __post_init__(self):
        problems = [
            f"{name} is empty"
            for name in ("model", "corpus", "text_field", "dataset_split", "tokenizer", "data_dir")
            if not getattr(self, name).strip()
        ]
        if self.muon_learning_rate is not None and self.muon_learning_rate <= 0:
            problems.append(f"muon_learning_rate is {self.muon_learning_rate}, but must be positive")
        if self.decay_steps is not None and (
            self.decay_steps <= 0 or (self.decay_steps > 1 and self.decay_steps != int(self.decay_steps))
        ):
            problems.append(f"decay_steps is {self.decay_steps}, but must be a share below 1 or a number of steps")
        fractions = self.split_fractions
        if fractions is not None and (
            len(fractions) != 3 or min(fractions) <= 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6)
        ):
            problems.append(f"split_fractions is {fractions}, but must be three positive numbers that add up to 1")
        if problems:
            raise ValueError("\n".join(problems))


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. `training` holds a value for every `TrainingArguments` field that a recipe may set.

    One of them is not yet as the library wants it: `per_device_train_batch_size` may be "auto", which
    training/planning/micro_batch.py turns into a number.
    """

    run: RunConfig
    model: GPTScratchConfig
    training: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Every setting with its resolved value, in the form of a recipe file. Absolute paths become portable ones."""
        model = {name: getattr(self.model, name) for name in MODEL_FIELDS}
        values = {**dataclasses.asdict(self.run), **model, **self.training}
        return values | {name: _portable(values[name]) for name in ("corpus", "tokenizer", "data_dir", "output_dir")}


def _portable(path: str) -> str:
    """Relative to the current folder if inside, else the last part alone: records name no user and no machine."""
    if path.startswith("~") or ".." in Path(path).parts:
        return Path(path).name
    if not Path(path).is_absolute():
        return path
    return Path(path).relative_to(Path.cwd()).as_posix() if Path(path).is_relative_to(Path.cwd()) else Path(path).name


# Field name -> type annotation. Of the model's config only what our class declares: the library's base class has fields
# that are no part of an architecture.
_RUN_FIELDS = typing.get_type_hints(RunConfig)
MODEL_FIELDS = {name: kind for name, kind in GPTScratchConfig.__annotations__.items() if name not in REFUSED}
_TRAINING_FIELDS = {
    name: annotation
    for name, annotation in typing.get_type_hints(TrainingArguments).items()
    if name in TrainingArguments.__dataclass_fields__ and name not in REFUSED and name not in MODEL_FIELDS
} | {"per_device_train_batch_size": int | Literal["auto"]}
_FIELDS = {**_RUN_FIELDS, **MODEL_FIELDS, **_TRAINING_FIELDS}


def _unknown_key(key: str) -> str:
    if key in REFUSED:
        return f"{key} {REFUSED[key]}"
    close = difflib.get_close_matches(key, _FIELDS, n=1)
    return f"{key} is no setting" + (f": did you mean {close[0]}?" if close else "; --help lists them all")


def load_recipe(path: Path | None, overrides: dict[str, str], unknown: list[str] | None = None) -> Recipe:
    """Reads a recipe file, applies `--field value` overrides, fills in defaults and checks everything.

    Args:
        path: the YAML file; `None` where the overrides say it all.
        overrides: field name -> text as typed on the command line.
        unknown: takes the names of what is no setting, or has no value that it can have, which is then left out; for
            what another version of the library has saved. `None`: that is an error.

    Raises:
        RecipeError: listing every problem found.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    for source, to_type in ((read_recipe_file(path) if path else {}, convert), (overrides, from_text)):
        for key, value in source.items():
            if key not in _FIELDS:
                problems.append(_unknown_key(str(key))) if unknown is None else unknown.append(str(key))
                continue
            try:
                values[key] = to_type(value, _FIELDS[key])
            except TypeError:
                if unknown is not None:
                    unknown.append(key)
                    continue
                problems.append(f"{key} is {value!r} ({type(value).__name__}), but must be {describe(_FIELDS[key])}")

    for name, (low, high) in RANGES.items():
        value = values.get(name)
        # -1 is how TrainingArguments says "not set": num_train_epochs counts then.
        if value is not None and not low <= value <= high and (name, value) != ("max_steps", -1):
            problems.append(f"{name} is {value}, but must be between {low} and {high}")
    problems += [
        f"{name} is epoch, but a run counts in steps: set it to steps, and {name.split('_')[0]}_steps"
        for name in STEPS_NOT_EPOCHS
        if values.get(name) == "epoch"
    ]
    for name in ("model", "corpus", "tokens_per_step", "output_dir"):
        if not values.get(name) and not any(problem.startswith(f"{name} ") for problem in problems):
            problems.append(f"{name} is missing")
    sizes: dict[str, Any] = {}
    if "model" in values:
        size_file = MODELS / f"{values['model']}.json"
        if size_file.is_file() and size_file.parent == MODELS:
            sizes = json.loads(size_file.read_text(encoding="utf-8"))
        else:
            known = ", ".join(sorted(path.stem for path in MODELS.glob("*.json")))
            problems.append(f"model is {values['model']!r}, but the sizes in configuration/models are: {known}")
    if problems:
        raise RecipeError("\n".join(problems))

    run = model = None
    try:
        run = RunConfig(**{name: values[name] for name in _RUN_FIELDS if name in values})
    except ValueError as error:
        problems.append(str(error))
    try:
        model = GPTScratchConfig(**{**sizes, **{name: values[name] for name in MODEL_FIELDS if name in values}})
    except StrictDataclassError as error:
        problems += str(error.__cause__ or error).split("; ")
    if problems:
        raise RecipeError("\n".join(problems))
    return Recipe(run, model, {**_training_defaults(), **{n: values[n] for n in _TRAINING_FIELDS if n in values}})


def _training_defaults() -> dict[str, Any]:
    defaults = {}
    for declared in dataclasses.fields(TrainingArguments):
        if declared.name in _TRAINING_FIELDS:
            has_factory = declared.default_factory is not dataclasses.MISSING
            defaults[declared.name] = declared.default_factory() if has_factory else declared.default
    return defaults


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML that [`load_recipe`] reads back to the same recipe."""
    return yaml.safe_dump(recipe.as_dict(), sort_keys=False, allow_unicode=True)


def differences(recipe: Recipe, saved: Path) -> tuple[dict[str, tuple[Any, Any]], list[str]]:
    """What `recipe` says otherwise than the saved recipe file.

    Returns:
        Field -> its value there and here; and the saved fields that this version of the library does not know.
    """
    unknown: list[str] = []
    old = load_recipe(saved, {}, unknown).as_dict()
    changes = {key: (old[key], value) for key, value in recipe.as_dict().items() if old[key] != value}
    return {key: values for key, values in changes.items() if key not in unknown}, unknown


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds RECIPE and one `--field` for each setting; [`overrides_from`] reads them back."""
    parser.add_argument("recipe", nargs="?", type=Path, metavar="RECIPE.yaml", help="the run's settings")
    help_texts = {
        declared.name: declared.metadata.get("help", "") for declared in dataclasses.fields(TrainingArguments)
    }
    help_texts.update(RUN_HELP)
    for title, fields in (
        ("run", _RUN_FIELDS),
        ("model (modeling_gpt_scratch/configuration_gpt_scratch.py explains these)", MODEL_FIELDS),
        ("training (transformers.TrainingArguments)", _TRAINING_FIELDS),
    ):
        group = parser.add_argument_group(title)
        for name, annotation in fields.items():
            group.add_argument(
                f"--{name}",
                # `--shuffle` alone means true.
                **({"nargs": "?", "const": "true"} if bool in members(annotation) else {}),
                default=argparse.SUPPRESS,
                metavar="VALUE",
                help=" ".join(help_texts.get(name, "").split()).replace("%", "%%"),
            )


def parse_recipe_arguments(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[Recipe, argparse.Namespace]:
    """Parses a command line made by [`add_recipe_arguments`] and loads its recipe.

    Returns:
        The recipe, and all that was parsed, for the options that a program has beside it.

    Raises:
        RecipeError: also for options that are no setting, with a suggestion.
    """
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        options = [text.removeprefix("--").split("=")[0] for text in unknown if text.startswith("-")]
        raise RecipeError("\n".join(map(_unknown_key, options)) or f"{unknown[0]} is neither a recipe nor an option")
    overrides = {name: text for name, text in vars(arguments).items() if name in _FIELDS}
    return load_recipe(arguments.recipe, overrides), arguments
