"""
A pair of equal models, ours and the library's GPT-2, and what is measured on both: time in turns, memory apart.

The sizes, weights, dropout (0) and attention implementation (sdpa) are the same on both sides. Everything else is
what each side has by default, GPT-2's written-out GELU included.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from modeling_gpt_scratch import GPTScratchConfig, GPTScratchForCausalLM

OURS, THEIRS = "gpt-scratch", "GPT-2"

# Turns a model into the work to measure: a function without arguments that does it once.
Preparation = Callable[[PreTrainedModel, argparse.Namespace], Callable[[], object]]


def add_size_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the models' sizes, by default those of GPT-2 small, and the device."""
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768, help="size of the residual stream, a multiple of --heads")
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--vocab_size", type=int, default=50257)
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cpu", "cuda"], default=default_device, help="default here: %(default)s")


def build(side: str, args: argparse.Namespace, positions: int) -> PreTrainedModel:
    """One side's model with random weights, on its device, in float32, with at least GPT-2's 1,024 positions."""
    sizes = {
        "vocab_size": args.vocab_size,
        "hidden_size": args.width,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "max_position_embeddings": max(1024, positions),
        "bos_token_id": args.vocab_size - 1,
        "eos_token_id": args.vocab_size - 1,
    }
    torch.manual_seed(0)
    if side == OURS:
        config = GPTScratchConfig(**sizes, attn_implementation="sdpa")
        return GPTScratchForCausalLM(config).to(args.device)
    dropout = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
    config = GPT2Config(**sizes, **dropout, attn_implementation="sdpa")
    return GPT2LMHeadModel(config).to(args.device)


@torch.no_grad()
def copy_weights(ours: PreTrainedModel, theirs: PreTrainedModel) -> None:
    """Gives GPT-2 our weights. Its matrices are stored transposed, and query, key and value as one."""
    theirs.transformer.wte.load_state_dict(ours.model.embed_tokens.state_dict())
    theirs.transformer.wpe.load_state_dict(ours.model.embed_positions.state_dict())
    theirs.transformer.ln_f.load_state_dict(ours.model.norm.state_dict())
    for layer, block in zip(ours.model.layers, theirs.transformer.h, strict=True):
        block.ln_1.load_state_dict(layer.input_layernorm.state_dict())
        block.ln_2.load_state_dict(layer.post_attention_layernorm.state_dict())
        attention = layer.self_attn
        for target, sources in (
            (block.attn.c_attn, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (block.attn.c_proj, (attention.o_proj,)),
            (block.mlp.c_fc, (layer.mlp.fc_in,)),
            (block.mlp.c_proj, (layer.mlp.fc_out,)),
        ):
            target.weight.copy_(torch.cat([source.weight for source in sources]).T)
            target.bias.copy_(torch.cat([source.bias for source in sources]))


def build_pair(args: argparse.Namespace, positions: int) -> dict[str, PreTrainedModel]:
    """Both models with the same weights, in evaluation mode.

    Raises:
        `RuntimeError`: their logits differ, so a comparison of their speeds would mean nothing.
    """
    models = {side: build(side, args, positions).eval() for side in (OURS, THEIRS)}
    copy_weights(models[OURS], models[THEIRS])
    input_ids = torch.randint(args.vocab_size, (2, min(32, positions)), device=args.device)
    with torch.no_grad():
        difference = (models[OURS](input_ids).logits - models[THEIRS](input_ids).logits).abs().max().item()
    if not difference <= 1e-4:  # the two sides sum in another order; NaN must not pass
        raise RuntimeError(f"the two models' logits differ by {difference:.2e}, so they are not the same model")
    return models


def seconds_in_turns(runs: dict[str, Callable[[], object]], pairs: int, device: str) -> dict[str, list[float]]:
    """Seconds of each run. The sides take turns, so that a drift of the machine hits both; the first turn warms up."""
    seconds = {side: [] for side in runs}
    for measured in [False] + [True] * pairs:
        for side, run in runs.items():
            if device == "cuda":
                torch.cuda.synchronize()
            started_at = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            if measured:
                seconds[side].append(time.perf_counter() - started_at)
    return seconds


def _peak_mebibytes(side: str, prepare: Preparation, args: argparse.Namespace, positions: int) -> float:
    run = prepare(build(side, args, positions), args)
    for _ in range(2):  # the optimizer's memory is there from the second step on
        run()
    if args.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # Not `ru_maxrss`: a child's starts at its parent's peak.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def peak_memory(prepare: Preparation, args: argparse.Namespace, positions: int) -> dict[str, float]:
    """Peak MiB of each side, each alone in a fresh process: on CUDA the tensors, on CPU (Linux) the whole process."""
    peaks = {}
    for side in (OURS, THEIRS):
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
            peaks[side] = pool.submit(_peak_mebibytes, side, prepare, args, positions).result()
    return peaks


def speed_ratio(seconds: dict[str, list[float]], other: str = THEIRS) -> str:
    """How many times faster our side is than another, as text, from what `seconds_in_turns` returned."""
    ratios = [theirs / ours for ours, theirs in zip(seconds[OURS], seconds[other], strict=True)]
    return (
        f"speed ratio, {OURS} / {other}: median {statistics.median(ratios):.3f}, min {min(ratios):.3f}, "
        f"max {max(ratios):.3f} of {len(ratios)} pairs"
    )


def table(seconds: dict[str, list[float]], peaks: dict[str, float], tokens: int) -> str:
    """The comparison as text.

    Args:
        seconds: what `seconds_in_turns` returned; further sides are listed too.
        peaks: what `peak_memory` returned.
        tokens: tokens of one run, for the throughput.
    """
    lines = [f"{'':14}{'median s':>10}{'tokens/s':>10}{'peak MiB':>10}"]
    for side, measured in seconds.items():
        median = statistics.median(measured)
        peak = f"{peaks[side]:.0f}" if side in peaks else ""
        lines.append(f"{side:14}{median:10.4f}{tokens / median:10.1f}{peak:>10}".rstrip())
    lines.append(speed_ratio(seconds))
    lines.append(f"memory ratio, {OURS} / {THEIRS}: {peaks[OURS] / peaks[THEIRS]:.3f}")
    return "\n".join(lines)
