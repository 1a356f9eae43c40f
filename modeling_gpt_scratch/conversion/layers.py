"""Layers written out in fp32 over a source's own tensors: the parts of the passes that conversions are measured by."""

import torch
import torch.nn.functional as F


def tensor_of(state_dict: dict[str, torch.Tensor], name: str) -> torch.Tensor | None:
    """The tensor in fp32; `None` where the source has none (a missing bias)."""
    return state_dict[name].float() if name in state_dict else None


def linear(state_dict: dict[str, torch.Tensor], name: str, features: torch.Tensor) -> torch.Tensor:
    """`name.weight` of shape `(out_features, in_features)`, and `name.bias` where there is one."""
    return F.linear(features, tensor_of(state_dict, f"{name}.weight"), tensor_of(state_dict, f"{name}.bias"))


def layer_norm(state_dict: dict[str, torch.Tensor], scale: str, shift: str, features: torch.Tensor) -> torch.Tensor:
    """LayerNorm over the last dimension, by the names of its two vectors; the shift may be missing."""
    return F.layer_norm(
        features, features.shape[-1:], tensor_of(state_dict, scale), tensor_of(state_dict, shift), eps=1e-5
    )


def causal_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Every position's mixture of the values up to its own, head by head; all of shape `(batch, length, width)`."""
    length = query.shape[1]
    future = torch.ones(length, length, dtype=torch.bool).triu(diagonal=1)
    query, key, value = (
        features.unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (batch, heads, length, head size)
        for features in (query, key, value)
    )
    scores = query @ key.mT / key.shape[-1] ** 0.5  # (batch, heads, length, length)
    weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
    return (weights @ value).transpose(1, 2).flatten(2)
