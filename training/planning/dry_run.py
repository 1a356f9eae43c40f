"""`pretrain --dry_run`: what a recipe means and what it will need here. Nothing is written, no data is read."""

import torch

from configuration.pretraining import PretrainingRecipe

from ..errors import InputError
from ..optimization.initialization import built_config
from ..optimization.matmul import measured_peak
from ..optimization.precision import autocast_dtype, precision_arguments, set_cpu_matmul_precision, slow_precision
from ..optimization.schedules import build_schedule
from ..optimization.steps import accumulation_steps
from ..parent import check_sizes, in_words, positions_of_parent
from .flops import model_flops_per_token
from .memory import parameter_count
from .micro_batch import available_memory, choose_micro_batch, recipe_memory

# The share of the measured peak that a training step reaches. On CPU as measured with GPT-2 small; on GPUs a guess:
# 10 to 60 % are published for models of this size.
UTILIZATION = {"cpu": {"fp32": 0.8, "bf16": 0.4}}
GPU_UTILIZATION = 0.4


def print_plan(recipe: PretrainingRecipe, processes: int) -> None:
    """Prints the resolved recipe as YAML, and the plan in lines that begin with `#`.

    Raises:
        InputError: the batch is not a whole number of windows, the schedule does not fit, nothing fits in memory.
    """
    parent = [] if recipe.pretraining.init_from is None else [("parent", plan_of_parent(recipe))]
    print(recipe.dump())
    for name, text in [*parent, *plan_lines(recipe, processes)]:
        print(f"# {name + ':':12}{text}")


def plan_of_parent(recipe: PretrainingRecipe) -> str:
    """What becomes of the model that is continued, of which no more than its configuration is read."""
    positions = positions_of_parent(recipe, check_sizes(recipe))
    tokenizer = "its own" if recipe.data.tokenizer == recipe.pretraining.init_from else recipe.data.tokenizer
    return f"{recipe.pretraining.init_from}{in_words(positions)}; tokenizer: {tokenizer}"


def plan_lines(recipe: PretrainingRecipe, processes: int) -> list[tuple[str, str]]:
    """The plan as (what, text)."""
    config = built_config(recipe)
    length, tokens_per_step = config.max_position_embeddings, recipe.pretraining.tokens_per_step
    micro_batch = choose_micro_batch(recipe, processes, _device(), recorded=None)
    accumulation = accumulation_steps(tokens_per_step, micro_batch, length, processes)
    steps = recipe.training["max_steps"]
    memory = recipe_memory(recipe, micro_batch)
    lines = [
        ("parameters", f"{parameter_count(config):,}"),
        *_vocabulary(recipe),
        (
            "step",
            f"{tokens_per_step:,} tokens = {tokens_per_step // length:,} windows of {length:,} = "
            f"{micro_batch} (at a time) x {accumulation} (accumulated) x {processes} (processes)",
        ),
    ]
    if steps < 0:
        epochs = recipe.training["num_train_epochs"]
        unknown = f"known when the corpus is tokenized, since max_steps is not set: {epochs:g} epochs"
        lines += [("steps", unknown), ("operations", f"{model_flops_per_token(config):.3g} a token")]
    else:
        build_schedule(recipe, steps)
        tokens = steps * tokens_per_step
        operations = tokens * model_flops_per_token(config)
        lines += [
            ("steps", f"{steps:,}, {tokens:,} tokens, {tokens / parameter_count(config):.1f} a parameter"),
            ("operations", f"{operations:.3g}, {model_flops_per_token(config):.3g} a token"),
        ]
    lines.append(
        (
            "memory",
            f"about {_gib(memory.total)} a process: weights {_gib(memory.weights)}, gradients "
            f"{_gib(memory.gradients)}, optimizer {_gib(memory.optimizer_state)}, activations "
            f"{_gib(memory.activations)}, loss {_gib(memory.head)}; this device has {_gib(_device_memory())}",
        )
    )
    lines.append(("time", _time(recipe, processes, None if steps < 0 else operations)))
    return lines


def _vocabulary(recipe: PretrainingRecipe) -> list[tuple[str, str]]:
    """What the plan cannot know before the text is read, where the tokenizer is made of it."""
    if not recipe.data.makes_tokenizer:
        return []
    known = (
        "as many as the text has characters" if recipe.data.tokenizer == "characters" else "no more than the text gives"
    )
    return [
        ("vocabulary", f"{known}, known when the tokenizer is made; planned with {recipe.model.vocab_size:,} tokens")
    ]


def _time(recipe: PretrainingRecipe, processes: int, operations: float | None) -> str:
    try:
        precision_arguments(recipe.optimization.precision)
        set_cpu_matmul_precision(recipe.optimization.cpu_matmul_precision)
    except InputError as error:
        return f"not for this device: {error}"
    device = _device()
    peak = measured_peak(device, autocast_dtype(recipe.optimization.precision) or torch.float32)
    utilization = UTILIZATION.get(device.type, {}).get(recipe.optimization.precision, GPU_UTILIZATION)
    # Processes on one CPU share it; each has a GPU of its own.
    rate = peak * utilization * (processes if device.type != "cpu" else 1)
    per_second = rate / model_flops_per_token(built_config(recipe))
    total = "" if operations is None else f"about {_duration(operations / rate)} without evaluations, at "
    return (
        f"{total}{per_second:,.0f} tokens/s: {utilization:.0%} (assumed) of {peak / 1e12:.3g} TFLOP/s (a matrix "
        "product, measured here now)" + (f"; {slow}" if (slow := slow_precision(recipe, device)) else "")
    )


def _device() -> torch.device:
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def _device_memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties().total_memory
    return available_memory()


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
