"""
GPT-2 as the Transformers library stores it, in both directions.

Its projections keep their matrices as `(in_features, out_features)`, and query, key and value are one of them. Logits
are measured against the library's own `GPT2LMHeadModel`.
"""

import copy
from functools import partial
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.activations import ACT2FN

from ..configuration_gpt_scratch import GPTScratchConfig
from ..modeling_gpt_scratch import GPTScratchForCausalLM
from .checks import ConversionError
from .generation import limit_length, tokens_within
from .logits import Reading, model_logits
from .source import Checkpoint
from .weights import JOINED, build_config, build_model, joined_weights, with_head

_ATTENTION = "model.layers.N.self_attn"
# GPT-2's name -> ours, with the prefix that the library's language model gives all but its head.
GPT2_NAMES = {
    "transformer.wte.weight": "model.embed_tokens.weight",
    "transformer.wpe.weight": "model.embed_positions.weight",
    "transformer.h.N.ln_1.weight": "model.layers.N.input_layernorm.weight",
    "transformer.h.N.ln_1.bias": "model.layers.N.input_layernorm.bias",
    "transformer.h.N.attn.c_attn.weight": JOINED.join(f"{_ATTENTION}.{name}_proj.weight" for name in "qkv"),
    "transformer.h.N.attn.c_attn.bias": JOINED.join(f"{_ATTENTION}.{name}_proj.bias" for name in "qkv"),
    "transformer.h.N.attn.c_proj.weight": f"{_ATTENTION}.o_proj.weight",
    "transformer.h.N.attn.c_proj.bias": f"{_ATTENTION}.o_proj.bias",
    "transformer.h.N.ln_2.weight": "model.layers.N.post_attention_layernorm.weight",
    "transformer.h.N.ln_2.bias": "model.layers.N.post_attention_layernorm.bias",
    "transformer.h.N.mlp.c_fc.weight": "model.layers.N.mlp.fc_in.weight",
    "transformer.h.N.mlp.c_fc.bias": "model.layers.N.mlp.fc_in.bias",
    "transformer.h.N.mlp.c_proj.weight": "model.layers.N.mlp.fc_out.weight",
    "transformer.h.N.mlp.c_proj.bias": "model.layers.N.mlp.fc_out.bias",
    "transformer.ln_f.weight": "model.norm.weight",
    "transformer.ln_f.bias": "model.norm.bias",
    "lm_head.weight": "lm_head.weight",
}
PREFIX = "transformer."
# Endings of the matrices that are stored as (in_features, out_features).
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def read_gpt2(checkpoint: Checkpoint) -> Reading:
    """The model of a checkpoint and its measure."""
    state_dict, config = checkpoint.tensors, checkpoint.read_config()
    model = convert_gpt2_checkpoint(state_dict, config)
    return Reading(model, partial(model_logits, gpt2_reference(state_dict, config)))


def convert_gpt2_checkpoint(state_dict: dict[str, torch.Tensor], gpt2_config: dict) -> GPTScratchForCausalLM:
    """The model with the weights of a GPT-2 language model, copied in their own dtype, in evaluation mode.

    Args:
        state_dict: the tensors by their names in the library, with or without the prefix `transformer.`; the blocks'
            masks (`attn.bias`, `attn.masked_bias`) may be there and are not used. A tied model may lack its head.
        gpt2_config: the content of GPT-2's `config.json`.

    Raises:
        `ConversionError`: a setting or a tensor that our model does not have, or what is missing or misshapen.
    """
    config = build_config(state_dict, **fields_of_gpt2(gpt2_config))
    prefix = _prefix(state_dict)
    names = {
        prefix + name.removeprefix(PREFIX) if name.startswith(PREFIX) else name: GPT2_NAMES[name] for name in GPT2_NAMES
    }
    masks = {}
    for layer in range(config.num_hidden_layers):
        masks[f"{prefix}h.{layer}.attn.bias"] = (1, 1, config.max_position_embeddings, config.max_position_embeddings)
        masks[f"{prefix}h.{layer}.attn.masked_bias"] = ()
    state_dict = with_head(state_dict, f"{prefix}wte.weight", config.tie_word_embeddings)
    return build_model(config, state_dict, names, ignored=masks, transposed=TRANSPOSED)


def fields_of_gpt2(gpt2_config: dict) -> dict[str, Any]:
    """Our configuration's fields for the model that a `config.json` of GPT-2 describes.

    Raises:
        `ConversionError`: it describes no valid GPT-2, or one with a setting that our model does not have.
    """
    source = _read_config(gpt2_config)
    return {
        "vocab_size": source.vocab_size,
        "hidden_size": source.n_embd,
        "num_hidden_layers": source.n_layer,
        "num_attention_heads": source.n_head,
        "intermediate_size": source.n_inner,
        "max_position_embeddings": source.n_positions,
        # The same function; the other form writes its formula out, which is slower.
        "hidden_act": "gelu_pytorch_tanh" if source.activation_function == "gelu_new" else source.activation_function,
        "qkv_bias": True,
        "embedding_dropout": source.embd_pdrop,
        "attention_dropout": source.attn_pdrop,
        "residual_dropout": source.resid_pdrop,
        "layer_norm_eps": source.layer_norm_epsilon,
        "initializer_range": source.initializer_range,
        "tie_word_embeddings": source.tie_word_embeddings,
        "use_cache": source.use_cache,
        "bos_token_id": tokens_within(source.vocab_size, source.bos_token_id),
        "eos_token_id": tokens_within(source.vocab_size, source.eos_token_id),
        "pad_token_id": tokens_within(source.vocab_size, source.pad_token_id),
    }


def gpt2_reference(state_dict: dict[str, torch.Tensor], gpt2_config: dict) -> GPT2LMHeadModel:
    """The library's own model with the tensors that `convert_gpt2_checkpoint` has accepted: the measure of it."""
    prefix = _prefix(state_dict)
    weights = {
        name if name == "lm_head.weight" else PREFIX + name.removeprefix(prefix): tensor
        for name, tensor in state_dict.items()
        if not name.endswith((".attn.bias", ".attn.masked_bias"))
    }
    config = _read_config(gpt2_config)
    return _assemble(config, with_head(weights, f"{PREFIX}wte.weight", config.tie_word_embeddings))


def fits_gpt2(config: GPTScratchConfig) -> bool:
    """Whether `to_gpt2` takes a model of this configuration: its MLP is four times as wide as the model."""
    return config.intermediate_size == 4 * config.hidden_size


def to_gpt2(model: GPTScratchForCausalLM) -> GPT2LMHeadModel:
    """The same model as the library's GPT-2, in its own dtype and in evaluation mode; weights are copies.

    Biases that our model lacks are zero there. How it writes (`generation_config`) stays as it is.

    Raises:
        `ConversionError`: the MLP is not four times as wide as the model, which programs that read GPT-2 assume.
    """
    config = model.config
    if not fits_gpt2(config):
        raise ConversionError(
            f"intermediate_size is {config.intermediate_size} with hidden_size {config.hidden_size}, but GPT-2's is "
            f"4 x hidden_size ({4 * config.hidden_size}), which readers of its format assume: such a "
            "model stays in the gpt-scratch format, or goes to llama.cpp by --to gguf"
        )
    target = GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.max_position_embeddings,
        n_ctx=config.max_position_embeddings,  # an old name of n_positions; some readers know only this one
        n_embd=config.hidden_size,
        n_layer=config.num_hidden_layers,
        n_head=config.num_attention_heads,
        # The name that readers of the format know.
        activation_function="gelu_new" if config.hidden_act == "gelu_pytorch_tanh" else config.hidden_act,
        embd_pdrop=config.embedding_dropout,
        attn_pdrop=config.attention_dropout,
        resid_pdrop=config.residual_dropout,
        layer_norm_epsilon=config.layer_norm_eps,
        initializer_range=config.initializer_range,
        tie_word_embeddings=config.tie_word_embeddings,
        use_cache=config.use_cache,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    weights = {
        name: (tensor.mT if name.endswith(TRANSPOSED) else tensor).contiguous()
        for name, tensor in joined_weights(model, GPT2_NAMES)
    }
    result = _assemble(target, weights)
    result.generation_config = copy.deepcopy(model.generation_config)
    limit_length(result.generation_config, config.max_position_embeddings)
    return result


def _assemble(config: GPT2Config, weights: dict[str, torch.Tensor]) -> GPT2LMHeadModel:
    with torch.device("meta"):
        model = GPT2LMHeadModel(config)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()  # assigning has put two parameters where one was shared
    return model.eval()


def _read_config(gpt2_config: dict) -> GPT2Config:
    """The library's configuration, after a look at what our model does not have."""
    try:
        # The model's own fields: the rest is about heads, tasks and saving.
        config = GPT2Config(**{name: gpt2_config[name] for name in GPT2Config.__annotations__ if name in gpt2_config})
    except StrictDataclassError as error:
        raise ConversionError(f"config.json describes no valid GPT-2: {error.__cause__ or error}") from error
    problems = [
        f"{name} is {getattr(config, name)}"
        for name, ours in (
            ("scale_attn_weights", True),
            ("scale_attn_by_inverse_layer_idx", False),
            ("add_cross_attention", False),
        )
        if getattr(config, name) != ours
    ]
    if config.activation_function not in ACT2FN:
        problems.append(f"activation_function is {config.activation_function!r}")
    if problems:
        raise ConversionError(f"config.json asks for what our model does not have: {'; '.join(problems)}")
    return config


def _prefix(state_dict: dict[str, torch.Tensor]) -> str:
    # OpenAI's own repository has the decoder's names, without the prefix that a language model puts before them.
    return PREFIX if any(name.startswith(PREFIX) for name in state_dict) else ""
