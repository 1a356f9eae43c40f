"""The model that a run begins with: its special tokens, its padded vocabulary, its initial or its parent's weights."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedTokenizerFast, set_seed

from configuration.continuation import padded_vocab_size
from configuration.pretraining import PretrainingRecipe
from modeling_gpt_scratch import GPTScratchConfig, GPTScratchForCausalLM
from modeling_gpt_scratch.conversion.tokenizer import vocabulary_size


def initial_model(recipe: PretrainingRecipe, tokenizer: PreTrainedTokenizerFast) -> GPTScratchForCausalLM:
    """Builds the model of a recipe; the seed decides its weights."""
    seed = recipe.pretraining.initialization_seed
    set_seed(recipe.training["seed"] if seed is None else seed)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    # A tokenizer that was made of the text has the size that the text gave it.
    vocab_size = vocabulary_size(tokenizer) if recipe.data.makes_tokenizer else recipe.model.vocab_size
    model = GPTScratchForCausalLM(GPTScratchConfig(**{**built_config(recipe, vocab_size).to_dict(), **special}))
    if recipe.pretraining.initialization == "pytorch":
        initialize_like_pytorch(model)
    return model


def continued_model(
    recipe: PretrainingRecipe, tokenizer: PreTrainedTokenizerFast, parent: GPTScratchForCausalLM
) -> GPTScratchForCausalLM:
    """The model of a recipe with its parent's weights, in fp32 whatever they are stored in.

    Args:
        parent: of the recipe's sizes, but for the number of positions.
    """
    model, weights = initial_model(recipe, tokenizer), parent.state_dict()
    begun = model.model.embed_positions.weight.detach()
    name = "model.embed_positions.weight"
    weights[name] = fitted_positions(weights[name].float(), begun, recipe.pretraining.new_positions)
    model.load_state_dict(weights)
    return model


def fitted_positions(trained: torch.Tensor, begun: torch.Tensor, new: str | None) -> torch.Tensor:
    """Position embeddings for a model that may have fewer positions or more than they were trained for.

    Args:
        trained: of shape `(trained positions, hidden_size)`.
        begun: initial ones of the model, of shape `(positions, hidden_size)`.
        new: for more positions, `interpolate` (linearly along the positions, the first and the last one staying what
            they are) or `begin` (the trained ones stay, the others are those of `begun`).

    Returns:
        Of `begun`'s shape.
    """
    positions = len(begun)
    if new == "interpolate":
        stretched = F.interpolate(trained.T[None], size=positions, mode="linear", align_corners=True)
        return stretched[0].T
    return torch.cat([trained[:positions], begun[len(trained) :]])


def built_config(recipe: PretrainingRecipe, vocab_size: int | None = None) -> GPTScratchConfig:
    """The recipe's model with its vocabulary rounded up. Ids beyond the tokenizer's are never a target, so the model
    learns not to write them.

    Args:
        vocab_size: what is rounded up, where the recipe's number is not the tokenizer's.
    """
    vocab_size = padded_vocab_size(vocab_size or recipe.model.vocab_size, recipe.pretraining.pad_vocab_to_multiple_of)
    return GPTScratchConfig(**{**recipe.model.to_dict(), "vocab_size": vocab_size})


@torch.no_grad()
def initialize_like_pytorch(model: nn.Module) -> None:
    """What the layers begin with in bare PyTorch, as in the book and the blog: embeddings N(0, 1), weights and biases
    of linear layers uniform in +-1/sqrt(fan_in), norms 1 and 0. A tied head keeps the embedding's weights."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for module in model.modules():
        if isinstance(module, (nn.Embedding, nn.LayerNorm)) or (
            isinstance(module, nn.Linear) and id(module.weight) not in embeddings
        ):
            module.reset_parameters()
