"""
The model whose pretraining a run continues (`init_from`): what is recorded of it, and its weights.

    name, revision     as the recipe has it; the commit, where it is on the Hub
    weights            file -> sha256
    positions          `trained`, `now` and `new`: where the run has more or fewer of them than its parent
    tokens, parent     what its own run was trained on and began with, where its record is beside it
"""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from configuration.continuation import cannot_be_opened, differences_from_parent
from configuration.pretraining import PretrainingRecipe
from configuration.recipe import portable
from modeling_gpt_scratch import GPTScratchConfig, GPTScratchForCausalLM
from modeling_gpt_scratch.conversion import ConversionError
from modeling_gpt_scratch.conversion.opening import FoundSource, locate, open_model, read_sizes
from modeling_gpt_scratch.conversion.tokenizer import holds_tokenizer, load_tokenizer

from .errors import InputError
from .files import sha256_of
from .record import CHECKPOINT, RECORD, STATE, read_record


def describe_parent(recipe: PretrainingRecipe) -> dict[str, Any]:
    """The record of the model that `init_from` names.

    Raises:
        InputError: it cannot be opened, or is another model than the recipe says.
    """
    sizes = check_sizes(recipe)
    source = _locate(recipe, recipe.pretraining.init_from_revision)
    weights = _hashes(source)
    return {
        "name": portable(recipe.pretraining.init_from),
        "revision": source.commit,
        "weights": weights,
        **positions_of_parent(recipe, sizes),
        **_history(source.place, weights),
    }


def check_sizes(recipe: PretrainingRecipe) -> GPTScratchConfig:
    """The parent's configuration.

    Raises:
        InputError: it cannot be read, or the recipe's model is another one; lists every difference.
    """
    asked = recipe.pretraining
    try:
        sizes = read_sizes(asked.init_from, asked.init_from_revision)
    except ConversionError as error:
        raise InputError(cannot_be_opened(asked.init_from, error)) from None
    differences = differences_from_parent({**recipe.as_dict(), "init_from": asked.init_from}, sizes)
    if differences:
        raise InputError("\n".join(differences))
    return sizes


def positions_of_parent(recipe: PretrainingRecipe, sizes: GPTScratchConfig) -> dict[str, Any]:
    """The record's `positions`; empty where the run has as many as its parent."""
    now, trained = recipe.model.max_position_embeddings, sizes.max_position_embeddings
    if now == trained:
        return {}
    return {"positions": {"trained": trained, "now": now, "new": recipe.pretraining.new_positions}}


def in_words(parent: dict[str, Any]) -> str:
    """What becomes of its positions, to follow the parent's name; nothing where they stay."""
    if "positions" not in parent:
        return ""
    trained, now, new = (parent["positions"][name] for name in ("trained", "now", "new"))
    if now < trained:
        return f", of whose {trained:,} positions the first {now:,} stay"
    return {
        "interpolate": f", whose {trained:,} positions are interpolated to {now:,}",
        "begin": f", whose {trained:,} positions stay; {now - trained:,} more begin anew",
    }[new]


def is_still(recipe: PretrainingRecipe, parent: dict[str, Any]) -> bool:
    """Whether `init_from` names the weights that a run began with, wherever they lie now."""
    hashes = _hashes(_locate(recipe, recipe.pretraining.init_from_revision))
    return sorted(hashes.values()) == sorted(parent["weights"].values())


def open_parent(recipe: PretrainingRecipe, parent: dict[str, Any]) -> GPTScratchForCausalLM:
    """The recorded model, in its own dtype and with its own positions.

    Raises:
        InputError: it cannot be opened, or its weights are not those that were recorded.
    """
    name = recipe.pretraining.init_from
    source = _locate(recipe, parent["revision"])
    if sorted(_hashes(source).values()) != sorted(parent["weights"].values()):
        raise InputError(
            f"{name} has other weights now than the run began with: put those back, or choose another output_dir"
        )
    try:
        return open_model(source.place)
    except ConversionError as error:
        raise InputError(cannot_be_opened(name, error)) from None


def check_tokenizer(recipe: PretrainingRecipe, parent: dict[str, Any], used: PreTrainedTokenizerFast) -> None:
    """Raises InputError where the data's tokenizer writes a token of the parent's as another id, or not at all."""
    own = tokenizer_of_parent(recipe, parent["revision"])
    if own is None:
        return
    ids, theirs = used.get_vocab(), own.get_vocab()
    changed = sorted((index, token) for token, index in theirs.items() if ids.get(token) != index)
    if changed:
        name, (index, token) = recipe.pretraining.init_from, changed[0]
        raise InputError(
            f"the tokenizer {recipe.data.tokenizer} is not that of {name}: {len(changed):,} of its tokens have another "
            f"id or none, such as {token!r} ({ids.get(token)} instead of {index}): leave tokenizer out of the recipe, "
            "and name as corpus no data that was prepared with another one"
        )


def tokenizer_of_parent(recipe: PretrainingRecipe, revision: str | None) -> PreTrainedTokenizerFast | None:
    """The tokenizer that lies beside the parent's weights, if there is one.

    Raises:
        InputError: it cannot be loaded, or has more tokens than the model.
    """
    place = _locate(recipe, revision).place
    if not (place.is_dir() and holds_tokenizer(place)):
        return None
    try:
        return load_tokenizer(place, recipe.model)
    except ConversionError as error:
        raise InputError(str(error)) from None


def _locate(recipe: PretrainingRecipe, revision: str | None) -> FoundSource:
    name = recipe.pretraining.init_from
    try:
        return locate(name, revision)
    except ConversionError as error:
        raise InputError(cannot_be_opened(name, error)) from None


def _hashes(source: FoundSource) -> dict[str, str]:
    try:
        return {file.name: sha256_of(file) for file in source.weights}
    except OSError as error:
        raise InputError(f"{source.place} lacks weights: {error}") from None


def _history(place: Path, weights: dict[str, str]) -> dict[str, Any]:
    """What a run's record says of the weights that it has made; nothing where there is none, or one of others."""
    folder = place.resolve()
    for run in (folder.parent, folder):  # a release has the record beside the weights
        if not (run / RECORD).is_file():
            continue
        try:
            record = read_record(run)
            tokens = _tokens_seen(folder, record, weights)
        except (InputError, OSError, ValueError, KeyError, TypeError):
            continue
        if tokens is not None:
            return {"tokens": tokens, "parent": record.get("parent")}
    return {}


def _tokens_seen(folder: Path, record: dict[str, Any], weights: dict[str, str]) -> int | None:
    if folder.name.startswith(CHECKPOINT):
        return json.loads((folder / STATE).read_text(encoding="utf-8"))["num_input_tokens_seen"]
    return record["result"]["tokens"] if record["result"]["model_sha256"] == weights else None
