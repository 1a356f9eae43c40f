"""What the device at hand multiplies, measured."""

import time
from collections.abc import Collection

import torch


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
