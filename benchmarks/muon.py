"""
A step of our Muon, in fp32 and in bf16, and one of `torch.optim.Muon`, in turns, on the matrices of a model's blocks.

Run from the clone's root; nothing needs to be installed:

    python -m benchmarks.muon
    python -m benchmarks.muon --layers 12 --width 768
"""

import argparse
import statistics
from collections.abc import Callable

import torch

from training.optimization.muon import Muon

from .pairs import seconds_in_turns

THEIRS = "torch.optim.Muon"
OPTIMIZERS = {
    "ours in fp32": lambda matrices: Muon(matrices, dtype=torch.float32),
    "ours in bf16": lambda matrices: Muon(matrices, dtype=torch.bfloat16),
    THEIRS: torch.optim.Muon,
}


def prepare_step(side: str, args: argparse.Namespace) -> Callable[[], object]:
    """Returns a function that makes one step, always with the same random gradients."""
    generator = torch.Generator(args.device).manual_seed(0)
    width = args.width
    matrices = []
    for shape in [*[(width, width)] * 4, (4 * width, width), (width, 4 * width)] * args.layers:
        matrix, gradient = torch.randn(2, *shape, device=args.device, generator=generator)
        matrices.append(torch.nn.Parameter(matrix))
        matrices[-1].grad = gradient
    return OPTIMIZERS[side](matrices).step


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.muon", description=__doc__, allow_abbrev=False)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256, help="size of the residual stream")
    parser.add_argument("--steps", type=int, default=7, help="measured steps of each side")
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cpu", "cuda"], default=default_device, help="default here: %(default)s")
    args = parser.parse_args(argv)

    seconds = seconds_in_turns({side: prepare_step(side, args) for side in OPTIMIZERS}, args.steps, args.device)
    print(f"Muon: {args.layers} layers, width {args.width}, {args.device}, {torch.get_num_threads()} threads")
    for side, values in seconds.items():
        ratios = [theirs / ours for ours, theirs in zip(values, seconds[THEIRS], strict=True)]
        print(
            f"{side:18}{statistics.median(values):10.4f} s, {THEIRS} / {side}: median {statistics.median(ratios):.2f}, "
            f"min {min(ratios):.2f}, max {max(ratios):.2f}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
