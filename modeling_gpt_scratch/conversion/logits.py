"""
What a conversion is measured by: the logits of the result against those of the source.

The layers at the end are the parts of the formats' own passes: written out in fp32 over a source's own tensors.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from ..model_folder import logits_in_fp32
from .checks import ConversionError

# Relative to the largest logit, because rounding errors grow with the numbers. Two correct fp32 passes over 12 layers
# differ by 5e-7 to 4e-6 of it (random weights, from GPT-2's small ones to some with outliers in the thousands); the
# least visible mistake, the exact GELU instead of its tanh form, by 3e-4.
LOGITS_TOLERANCE = 3e-5
# What logits are measured against: from ids of shape `(batch_size, sequence_length)` to fp32 logits of shape
# `(batch_size, sequence_length, vocab_size)`; of a classifier `(batch_size, number of classes)`.
Reference = Callable[[torch.LongTensor], torch.FloatTensor]


@dataclass(frozen=True)
class Reading:
    """A source as our model.

    Attributes:
        model: in evaluation mode, its weights those of the source.
        reference: what its logits are measured against.
        remarks: what the source does not say and was assumed, or says and was left aside, a sentence each.
    """

    model: PreTrainedModel
    reference: Reference
    remarks: tuple[str, ...] = ()


def model_logits(model: PreTrainedModel, input_ids: torch.LongTensor) -> torch.FloatTensor:
    """[`logits_in_fp32`] of a model, as a [`Reference`]."""
    # Every token counts, which classifiers must be told of several rows.
    return logits_in_fp32(model, {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)})


@torch.no_grad()
def logits_difference(model: PreTrainedModel, reference: Reference) -> tuple[float, float]:
    """The largest absolute difference between the model's logits and the reference's, and the largest of the latter.

    Args:
        model: in evaluation mode; computes in fp32.
        reference: gives the source's logits.
    """
    length = min(128, model.config.max_position_embeddings)
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(model.config.vocab_size, (2, length), generator=generator)
    expected = reference(input_ids)
    return (model_logits(model, input_ids) - expected).abs().max().item(), expected.abs().max().item()


def compare_logits(model: PreTrainedModel, reference: Reference) -> float:
    """The first of [`logits_difference`], if it is what rounding explains.

    Raises:
        `ConversionError`: the reference's logits are not finite, or the difference exceeds `LOGITS_TOLERANCE` times
            the largest of them.
    """
    difference, scale = logits_difference(model, reference)
    if not math.isfinite(scale):
        raise ConversionError("The checkpoint's logits are not finite: it holds NaN or too large numbers")
    if not difference <= LOGITS_TOLERANCE * scale:
        raise ConversionError(
            f"The model's logits differ from the checkpoint's by up to {difference:.2e}, with logits of up to "
            f"{scale:.2e}: rounding explains {LOGITS_TOLERANCE * scale:.2e}. Nothing was written; the checkpoint is of "
            "another architecture than its format's, or the conversion is wrong"
        )
    return difference


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
