"""
Greedy generation with a cache by our model and by the library's GPT-2, in turns, from the same prompts.

Our side is laid out as `generate` and `serve` have it (`training/decoding.py`), and a further side is not. All go
through the library's `generate` in float32, prefill included, and must choose the same tokens. On CPU a large tensor is
read in the same turns, so that the share of the memory's speed is known, and llama.cpp continues a single row with the
same weights (extras `gguf` and `llama`). Run from the clone's root; nothing needs to be installed:

    python -m benchmarks.generate
    python -m benchmarks.generate --batch_size 8
"""

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from modeling_gpt_scratch.conversion.gguf import write_gguf_folder
from training.decoding import can_pack, pack_for_decoding

from .pairs import OURS, THEIRS, add_size_arguments, build_pair, peak_memory, seconds_in_turns, speed_ratio, table

PLAIN, LLAMA, READ = "plain layers", "llama.cpp", "read"
BYTES_READ = 400_000_000  # far more than a processor's caches hold


def prompt_of(args: argparse.Namespace) -> torch.Tensor:
    shape = (args.batch_size, args.prompt_tokens)
    return torch.randint(args.vocab_size - 1, shape, generator=torch.Generator().manual_seed(0))


def prepare_plainly(model: PreTrainedModel, args: argparse.Namespace) -> Callable[[], torch.Tensor]:
    """Returns a function that continues the same random prompts and returns all token ids."""
    model.eval()
    prompt = prompt_of(args).to(args.device)

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


def prepare_generation(model: PreTrainedModel, args: argparse.Namespace) -> Callable[[], torch.Tensor]:
    """As `prepare_plainly`, after what `generate` and `serve` do with a model."""
    pack_for_decoding(model)
    return prepare_plainly(model, args)


def prepare_llama(
    model: PreTrainedModel, args: argparse.Namespace, open_until_end: ExitStack
) -> Callable[[], torch.Tensor]:
    """As `prepare_plainly`, by llama.cpp, from a file of float32 weights."""
    from .llama_cpp import invented_tokenizer, llama_server

    folder = Path(open_until_end.enter_context(tempfile.TemporaryDirectory())) / "model"
    write_gguf_folder(folder, model, lambda ids: model(ids).logits, invented_tokenizer(args.vocab_size))
    post = open_until_end.enter_context(llama_server(next(folder.glob("*.gguf")), torch.get_num_threads()))
    prompt = prompt_of(args)[0].tolist()
    fields = {"n_predict": args.new_tokens, "ignore_eos": True, "temperature": 0, "cache_prompt": False}

    def continue_prompt() -> torch.Tensor:
        answer = post("/completion", prompt=prompt, return_tokens=True, **fields)
        return torch.tensor([[*prompt, *answer["tokens"]]])

    return continue_prompt


def without_llama(args: argparse.Namespace) -> str | None:
    """Why llama.cpp does not stand beside."""
    if args.device != "cpu" or args.batch_size > 1:
        return "it is asked for one row on a CPU"
    if args.vocab_size < 257:
        return "its tokenizer has the 256 bytes and an end"
    missing = [name for name in ("gguf", "xllamacpp") if find_spec(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


def weight_bytes(model: PreTrainedModel) -> int:
    """What of the weights every new token reads: all linear layers."""
    return sum(module.weight.nbytes for module in model.modules() if isinstance(module, nn.Linear))


def bandwidth(seconds: dict[str, list[float]], weights: int, passes: int) -> str:
    """How fast our side has read its weights, and which share that is of what reading alone gives, as text."""
    read = [BYTES_READ / each for each in seconds[READ]]
    ours = [weights * passes / each for each in seconds[OURS]]
    shares = [one / other for one, other in zip(ours, read, strict=True)]
    return (
        f"weights read: {statistics.median(ours) / 1e9:.1f} GB/s, alone {statistics.median(read) / 1e9:.1f} GB/s; "
        f"share: median {statistics.median(shares):.0%}, min {min(shares):.0%}, max {max(shares):.0%}"
    )


def check_tokens(runs: dict[str, Callable[[], torch.Tensor]], shape: tuple[int, int]) -> None:
    """
    Raises:
        `RuntimeError`: the sides choose different tokens, so a comparison of their speeds would mean nothing.
    """
    expected = runs[THEIRS]()  # (B, prompt_tokens + new_tokens)
    for side, run in runs.items():
        found = run()
        if found.shape != shape or not torch.equal(found, expected):
            at = (found != expected).nonzero()[:1].tolist() if found.shape == expected.shape else "shapes"
            raise RuntimeError(f"{side} generates other tokens than {THEIRS}, first at [row, position] {at}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.generate",
        description="Compares our model's greedy generation with that of the library's GPT-2, and of llama.cpp.",
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
    weights = weight_bytes(models[OURS])
    reason = without_llama(args)
    with ExitStack() as open_until_end:
        others = {}
        if can_pack(models[OURS].lm_head.weight):
            others[PLAIN] = prepare_plainly(copy.deepcopy(models[OURS]), args)
        if not reason:
            others[LLAMA] = prepare_llama(models[OURS], args, open_until_end)
        runs = {side: prepare_generation(model, args) for side, model in models.items()} | others
        check_tokens(runs, (args.batch_size, positions))
        numbers = torch.rand(BYTES_READ // 4)
        reading = {READ: numbers.max} if args.device == "cpu" else {}
        seconds = seconds_in_turns(runs | reading, args.repeats, args.device)

    print(
        f"greedy generation: {args.layers} layers, width {args.width}, vocabulary {args.vocab_size}, "
        f"{args.batch_size} x ({args.prompt_tokens} + {args.new_tokens}) tokens, fp32, {args.device}, "
        f"{torch.get_num_threads()} threads; identical tokens on all sides"
    )
    print(table({side: seconds[side] for side in runs}, peaks, tokens=args.batch_size * args.new_tokens))
    for other in others:
        print(speed_ratio(seconds, other))
    if reason:
        print(f"{LLAMA}: left out, {reason}")
    if READ in seconds:
        print(bandwidth(seconds, weights, passes=args.new_tokens))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
