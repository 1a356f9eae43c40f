"""How much of the device a run uses: the model's arithmetic per token, and what the device can do, measured."""

import time
from collections.abc import Collection

import torch

from modeling_gpt_scratch import GPTScratchConfig

from .memory import block_matrix_parameters


def model_flops_per_token(config: GPTScratchConfig) -> float:
    """Floating-point operations of one training token, forward and backward, by the usual estimate: 6N + 12·L·C·T.

    N are the weights of matrix products: those of the blocks and of the head, but no embedding (it is looked up). The
    second term is attention over T = max_position_embeddings tokens, not halved for causality. Recomputed activations
    do not count. This is the numerator of "model FLOPs utilization", MFU.

    Source: PaLM (arXiv:2204.02311), appendix B; nanoGPT's `estimate_mfu` counts biases and norms too (0.1 %).
    """
    layers, width = config.num_hidden_layers, config.hidden_size
    weights = block_matrix_parameters(config) + width * config.vocab_size
    return 6 * weights + 12 * layers * width * config.max_position_embeddings


def measured_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Floating-point operations a second of a large square matrix product, the best seen within `seconds`.

    Measured, because a data sheet's figure does not know this machine's clocks, power limit or thread count. TF32 is
    measured where it is switched on. The random state of training is not touched.
    """
    size = 1024 if device.type == "cpu" else 8192
    return _product_rates(device, [dtype], (size, size), seconds)[dtype]


def matmul_rates(
    device: torch.device, dtypes: Collection[torch.dtype], width: int, seconds: float = 0.05
) -> dict[torch.dtype, float]:
    """What `measured_peak` is, for products of a model of this width, in several types.

    Args:
        width: of four matrices that are multiplied together. No more than 256 on CPUs, which reach their rate there:
            short products are measured well also where other programs interrupt.
        seconds: to measure in, but each type is timed at least once.
    """
    width = min(width, 256) if device.type == "cpu" else width
    return _product_rates(device, dtypes, (4, width, width), seconds)


def _product_rates(
    device: torch.device, dtypes: Collection[torch.dtype], shape: tuple[int, ...], seconds: float
) -> dict[torch.dtype, float]:
    """Rates of products of square matrices. The types take turns, so that a drift of the machine hits all."""
    generator = torch.Generator(device).manual_seed(0)
    matrices = torch.randn(shape, device=device, generator=generator)
    factors = {dtype: matrices.to(dtype) for dtype in dtypes}

    def timed_product(dtype: torch.dtype) -> float:
        started_at = time.perf_counter()
        torch.matmul(factors[dtype], factors[dtype])
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - started_at

    for dtype in dtypes:
        timed_product(dtype)  # starts the library that multiplies, which is slow once
    fastest = {dtype: timed_product(dtype) for dtype in dtypes}
    stop_at = time.perf_counter() + seconds
    while time.perf_counter() < stop_at:
        fastest = {dtype: min(fastest[dtype], timed_product(dtype)) for dtype in dtypes}
    return {dtype: 2 * matrices.numel() * shape[-1] / fastest[dtype] for dtype in dtypes}
