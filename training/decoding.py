"""Linear layers laid out for writing token by token on a CPU, which reads every weight once for each token."""

import torch
from torch import nn

from modeling_gpt_scratch import GPTScratchForCausalLM

ROWS = 8  # that the blocks are best for; those for one row are no faster with one, and half as fast with eight


class PackedLinear(nn.Module):
    """A linear layer whose weight is held in oneDNN's blocks alone. It computes, and neither trains nor is saved.

    `nn.Linear` with one row goes to MKL, whose matrix-vector product runs on one core alone; oneDNN takes all.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        # Opaque: whoever trains or saves the layer is stopped by torch, instead of finding no weight in it.
        self.register_buffer("packed", torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(hidden_states, self.packed, self.bias, "none", [], None)


def pack_for_decoding(model: nn.Module) -> None:
    """Lays out our model's linear layers for decoding, in place, where that is faster: in float32 on a CPU.

    The plain weights are given up, but for a head's that is tied to the embedding. Only our own model is changed: the
    code of others may ask a linear layer for its weight.
    """
    if not isinstance(model, GPTScratchForCausalLM) or not can_pack(model.lm_head.weight):
        return
    linears = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    for name in list(linears):
        model.set_submodule(name, PackedLinear(linears.pop(name)))
    model.requires_grad_(False)  # torch knows no gradient through the packed layers, and would only warn


def can_pack(weight: torch.Tensor) -> bool:
    """Whether PyTorch can lay out a weight so: its builds for other processors may come without oneDNN."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        # What torch.compile writes for frozen weights; there is no public name for them that does not compile.
        and all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    )
