"""What a recipe takes over from the model whose pretraining it continues, and what it cannot say beside that."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from modeling_gpt_scratch import GPTScratchConfig
from modeling_gpt_scratch.conversion import ConversionError
from modeling_gpt_scratch.conversion.opening import read_sizes

from .data import MADE_OF_TEXT
from .recipe import portable
from .recipe_file import RESOLVED, RecipeError, read_recipe_file
from .yaml_values import Plain, read_value

# What the weights are made for. Dropouts and the like are settings of a run, which a recipe may choose anew.
SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "qkv_bias", "layer_norm_eps"),
    "tie_word_embeddings",
)


def taken_from_parent(values: Mapping[str, Any], wanted: Collection[str]) -> dict[str, Any]:
    """The settings in `wanted`, and the tokenizer, as the model has them that `init_from` names.

    A recipe that says all of them itself, as every run's recipe.yaml does, needs no such model to be read. Nor does
    that of a run which has begun.

    Args:
        values: what the recipe says itself.

    Raises:
        RecipeError: the model cannot be opened, or the recipe says something else than it is.
    """
    name = values["init_from"]
    if not name.strip():
        raise RecipeError("init_from is empty")
    problems = _contradictions(values)
    if not problems and all(setting in values for setting in (*wanted, "tokenizer")):
        return {}
    settings = _settings_of_begun_run(values)
    if settings is None:
        try:
            parent = read_sizes(name, values.get("init_from_revision"))
        except ConversionError as error:
            raise RecipeError("\n".join([*problems, cannot_be_opened(name, error)])) from None
        problems += differences_from_parent(values, parent)
        settings = {setting: getattr(parent, setting) for setting in wanted} | {"tokenizer": name}
    if problems:
        raise RecipeError("\n".join(problems))
    return {setting: settings[setting] for setting in (*wanted, "tokenizer") if setting in settings}


def cannot_be_opened(name: str, error: ConversionError) -> str:
    """What is wrong with the model that `init_from` names, in one line."""
    if (Path(name) / RESOLVED).is_file() and not (Path(name) / "config.json").is_file():
        return f"init_from is {name}, which is a run folder: name its `model` folder or one of its checkpoints"
    reason = " ".join(str(error).split())
    if "--" in reason:
        reason += ". Such options are those of `python -m modeling_gpt_scratch convert`: name here what it has written"
    return f"init_from is {name}, which cannot be opened: {reason}"


def differences_from_parent(values: Mapping[str, Any], parent: GPTScratchConfig) -> list[str]:
    """What a recipe says of its model that is not true of the one that it continues, a line each.

    Args:
        values: setting -> its value; what is left out, or says `None`, is the parent's.
    """
    name, found = values["init_from"], []

    def compare(setting: str, value: Any, theirs: Any) -> None:
        if value is not None and value != theirs:
            found.append(
                f"{setting} is {value}, but {theirs} in {name}, whose weights are made for that: leave it out, and a "
                "`model` that says so too"
            )

    for size in SIZES:
        compare(size, values.get(size), getattr(parent, size))
    inner = values.get("intermediate_size", parent.intermediate_size)
    compare("intermediate_size", inner or 4 * parent.hidden_size, parent.intermediate_size)
    vocab_size, multiple = values.get("vocab_size", parent.vocab_size), values.get("pad_vocab_to_multiple_of")
    padded = "" if multiple is None else f", rounded up by pad_vocab_to_multiple_of {multiple},"
    compare(f"vocab_size{padded}", padded_vocab_size(vocab_size, multiple), parent.vocab_size)
    positions, theirs = values.get("max_position_embeddings"), parent.max_position_embeddings
    is_longer, choice = positions is not None and positions > theirs, values.get("new_positions")
    if is_longer and choice is None:
        found.append(
            f"max_position_embeddings is {positions}, but {name} has {theirs} trained positions: set new_positions to "
            "interpolate (they are stretched over the new length) or to begin (they stay, and the further ones begin "
            "anew), or leave max_position_embeddings out"
        )
    elif choice is not None and not is_longer:
        found.append(
            f"new_positions is {choice}, but {name} has all {positions or theirs} positions: leave it out, or set "
            f"max_position_embeddings to more than {theirs}"
        )
    return found


def padded_vocab_size(vocab_size: int, multiple: int | None) -> int:
    """The smallest multiple that holds the vocabulary; the vocabulary itself where there is no multiple."""
    return vocab_size if multiple is None else -(-vocab_size // multiple) * multiple


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    """What a recipe says that means nothing beside `init_from`, whatever model that is."""
    name, problems = values["init_from"], []
    if values.get("initialization", "gpt2") != "gpt2":
        problems.append(
            f"initialization is {values['initialization']}, but the weights come from init_from: leave one out (or "
            "set initialization to gpt2)"
        )
    if values.get("initialization_seed") is not None and values.get("new_positions") != "begin":
        problems.append("initialization_seed is set, but the weights come from init_from: leave one out")
    if values.get("tokenizer") in MADE_OF_TEXT:
        problems.append(
            f"tokenizer is {values['tokenizer']}, but the model that init_from names knows the ids of its own: leave "
            f"tokenizer out, or set it to {name}"
        )
    if values.get("init_from_revision") is not None and Path(name).exists():
        problems.append(f"init_from_revision is set, but {name} is here and not on the Hub: leave one out")
    return problems


def _settings_of_begun_run(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The resolved recipe of the run in `output_dir`, if that has begun with this model; else `None`."""
    file = Path(values.get("output_dir") or "") / RESOLVED
    if not file.is_file():
        return None
    try:
        written = read_recipe_file(file)[-1]
    except RecipeError:
        return None
    begun = {name: read_value(value) if isinstance(value, Plain) else value for name, value in written.items()}
    return begun if begun.get("init_from") == portable(values["init_from"]) else None
