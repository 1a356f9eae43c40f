"""
Greedy generation with a cache by our model and by the library's GPT-2, in turns, from the same prompts.

Both sides go through `generate` in float32, prefill included, and must choose the same tokens. Run from the clone's
root; nothing needs to be installed:

    python -m benchmarks.generate
    python -m benchmarks.generate --batch_size 8
"""

import argparse
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from .pairs import OURS, THEIRS, add_size_arguments, build_pair, peak_memory, seconds_in_turns, table


def prepare_generation(model: PreTrainedModel, args: argparse.Namespace) -> Callable[[], torch.Tensor]:
    """Returns a function that continues the same random prompts and returns all token ids."""
    model.eval()
    shape = (args.batch_size, args.prompt_tokens)
    prompt = torch.randint(args.vocab_size, shape, generator=torch.Generator().manual_seed(0)).to(args.device)

    def continue_prompt() -> torch.Tensor:
        return model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            use_cache=True,
            min_new_tokens=args.new_tokens,  # so that no end-of-text token stops a row
            max_new_tokens=args.new_tokens,
            pad_token_id=model.config.eos_token_id,
        )

    return continue_prompt


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.generate",
        description="Compares our model's greedy generation with that of the library's GPT-2.",
        allow_abbrev=False,
    )
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--prompt_tokens", type=int, default=32)
    parser.add_argument("--new_tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=12, help="measured generations of each side")
    add_size_arguments(parser)
    args = parser.parse_args(argv)

    positions = args.prompt_tokens + args.new_tokens
    peaks = peak_memory(prepare_generation, args, positions)
    models = build_pair(args, positions)
    generations = {side: prepare_generation(model, args) for side, model in models.items()}
    ours, theirs = generations[OURS](), generations[THEIRS]()  # (B, prompt_tokens + new_tokens)
    if ours.shape != (args.batch_size, positions) or not torch.equal(ours, theirs):
        differing = (ours != theirs).nonzero()[:1].tolist() if ours.shape == theirs.shape else "shapes"
        raise RuntimeError(f"the two sides generate different tokens, first at [row, position] {differing}")
    seconds = seconds_in_turns(generations, args.repeats, args.device)

    print(
        f"greedy generation: {args.layers} layers, width {args.width}, vocabulary {args.vocab_size}, "
        f"{args.batch_size} x ({args.prompt_tokens} + {args.new_tokens}) tokens, fp32, {args.device}, "
        f"{torch.get_num_threads()} threads; identical tokens on both sides"
    )
    print(table(seconds, peaks, tokens=args.batch_size * args.new_tokens))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
