"""How much of the device a run uses: the model's arithmetic per token, and what the device can do, measured."""

import time

import torch

from modeling_gpt_scratch import GPTScratchConfig

from .plan import block_matrix_parameters


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
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))

    def timed_product() -> float:
        started_at = time.perf_counter()
        torch.matmul(left, right)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - started_at

    timed_product()  # starts the library that multiplies, which is slow once
    fastest, stop_at = timed_product(), time.perf_counter() + seconds
    while time.perf_counter() < stop_at:
        fastest = min(fastest, timed_product())
    return 2 * size**3 / fastest
