"""What models are compared by: inputs, gradients, tolerances, names, and the library's GPT-2 with the same weights."""

import torch
from torch import nn
from transformers import Cache, GPT2Config, GPT2LMHeadModel
from transformers.utils import ModelOutput

from modeling_gpt_scratch import (
    GPTScratchForCausalLM,
    GPTScratchForSequenceClassification,
    GPTScratchForTokenClassification,
)
from modeling_gpt_scratch.modeling_gpt_scratch import CACHE_NAME

# float32 on CPU: logits of size 1 to 5, where other orders of summation differ by about 1e-6.
CLOSE = {"atol": 1e-5, "rtol": 0}
# Gradients of size 0.01 to 1, summed over all tokens: the same few units in the last place.
CLOSE_GRADIENTS = {"atol": 1e-6, "rtol": 1e-4}
# The linear layers of a block.
PROJECTIONS = {f"self_attn.{letter}_proj" for letter in "qkvo"} | {"mlp.fc_in", "mlp.fc_out"}
# The classifiers, and the id that they are padded with.
HEADS = [GPTScratchForSequenceClassification, GPTScratchForTokenClassification]
PAD = 0
GREEDY = {"max_new_tokens": 12, "do_sample": False}


def random_ids(*shape: int) -> torch.LongTensor:
    return torch.randint(0, 128, shape)


def pack(lengths: list[int]) -> torch.LongTensor:
    """The position ids of documents of these lengths in one row."""
    return torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)


def cache_of(outputs: ModelOutput) -> Cache | None:
    """The cache that a model returns, under the name that this release of the library gives it."""
    return getattr(outputs, CACHE_NAME)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def loss_and_gradients(model: nn.Module, **inputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), gradients(model)


def assert_same_gradients(actual: dict, expected: dict, **tolerance) -> None:
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            actual[name], gradient, **tolerance or CLOSE_GRADIENTS, msg=lambda message, name=name: f"{name}: {message}"
        )


def as_gpt2(tensors: dict[str, torch.Tensor], num_layers: int) -> dict[str, torch.Tensor]:
    """Our tensors (weights or gradients) under GPT-2's names: qkv fused, matrices transposed (GPT-2 has Conv1D)."""
    result = {
        "transformer.wte.weight": tensors["model.embed_tokens.weight"],
        "transformer.wpe.weight": tensors["model.embed_positions.weight"],
        "transformer.ln_f.weight": tensors["model.norm.weight"],
        "transformer.ln_f.bias": tensors["model.norm.bias"],
        "lm_head.weight": tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"]),
    }
    for layer in range(num_layers):
        ours, theirs = f"model.layers.{layer}", f"transformer.h.{layer}"
        for our_name, their_name in (
            ("self_attn.o_proj", "attn.c_proj"),
            ("mlp.fc_in", "mlp.c_fc"),
            ("mlp.fc_out", "mlp.c_proj"),
        ):
            result[f"{theirs}.{their_name}.weight"] = tensors[f"{ours}.{our_name}.weight"].T
            result[f"{theirs}.{their_name}.bias"] = tensors[f"{ours}.{our_name}.bias"]
        for our_name, their_name in (("input_layernorm", "ln_1"), ("post_attention_layernorm", "ln_2")):
            for kind in ("weight", "bias"):
                result[f"{theirs}.{their_name}.{kind}"] = tensors[f"{ours}.{our_name}.{kind}"]
        qkv = [f"{ours}.self_attn.{letter}_proj" for letter in "qkv"]
        result[f"{theirs}.attn.c_attn.weight"] = torch.cat([tensors[f"{name}.weight"].T for name in qkv], dim=1)
        if f"{qkv[0]}.bias" in tensors:
            result[f"{theirs}.attn.c_attn.bias"] = torch.cat([tensors[f"{name}.bias"] for name in qkv])
    return result


def gpt2_with_the_weights_of(model: GPTScratchForCausalLM) -> GPT2LMHeadModel:
    config = model.config
    gpt2_config = GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.max_position_embeddings,
        n_embd=config.hidden_size,
        n_layer=config.num_hidden_layers,
        n_head=config.num_attention_heads,
        tie_word_embeddings=config.tie_word_embeddings,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    gpt2 = GPT2LMHeadModel(gpt2_config).eval()
    weights = as_gpt2(model.state_dict(), config.num_hidden_layers)
    if not config.qkv_bias:
        zeros = torch.zeros(3 * config.hidden_size)
        weights |= {name: zeros for name in gpt2.state_dict() if name.endswith("c_attn.bias")}
    gpt2.load_state_dict(weights)
    return gpt2


def generate(model, inputs: dict, **options) -> torch.LongTensor:
    """As `GREEDY` unless options say otherwise, and from a seed of its own."""
    torch.manual_seed(1)
    return model.generate(**inputs, **GREEDY | options)
