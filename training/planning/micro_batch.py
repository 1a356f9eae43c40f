"""
`per_device_train_batch_size: auto`: as many windows at a time as the device holds.

Only divisors of what a process has to do in one step are tried, so the global batch stays exactly as the recipe says.
The choice is recorded in run.json, and a resumed run keeps to it.
"""

import gc
import os
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.utils import gather_object

from configuration.pretraining import PretrainingRecipe
from modeling_gpt_scratch import GPTScratchForCausalLM

from ..errors import InputError
from ..optimization.initialization import built_config
from ..optimization.precision import autocast_dtype
from ..optimization.steps import accumulation_steps
from ..processes import wants_fsdp
from .memory import FP32, Memory, estimate_memory

# What comes and goes around the steps: the loader's batches, communication, gaps between allocations.
RESERVE = 2**28
# Share of a CPU's free memory that a run may plan for: what the C library's allocator keeps is not in the estimate, and
# the system kills who takes too much.
CPU_SHARE = 0.5


def choose_micro_batch(recipe: PretrainingRecipe, processes: int, device: torch.device, recorded: int | None) -> int:
    """Windows that each process takes at a time: the recipe's number, else the recorded one, else the largest that
    fits.

    Args:
        recipe: the run.
        processes: how many share the batch; they agree on what fits in all of them.
        device: this process's own, on which it tries.
        recorded: the choice with which the run began, if it has begun.

    Raises:
        InputError: `tokens_per_step` is no whole number of windows for each process, not even one window fits, or the
            model is to be sharded.
    """
    asked = recipe.training["per_device_train_batch_size"]
    if asked != "auto":
        return asked
    length = recipe.model.max_position_embeddings
    windows = accumulation_steps(recipe.pretraining.tokens_per_step, 1, length, processes)
    if recorded is not None and windows % recorded == 0:  # else the batch was allowed to change
        return recorded
    if wants_fsdp(recipe.training):
        raise InputError(
            "per_device_train_batch_size is auto, which tries the whole model on one device, but FSDP leaves it only a "
            "part: set a number"
        )
    found = largest_that_fits(divisors(windows), lambda micro_batch: fits(recipe, micro_batch, processes, device))
    if torch.distributed.is_initialized():  # not for a plan of so many processes
        found = min(gather_object([found]))
    if found == 0:
        raise InputError(
            "not even one window fits in this device's memory: use a smaller model or fewer positions, or set "
            "gradient_checkpointing"
        )
    return found


def divisors(number: int) -> list[int]:
    """All divisors, the largest first."""
    return [candidate for candidate in range(number, 0, -1) if number % candidate == 0]


def largest_that_fits(candidates: list[int], fits: Callable[[int], bool]) -> int:
    """The first of the candidates that fits; 0 if none does."""
    return next((candidate for candidate in candidates if fits(candidate)), 0)


def fits(recipe: PretrainingRecipe, micro_batch: int, processes: int, device: torch.device) -> bool:
    """Whether a training step fits: tried on an accelerator, estimated on a CPU, where trying could end the process."""
    if device.type != "cpu":
        return step_fits(recipe, micro_batch, processes, device)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun: processes that share this memory
    return recipe_memory(recipe, micro_batch).total + RESERVE <= CPU_SHARE * available_memory() / here


def recipe_memory(recipe: PretrainingRecipe, micro_batch: int) -> Memory:
    """[`estimate_memory`] of a recipe on the device at hand."""
    on_cpu = not torch.accelerator.is_available()
    autocast = autocast_dtype(recipe.optimization.precision) is not None
    return estimate_memory(
        built_config(recipe),
        micro_batch,
        autocast=autocast,
        muon=recipe.optimization.muon_learning_rate is not None,
        gradient_checkpointing=recomputes(recipe),
        scores_in_memory=on_cpu and recipe.model.attention_dropout > 0,
        mask_bytes=(2 if autocast else 4) if on_cpu else 1,
    )


def recomputes(recipe: PretrainingRecipe) -> bool:
    """Whether blocks are recomputed in the backward pass; newer libraries have a second name for it."""
    return any(bool(recipe.training.get(f"{name}_checkpointing")) for name in ("gradient", "activation"))


def step_fits(recipe: PretrainingRecipe, micro_batch: int, processes: int, device: torch.device) -> bool:
    """Makes two training steps on random tokens. False if memory runs out.

    The gradients are kept between the steps, as they are while a batch is accumulated, and AdamW trains everything,
    which takes no less than the recipe's optimizers.
    """
    config = built_config(recipe)
    dtype = autocast_dtype(recipe.optimization.precision)
    try:
        model = GPTScratchForCausalLM(config).to(device).train()
        if recomputes(recipe):
            model.gradient_checkpointing_enable()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        # Data parallelism keeps a second copy of the gradients.
        copies = model.num_parameters() * FP32 if processes > 1 else 0
        reserve = torch.empty(RESERVE + copies, dtype=torch.uint8, device=device)
        ids = torch.randint(config.vocab_size, (micro_batch, config.max_position_embeddings), device=device)
        for _ in range(2):
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                loss = model(input_ids=ids, shift_labels=ids, use_cache=False, skip_logits=True).loss
            loss.backward()
            optimizer.step()
        loss.item()  # waits for the device
    except torch.OutOfMemoryError:
        return False
    finally:
        model = optimizer = reserve = loss = None  # noqa: F841  (before the memory is given back)
        gc.collect()
        if device.type != "cpu":
            torch.accelerator.memory.empty_cache()
    return True


def available_memory() -> int:
    """Bytes that this machine can still give to processes, and no more than a container's limit."""
    limits = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        limits += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        limits += [int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8"))]
    except (OSError, ValueError):  # no Linux, no container, or one without a limit ("max")
        pass
    return min(limits) if limits else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
