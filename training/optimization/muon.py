"""
Muon: momentum whose matrices are orthogonalised before they are added to the weights.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024 (https://kellerjordan.github.io/posts/muon/).
The arithmetic, the arguments and the saved state are those of `torch.optim.Muon`. What is not: the products are made in
the type that the caller chooses, since bf16, torch's only one, is many times slower than fp32 on processors without
instructions for it; matrices of one shape are multiplied together; and a sharded matrix is put together once a step,
not for each product.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

# A quintic whose slope at 0 is steep: five steps bring every singular value near 1, without converging to it.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# Elements that are orthogonalised together: enough to keep a GPU busy.
STACK_ELEMENTS = 2**22
SCRATCH = 20  # bytes that a step needs for each of them at most: in fp32, of square matrices
# By what the learning rate is multiplied for a matrix of (rows, columns).
ADJUSTMENTS = {
    # Jordan et al.: the update of a tall matrix changes its outputs as much as that of a square one.
    "original": lambda rows, columns: math.sqrt(max(1, rows / columns)),
    # Liu et al., "Muon is Scalable for LLM Training", 2025 (arXiv:2502.16982), section 2.2: the update's elements are
    # as large as AdamW's usually are, so that AdamW's learning rates and weight decay suit Muon.
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
}


def orthogonalize(
    matrices: torch.Tensor,
    dtype: torch.dtype,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
    steps: int = 5,
    eps: float = 1e-7,
) -> torch.Tensor:
    """Brings all singular values near 1 (to between about 0.5 and 1.5) and leaves the singular vectors alone.

    Newton-Schulz iteration: an odd polynomial of a matrix is that polynomial of its singular values.

    Args:
        matrices (`torch.Tensor` of shape `(count, rows, columns)`): they are not changed.
        dtype: in which the products are made.
        coefficients: of x, x³ and x⁵.
        steps: how often the polynomial is applied.
        eps: the smallest norm to divide by.

    Returns:
        `torch.Tensor` of the same shape, in `dtype`.
    """
    a, b, c = coefficients
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(dtype)  # the smaller of the two Gram matrices
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=eps)  # no singular value above 1
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(Optimizer):
    """`torch.optim.Muon`, with a choice of `dtype`; what one has saved the other loads.

    Args:
        params: matrices, whole or sharded (`DTensor`); or groups of them.
        lr, weight_decay: the decay is decoupled, as AdamW's.
        momentum, nesterov: of the gradients' moving average.
        ns_coefficients, eps, ns_steps: those of [`orthogonalize`].
        adjust_lr_fn: a name in `ADJUSTMENTS`; `None` is "original".
        dtype: in which matrices are orthogonalised. Part of the program's settings, not of the saved state.

    Raises:
        ValueError: a parameter is no matrix, or an argument is out of range.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = COEFFICIENTS,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        dtype: torch.dtype = torch.float32,
    ):
        for name, value in (("lr", lr), ("weight_decay", weight_decay), ("momentum", momentum)):
            if not value >= 0:
                raise ValueError(f"{name} is {value}, but must not be negative")
        if adjust_lr_fn is not None and adjust_lr_fn not in ADJUSTMENTS:
            raise ValueError(f"adjust_lr_fn is {adjust_lr_fn!r}, but must be one of {', '.join(ADJUSTMENTS)}")
        super().__init__(
            params,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "nesterov": nesterov,
                "ns_coefficients": ns_coefficients,
                "eps": eps,
                "ns_steps": ns_steps,
                "adjust_lr_fn": adjust_lr_fn,
            },
        )
        self.dtype = dtype
        for parameter in self._parameters():
            if parameter.ndim != 2:
                raise ValueError(f"a parameter has shape {tuple(parameter.shape)}, but Muon trains matrices only")

    def _parameters(self) -> Iterator[torch.nn.Parameter]:
        return (parameter for group in self.param_groups for parameter in group["params"])

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameters in stacks(parameter for parameter in group["params"] if parameter.grad is not None):
                self._step_together(parameters, group)
        return loss

    def _step_together(self, parameters: list[torch.nn.Parameter], group: dict) -> None:
        directions = torch.stack([_whole(self._direction(parameter, group)) for parameter in parameters])
        updates = orthogonalize(
            directions, self.dtype, group["ns_coefficients"], steps=group["ns_steps"], eps=group["eps"]
        )
        rate = group["lr"] * ADJUSTMENTS[group["adjust_lr_fn"] or "original"](*parameters[0].shape)
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(_sharded_as(parameter, update), alpha=-rate)

    def _direction(self, parameter: torch.nn.Parameter, group: dict) -> torch.Tensor:
        """Takes the gradient into the momentum; returns what is to be orthogonalised."""
        gradient, state = parameter.grad, self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        average = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(average, group["momentum"]) if group["nesterov"] else average


def stacks(parameters: Iterable[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    """Parts them into those of one shape, type and device, of no more than `STACK_ELEMENTS` together, but at least one.

    The parts depend on nothing but the parameters, so that a resumed run repeats the same products.
    """
    alike: dict[tuple, list[torch.nn.Parameter]] = {}
    for parameter in parameters:
        alike.setdefault((parameter.shape, parameter.dtype, parameter.device), []).append(parameter)
    for members in alike.values():
        count = max(1, STACK_ELEMENTS // members[0].numel())
        yield from (members[start : start + count] for start in range(0, len(members), count))


def _whole(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.full_tensor() if isinstance(matrix, DTensor) else matrix


def _sharded_as(parameter: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """This process's part of a matrix that all of them hold, without another exchange."""
    if not isinstance(parameter, DTensor):
        return matrix
    return distribute_tensor(matrix, parameter.device_mesh, parameter.placements, src_data_rank=None)
