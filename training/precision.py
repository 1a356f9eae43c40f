"""A recipe's precision, as settings of the device at hand."""

import torch

from .errors import InputError


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
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


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
