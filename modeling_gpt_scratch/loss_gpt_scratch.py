"""
The loss of the language model in chunks of rows, so that the logits of all tokens are never held at once.

Shapes:  B  batch_size      C  hidden_size    N  predictions that have a target row, B x T
         T  tokens          V  vocab_size     n  rows of a chunk
"""

import torch
import torch.nn.functional as F
from torch import nn

# 128 MiB in fp32: enough for matrix products at full speed and for few additions to the weight's gradient, which is
# larger still; little beside the activations.
LOGITS_PER_CHUNK = 2**25
IGNORED = -100  # a label that is not counted


def can_be_taken_apart(head: nn.Module) -> bool:
    """Whether multiplying by `head.weight` does all that calling the head would.

    It does not where the head has a bias, is an adapter, has hooks (offloading brings the weight in by one), or where
    its weight is held in shards (tensor parallelism, FSDP, ZeRO-3) or quantized.
    """
    hooks = (head._forward_pre_hooks, head._forward_hooks, head._backward_pre_hooks, head._backward_hooks)
    return (
        type(head) is nn.Linear
        and "forward" not in vars(head)  # what Accelerate puts its hooks around
        and not any(hooks)
        and head.bias is None
        and type(head.weight) is nn.Parameter
        and head.weight.shape == (head.out_features, head.in_features)
        and head.weight.device.type != "meta"
    )


def chunked_causal_lm_loss(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.LongTensor | None = None,
    shift_labels: torch.LongTensor | None = None,
    num_items_in_batch: int | torch.Tensor | None = None,
) -> torch.Tensor:
    """Next-token cross-entropy in nats per counted token, from hidden states and the head's weight.

    Equal to the library's `ForCausalLMLoss` on `hidden_states @ weight.T`, with the logits of a few rows at a time.

    Args:
        hidden_states (`torch.Tensor` of shape `(batch_size, sequence_length, hidden_size)`).
        weight (`torch.Tensor` of shape `(vocab_size, hidden_size)`).
        labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`): unshifted; -100 is not counted.
        shift_labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`): already shifted; used instead of
            `labels` where given.
        num_items_in_batch (`int` or `torch.Tensor`, *optional*): what the sum is divided by; the number of counted
            tokens where it is `None`.
    """
    if shift_labels is None:
        shift_labels = F.pad(labels, (0, 1), value=IGNORED)[..., 1:]  # (B, T)
    targets = shift_labels.reshape(-1).to(hidden_states.device)  # (N,)
    if num_items_in_batch is None:
        num_items_in_batch = (targets != IGNORED).sum()
    divisor = torch.as_tensor(num_items_in_batch, dtype=torch.float32, device=targets.device)
    if not torch.is_grad_enabled():  # not visible to an autograd function, which would compute unwanted gradients
        hidden_states, weight = hidden_states.detach(), weight.detach()
    return _ChunkedCrossEntropy.apply(hidden_states.reshape(targets.shape[0], -1), weight, targets, divisor)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of a linear head, summed over rows and divided, without ever holding all logits.

    The gradients are computed together with the loss, chunk by chunk, because each chunk's logits are at hand then;
    `backward` only scales them. Memory: one chunk of logits instead of three times all of them.

    The matrix products are made in the type that autocast asks for, or the inputs', as in the full path; what they add
    up to is kept in fp32.
    """

    @staticmethod
    def forward(
        ctx, hidden_states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, divisor: torch.Tensor
    ) -> torch.Tensor:
        wants_hidden_gradient, wants_weight_gradient, *_ = ctx.needs_input_grad
        ctx.dtypes = hidden_states.dtype, weight.dtype
        hidden_gradient = weight_gradient = None
        if wants_hidden_gradient:
            hidden_gradient = torch.empty_like(hidden_states, dtype=torch.float32)  # (N, C)
        loss = torch.zeros((), dtype=torch.float32, device=hidden_states.device)

        device_type = hidden_states.device.type
        autocast = torch.is_autocast_enabled(device_type)
        dtype = torch.get_autocast_dtype(device_type) if autocast else hidden_states.dtype
        weight = weight.to(dtype)
        rows_per_chunk = max(1, LOGITS_PER_CHUNK // weight.shape[0])
        scale, rest = 1 / divisor, torch.ones_like(divisor)  # what is applied here, and what in `backward`
        if dtype == torch.float16:
            # The full path's gradients come multiplied by the loss scale, which `backward` alone knows. Here they are
            # made as large as fp16 can hold when a chunk's rows all add up.
            largest_sum = hidden_states.detach().abs().amax().float() * min(rows_per_chunk, len(targets))
            scale = (2.0**15 / largest_sum).clamp(max=2.0**10)
            rest = 1 / (scale * divisor)
        for start in range(0, hidden_states.shape[0], rows_per_chunk):
            chunk = slice(start, start + rows_per_chunk)
            rows = hidden_states[chunk].to(dtype)  # (n, C)
            logits = F.linear(rows, weight).float()  # (n, V)
            counted = (targets[chunk] != IGNORED).unsqueeze(1)  # (n, 1)
            index = targets[chunk].unsqueeze(1).masked_fill(~counted, 0)  # (n, 1)
            target_logits = logits.gather(1, index)  # (n, 1)
            # From logits to softmax to gradient in place: new tensors of this size cost more time than the arithmetic.
            largest = logits.amax(dim=1, keepdim=True)  # (n, 1)
            exponentials = logits.sub_(largest).exp_()  # (n, V)
            total = exponentials.sum(dim=1, keepdim=True)  # (n, 1)
            loss += ((total.log() + largest - target_logits) * counted).sum()
            if not (wants_hidden_gradient or wants_weight_gradient):
                continue
            # d loss / d logits = softmax(logits) - one_hot(target), and 0 in rows that are not counted.
            row_scale = counted * scale  # (n, 1)
            gradient = exponentials.mul_(row_scale / total).scatter_add_(1, index, -row_scale).to(dtype)  # (n, V)
            del logits, exponentials  # in 16 bits they are no longer needed
            if wants_hidden_gradient:
                hidden_gradient[chunk] = gradient @ weight
            if wants_weight_gradient and weight_gradient is None:
                weight_gradient = (gradient.T @ rows).float()  # (V, C)
            elif wants_weight_gradient and dtype == torch.float32:
                weight_gradient.addmm_(gradient.T, rows)
            elif wants_weight_gradient:
                weight_gradient += gradient.T @ rows
        ctx.save_for_backward(hidden_gradient, weight_gradient, rest)
        return loss / divisor

    @staticmethod
    def backward(ctx, loss_gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        if torch.is_grad_enabled():  # with `create_graph=True`; what was computed in `forward` has no graph
            raise RuntimeError("the loss of skip_logits=True has no second derivatives: leave skip_logits out for them")
        *gradients, rest = ctx.saved_tensors
        factor = loss_gradient * rest
        scaled = (
            None if gradient is None else (gradient * factor).to(dtype)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        )
        return *scaled, None, None
