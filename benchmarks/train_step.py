"""
One training step of our model and of the library's GPT-2, in turns, with the same data and the same AdamW.

A step is forward, backward, update and `zero_grad`. Our side computes the loss as our Trainer has it computed, without
holding all logits; GPT-2 computes it the library's way. Run from the clone's root; nothing needs to be installed:

    python -m benchmarks.train_step
    python -m benchmarks.train_step --precision bf16 --batch_size 8
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from modeling_gpt_scratch import GPTScratchForCausalLM

from .pairs import OURS, THEIRS, add_size_arguments, build_pair, peak_memory, seconds_in_turns, table


def prepare_training(model: PreTrainedModel, args: argparse.Namespace) -> Callable[[], float]:
    """Returns a function that makes one training step on new random tokens and returns its loss."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    generator = torch.Generator().manual_seed(0)  # both sides see the same tokens

    def step() -> float:
        shape = (args.batch_size, args.sequence_length)
        input_ids = torch.randint(args.vocab_size, shape, generator=generator).to(args.device)
        batch = {"input_ids": input_ids, "labels": input_ids, "use_cache": False}
        if isinstance(model, GPTScratchForCausalLM):
            # Both kinds of labels, as from our Trainer. The last target is hidden because GPT-2 has none there.
            batch |= {"shift_labels": F.pad(input_ids[:, 1:], (0, 1), value=-100), "skip_logits": True}
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.precision == "bf16"):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_step",
        description="Compares one training step of our model with one of the library's GPT-2.",
        allow_abbrev=False,
    )
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--sequence_length", type=int, default=512, help="tokens in each row")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16 is autocast")
    parser.add_argument("--steps", type=int, default=12, help="measured steps of each side")
    add_size_arguments(parser)
    args = parser.parse_args(argv)

    peaks = peak_memory(prepare_training, args, positions=args.sequence_length)
    models = build_pair(args, positions=args.sequence_length)
    steps = {side: prepare_training(model, args) for side, model in models.items()}
    losses = {side: step() for side, step in steps.items()}
    tolerance = 1e-4 if args.precision == "fp32" else 1e-2  # bf16 has 8 significant bits
    if not abs(losses[OURS] - losses[THEIRS]) <= tolerance:
        raise RuntimeError(f"the first losses differ: {losses}")
    seconds = seconds_in_turns(steps, args.steps, args.device)

    print(
        f"training step: {args.layers} layers, width {args.width}, vocabulary {args.vocab_size}, "
        f"{args.batch_size} x {args.sequence_length} tokens, {args.precision}, {args.device}, "
        f"{torch.get_num_threads()} threads"
    )
    print(table(seconds, peaks, tokens=args.batch_size * args.sequence_length))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
