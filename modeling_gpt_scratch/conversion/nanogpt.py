"""
The model of Andrej Karpathy's nanoGPT: GPT-2's names, linear layers, a head that is tied, and biases or none at all.

A checkpoint is one `ckpt.pt` with the tensors under `model` and the sizes under `model_args` (`NANOGPT_CONFIG`).
"""

from functools import partial

import torch
import torch.nn.functional as F

from ..modeling_gpt_scratch import GPTScratchForCausalLM
from .checks import ConversionError, check_fields
from .gpt2 import GPT2_NAMES
from .logits import Reference, causal_attention, layer_norm, linear, tensor_of
from .source import Checkpoint
from .weights import build_config, build_model, same

# Field -> types of its value.
NANOGPT_CONFIG = {
    "n_layer": (int,),
    "n_head": (int,),
    "n_embd": (int,),
    "block_size": (int,),
    "bias": (bool,),
    "vocab_size": (int,),
    "dropout": (float, int),
}
# By our names, the first is the default: what nanoGPT has had since June 2023, and what it had before. Neither names
# nor shapes tell which one a checkpoint was trained with.
ACTIVATIONS = ("gelu", "gelu_pytorch_tanh")
EMBEDDING, HEAD = "transformer.wte.weight", "lm_head.weight"


def read_nanogpt(checkpoint: Checkpoint, activation: str = ACTIVATIONS[0]) -> tuple[GPTScratchForCausalLM, Reference]:
    """The model of a checkpoint and its measure.

    Raises:
        `ConversionError`: as `convert_nanogpt_checkpoint`, or there are weights alone.
    """
    state_dict, sizes = checkpoint.tensors, checkpoint.model_args
    if sizes is None:
        raise ConversionError(
            f"{checkpoint.path} has no model_args, which say how many heads there are: convert the whole ckpt.pt that "
            "nanoGPT writes"
        )
    model = convert_nanogpt_checkpoint(state_dict, sizes, activation)
    return model, partial(nanogpt_logits, state_dict, sizes, activation)


def convert_nanogpt_checkpoint(
    state_dict: dict[str, torch.Tensor], model_args: dict, activation: str = ACTIVATIONS[0]
) -> GPTScratchForCausalLM:
    """The model with the weights of a nanoGPT checkpoint, copied in their own dtype, in evaluation mode.

    Args:
        state_dict: the tensors by nanoGPT's names, linear weights of shape `(out_features, in_features)`; the masks
            of old versions (`attn.bias`) may be there. Without a head, or with one that equals the embedding, the
            model is tied.
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
    masks = {
        f"transformer.h.{layer}.attn.bias": (1, 1, config.max_position_embeddings, config.max_position_embeddings)
        for layer in range(config.num_hidden_layers)
    }
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
