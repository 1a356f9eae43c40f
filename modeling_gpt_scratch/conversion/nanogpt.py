"""
The model of Andrej Karpathy's nanoGPT: GPT-2's names, linear layers, a head that is tied, and biases or none at all.

A checkpoint is one `ckpt.pt` with the tensors under `model` and the sizes under `model_args`. Those of build-nanogpt
and minGPT have the same tensors; what their sizes are, `nanogpt_sizes.py` finds out.
"""

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from ..modeling_gpt_scratch import GPTScratchForCausalLM
from .checks import ConversionError, check_fields
from .gpt2 import GPT2_NAMES
from .logits import Reading, causal_attention, layer_norm, linear, tensor_of
from .nanogpt_sizes import (
    ACTIVATIONS,
    EMBEDDING,
    NANOGPT_CONFIG,
    complete_sizes,
    likely_activation,
    remarks_on,
    said_sizes,
)
from .source import Checkpoint
from .weights import build_config, build_model, same

HEAD = "lm_head.weight"


def read_nanogpt(
    checkpoint: Checkpoint,
    activation: str | None = None,
    config: str | Path | None = None,
    n_head: int | None = None,
) -> Reading:
    """The model of a checkpoint and its measure; `config` and `n_head` are for one that does not say its sizes.

    Raises:
        `ConversionError`: as `convert_nanogpt_checkpoint`, or nobody says how many heads there are.
    """
    state_dict, said = checkpoint.tensors, said_sizes(checkpoint, config, n_head)
    sizes = complete_sizes(state_dict, said)
    chosen = likely_activation(state_dict, said) if activation is None else activation
    model = convert_nanogpt_checkpoint(state_dict, sizes, chosen)
    reference = partial(nanogpt_logits, state_dict, sizes, chosen)
    return Reading(model, reference, remarks_on(said, chosen, asked=activation is not None))


def convert_nanogpt_checkpoint(
    state_dict: dict[str, torch.Tensor], model_args: dict, activation: str = ACTIVATIONS[0]
) -> GPTScratchForCausalLM:
    """The model with the weights of a nanoGPT checkpoint, copied in their own dtype, in evaluation mode.

    Args:
        state_dict: the tensors by nanoGPT's names, linear weights of shape `(out_features, in_features)`; the masks
            of old versions and of minGPT (`attn.bias`, `attn.masked_bias`) may be there. Without a head, or with one
            that equals the embedding, the model is tied.
        model_args: the fields of `NANOGPT_CONFIG`. Without `bias` our biases are zero, and there are none for query,
            key and value.
        activation: one of `ACTIVATIONS`.

    Raises:
        `ConversionError`: unknown, missing or unfitting fields or tensors; names all kinds of problems at once.
    """
    check_fields(model_args, NANOGPT_CONFIG, "nanoGPT's")
    if activation not in ACTIVATIONS:
        raise ConversionError(f"The activation is {activation!r}, expected {' or '.join(ACTIVATIONS)}")
    if EMBEDDING in state_dict:
        state_dict = {HEAD: state_dict[EMBEDDING], **state_dict}
    config = build_config(
        state_dict,
        vocab_size=model_args["vocab_size"],
        hidden_size=model_args["n_embd"],
        num_hidden_layers=model_args["n_layer"],
        num_attention_heads=model_args["n_head"],
        max_position_embeddings=model_args["block_size"],
        hidden_act=activation,
        qkv_bias=model_args["bias"],
        embedding_dropout=model_args["dropout"],
        attention_dropout=model_args["dropout"],
        residual_dropout=model_args["dropout"],
        layer_norm_eps=1e-5,
        tie_word_embeddings=same(state_dict.get(EMBEDDING), state_dict.get(HEAD)),
    )
    names = {source: ours for source, ours in GPT2_NAMES.items() if model_args["bias"] or not source.endswith(".bias")}
    masks = {}
    for layer in range(config.num_hidden_layers):
        length = config.max_position_embeddings
        masks[f"transformer.h.{layer}.attn.bias"] = (1, 1, length, length)
        masks[f"transformer.h.{layer}.attn.masked_bias"] = ()
    return build_model(config, state_dict, names, ignored=masks)


def nanogpt_logits(
    state_dict: dict[str, torch.Tensor], model_args: dict, activation: str, input_ids: torch.LongTensor
) -> torch.FloatTensor:
    """nanoGPT's model without dropout, in fp32 and from its own tensors: the measure of our conversion.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`).

    Returns:
        Logits of shape `(batch_size, sequence_length, vocab_size)`.
    """
    approximate = "none" if activation == "gelu" else "tanh"

    def apply(name: str, features: torch.Tensor) -> torch.Tensor:
        return linear(state_dict, name, features)

    def norm(name: str, features: torch.Tensor) -> torch.Tensor:
        return layer_norm(state_dict, f"{name}.weight", f"{name}.bias", features)

    embedding = tensor_of(state_dict, EMBEDDING)
    positions = tensor_of(state_dict, "transformer.wpe.weight")[: input_ids.shape[1]]
    features = embedding[input_ids] + positions  # (batch, length, width)
    for layer in range(model_args["n_layer"]):
        block = f"transformer.h.{layer}"
        joined = apply(f"{block}.attn.c_attn", norm(f"{block}.ln_1", features))  # (batch, length, 3 x width)
        attended = causal_attention(*joined.chunk(3, dim=-1), model_args["n_head"])
        features = features + apply(f"{block}.attn.c_proj", attended)
        hidden = apply(f"{block}.mlp.c_fc", norm(f"{block}.ln_2", features))
        features = features + apply(f"{block}.mlp.c_proj", F.gelu(hidden, approximate=approximate))
    head = embedding if HEAD not in state_dict else tensor_of(state_dict, HEAD)
    return norm("transformer.ln_f", features) @ head.mT
