"""
How far off the memory estimate of `pretrain --dry_run` is: beside it the peak of two training steps, measured on CPU.

`tensors` is the largest sum of what PyTorch had allocated, `process` what the steps added to the process (Linux), where
the C library's allocator keeps blocks that are free. Each in a process of its own. Run from the clone's root:

    python -m benchmarks.memory
"""

import argparse
import itertools
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from configuration.pretraining import PretrainingRecipe
from training.planning.micro_batch import RESERVE, recipe_memory, step_fits

DROPOUT = {"embedding_dropout": "0.1", "attention_dropout": "0.1", "residual_dropout": "0.1"}
# Settings of the recipe, and windows at a time.
CASES = [
    ({"model": "demo"}, 8),
    ({"model": "demo"}, 32),
    ({"model": "demo", **DROPOUT}, 32),
    ({"model": "demo", "precision": "bf16"}, 32),
    ({"model": "demo", "gradient_checkpointing": "true"}, 32),
    ({"model": "small", "max_position_embeddings": "256"}, 4),
    ({"model": "small", "max_position_embeddings": "256", "precision": "bf16"}, 4),
    ({"model": "blog-163m", "max_position_embeddings": "256", **DROPOUT}, 4),
]


def _recipe(settings: dict[str, str]) -> PretrainingRecipe:
    return PretrainingRecipe.load(
        None, {"corpus": "stdlib", "tokens_per_step": "256", "output_dir": "runs/x", **settings}
    )


def _process_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _process_peak(settings: dict[str, str], micro_batch: int) -> int:
    before = _process_bytes("VmRSS")
    step_fits(_recipe(settings), micro_batch, 1, torch.device("cpu"))
    return _process_bytes("VmHWM") - before


def _tensor_peak(settings: dict[str, str], micro_batch: int) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step_fits(_recipe(settings), micro_batch, 1, torch.device("cpu"))
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(itertools.accumulate(changes)) - RESERVE  # which step_fits holds besides


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__, allow_abbrev=False)
    parser.parse_args(argv)
    print(f"{'MiB':12}{'windows':>8}{'estimate':>10}{'tensors':>10}{'process':>10}")
    for settings, micro_batch in CASES:
        estimate = recipe_memory(_recipe(settings), micro_batch).total
        sizes = [estimate]
        for measure in (_tensor_peak, _process_peak):
            with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
                sizes.append(pool.submit(measure, settings, micro_batch).result())
        others = ", ".join(f"{name} {value}" for name, value in settings.items() if name != "model")
        figures = "".join(f"{size / 2**20:10.0f}" for size in sizes)
        print(f"{settings['model']:12}{micro_batch:8}{figures}   {estimate / sizes[1] - 1:+.0%} of tensors  {others}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
