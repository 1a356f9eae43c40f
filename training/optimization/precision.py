"""A recipe's precision, as settings of the device at hand; and which type that device multiplies fast."""

import torch

from configuration.recipe import Recipe

from ..errors import InputError
from .matmul import matmul_rates

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# bf16 rounds more, so it must be worth it: so many times as fast. It also makes the choice the same in each run on a
# device that multiplies both at about one rate.
WORTHWHILE = 1.25


def precision_arguments(precision: str) -> dict[str, bool]:
    """The `TrainingArguments` that give this precision on the device at hand.

    Raises:
        InputError: the device does not have it.
    """
    if torch.cuda.is_available():
        if precision == "bf16" and not torch.cuda.is_bf16_supported():
            raise InputError("precision is bf16, which this GPU does not have: use fp16, tf32 or fp32")
        return {"bf16": precision == "bf16", "fp16": precision == "fp16", "tf32": precision == "tf32"}
    on_cpu = not torch.accelerator.is_available()
    if precision == "tf32" or (precision == "fp16" and on_cpu):
        raise InputError(f"precision is {precision}, which this device does not have: use fp32 or bf16")
    return {"bf16": precision == "bf16", "fp16": precision == "fp16", "use_cpu": on_cpu}


def autocast_dtype(precision: str) -> torch.dtype | None:
    """The type of matrix products under autocast; `None` where there is none."""
    return DTYPES[precision] if precision in ("bf16", "fp16") else None


def choose_muon_dtype(recipe: Recipe, device: torch.device, recorded: str | None) -> str | None:
    """The type in which Muon orthogonalises, a name in `DTYPES`; `None` where the recipe does without Muon.

    Args:
        device: on which fp32 and bf16 are timed.
        recorded: the choice with which the run began, if it has begun.
    """
    if recipe.optimization.muon_learning_rate is None or recorded is not None:
        return recorded
    rates = matmul_rates(device, (torch.float32, torch.bfloat16), recipe.matrix_width())
    return "bf16" if rates[torch.bfloat16] > WORTHWHILE * rates[torch.float32] else "fp32"


def slow_precision(recipe: Recipe, device: torch.device) -> str | None:
    """One line for whoever has asked for 16 bits on a device that multiplies fp32 faster, else `None`."""
    precision = recipe.optimization.precision
    dtype = autocast_dtype(precision)
    if dtype is None:
        return None
    rates = matmul_rates(device, (torch.float32, dtype), recipe.matrix_width())
    if rates[dtype] >= rates[torch.float32]:
        return None
    return (
        f"precision is {precision}, but this device multiplies {rates[dtype] / 1e9:.3g} GFLOP/s in {precision} and "
        f"{rates[torch.float32] / 1e9:.3g} in fp32: fp32 is faster"
    )


def set_cpu_matmul_precision(precision: str) -> None:
    """How CPUs multiply fp32 matrices (`torch.set_float32_matmul_precision`), for the whole process.

    Raises:
        InputError: it would act on an accelerator, whose setting is `precision: tf32`.
    """
    if not torch.accelerator.is_available():
        torch.set_float32_matmul_precision(precision)
    elif precision != "highest":
        raise InputError(
            f"cpu_matmul_precision is {precision}, but this run is on no CPU: leave it out, or set precision to tf32"
        )
