"""
Tensors of other code as ours and back, by a table of names; our own need none.

A table says for each of the source's tensors which of ours it holds: one, or several of the same shape that are joined
along their first dimension (`JOINED`). `N` stands for the number of the block.
"""

from collections.abc import Iterable, Iterator
from functools import partial, reduce

import torch
from huggingface_hub.errors import StrictDataclassError

from ..configuration_gpt_scratch import GPTScratchConfig
from ..modeling_gpt_scratch import GPTScratchForCausalLM, GPTScratchPreTrainedModel
from .checks import ConversionError, check_tensors
from .generation import limit_length
from .logits import Reading, model_logits
from .source import Checkpoint

# Between the names of ours that one tensor of the source holds.
JOINED = " + "


def build_config(state_dict: dict[str, torch.Tensor], **fields) -> GPTScratchConfig:
    """Our configuration for the model of these tensors.

    Raises:
        `ConversionError`: the values are wrong, fit no model, or speak of more blocks than there are tensors.
    """
    try:
        config = GPTScratchConfig(**fields)
    except StrictDataclassError as error:
        raise ConversionError(
            f"The checkpoint's configuration describes no valid model: {error.__cause__ or error}"
        ) from error
    # Names are written out for every block, which would never end for an absurd number.
    if config.num_hidden_layers > len(state_dict):
        raise ConversionError(
            f"The checkpoint's configuration describes {config.num_hidden_layers} blocks, but the checkpoint has only "
            f"{len(state_dict)} tensors: check that the two belong together"
        )
    return config


def names_of_blocks(names: dict[str, str], num_layers: int) -> dict[str, tuple[str, ...]]:
    """The table written out for every block: source's name -> names of ours that it holds."""
    return {
        source.replace(".N.", f".{layer}."): tuple(ours.replace(".N.", f".{layer}.").split(JOINED))
        for source, ours in names.items()
        for layer in range(num_layers if ".N." in source else 1)
    }


def build_model(
    config: GPTScratchConfig,
    state_dict: dict[str, torch.Tensor],
    names: dict[str, str] | None,
    ignored: dict[str, tuple[int, ...]],
    transposed: tuple[str, ...] = (),
    model_class: type[GPTScratchPreTrainedModel] = GPTScratchForCausalLM,
) -> GPTScratchPreTrainedModel:
    """The model with the source's tensors, after their names and shapes are found to be what `config` asks for.

    Args:
        names: the table; entries whose tensors a model of this `config` lacks (biases) are left out. Biases of ours
            that it does not name are zero. `None` means that the names are ours.
        ignored: name -> shape of the source's tensors that may be there and are not used.
        transposed: endings of the names of matrices that the source stores as `(in_features, out_features)`.
        model_class: the language model, or a head of another kind.

    Returns:
        The model in evaluation mode, its weights copied in their own dtype; in the widest, where there are several.

    Raises:
        `ConversionError`: unknown, missing or misshapen tensors, or tensors of integers.
    """
    # Without data, so that a wrong configuration is found before memory for it is asked for.
    try:
        with torch.device("meta"):
            model = model_class(config)
    except RuntimeError as error:  # sizes that overflow even the bookkeeping
        raise ConversionError(f"The checkpoint's configuration describes no possible model: {error}") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    table = {name: name for name in shapes} if names is None else names
    sources = {
        source: ours
        for source, ours in names_of_blocks(table, config.num_hidden_layers).items()
        if all(name in shapes for name in ours)
    }
    required = {}
    for source, ours in sources.items():
        length, *width = shapes[ours[0]]
        shape = (len(ours) * length, *width)
        required[source] = shape[::-1] if source.endswith(transposed) else shape
    check_tensors(state_dict, required, ignored)

    weights, dtype = {}, widest_dtype(state_dict[source] for source in sources)
    for source, ours in sources.items():
        tensor = state_dict[source].mT if source.endswith(transposed) else state_dict[source]
        for name, part in zip(ours, tensor.chunk(len(ours)), strict=True):
            # Copies: the loaded tensors may be views of the file, which may change or go away.
            weights[name] = part.to(dtype, copy=True, memory_format=torch.contiguous_format)
    weights |= {
        name: torch.zeros(shape, dtype=dtype)
        for name, shape in shapes.items()
        if name not in weights and name.endswith(".bias")
    }
    model.load_state_dict(weights, assign=True)
    model.tie_weights()  # assigning has put two parameters where one was shared
    if model.can_generate():  # a classifier has no settings for it
        limit_length(model.generation_config, config.max_position_embeddings)
    return model.eval()


def widest_dtype(tensors: Iterable[torch.Tensor]) -> torch.dtype:
    """The narrowest dtype that holds the values of all."""
    return reduce(torch.promote_types, {tensor.dtype for tensor in tensors})


def joined_weights(model: GPTScratchForCausalLM, names: dict[str, str]) -> Iterator[tuple[str, torch.Tensor]]:
    """The model's tensors under the table's names, joined where one holds several of ours; missing biases are zero."""
    ours = model.state_dict()
    for name, parts in names_of_blocks(names, model.config.num_hidden_layers).items():
        # Only the biases of query, key and value can be missing.
        tensors = [
            ours[part] if part in ours else ours[part.replace(".bias", ".weight")].new_zeros(model.config.hidden_size)
            for part in parts
        ]
        yield name, torch.cat(tensors)


def same(first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    """Whether both tensors are there and equal in shape and values."""
    if first is None or second is None:
        return False
    dtype = widest_dtype((first, second))
    return torch.equal(first.to(dtype), second.to(dtype))


def with_head(state_dict: dict[str, torch.Tensor], embedding: str, tied: bool) -> dict[str, torch.Tensor]:
    """The tensors with `lm_head.weight`: their own, or in a tied model the embedding where it was saved once.

    Raises:
        `ConversionError`: the model is said to be tied, but its head differs from the embedding.
    """
    head = "lm_head.weight"
    if not tied or embedding not in state_dict:
        return state_dict
    if head in state_dict and not same(state_dict[embedding], state_dict[head]):
        raise ConversionError(
            f"tie_word_embeddings is true (the default), but {head} differs from {embedding}: set it to false in "
            "config.json if the checkpoint was trained untied"
        )
    return {head: state_dict[embedding], **state_dict}


def read_gpt_scratch(checkpoint: Checkpoint) -> Reading:
    """The model of one of our own folders, which is its own measure."""
    model = load_gpt_scratch_checkpoint(checkpoint.tensors, checkpoint.read_config())
    return Reading(model, partial(model_logits, model))


def load_gpt_scratch_checkpoint(state_dict: dict[str, torch.Tensor], config: dict) -> GPTScratchForCausalLM:
    """The language model with the tensors of one of our own folders, copied in their own dtype, in evaluation mode.

    Unlike `from_pretrained`, it takes nothing but a whole language model, and never the folder's own code.

    Args:
        state_dict: the tensors by our names; a tied model may lack its head.
        config: the content of the folder's `config.json`.

    Raises:
        `ConversionError`: an invalid configuration, a classifier, or unknown, missing or misshapen tensors.
    """
    if "score.weight" in state_dict:
        raise ConversionError(
            "The checkpoint is a classifier, which has score.weight in the place of a language model's head: name the "
            "language model that it was tuned from. from_pretrained opens a classifier as it is"
        )
    # The model's own fields: the rest is about heads, saving and code, and the result's code files are this package's.
    fields = {name: config[name] for name in GPTScratchConfig.__annotations__ if name in config}
    ours = build_config(state_dict, **fields)
    state_dict = with_head(state_dict, "model.embed_tokens.weight", ours.tie_word_embeddings)
    return build_model(ours, state_dict, None, ignored={})
