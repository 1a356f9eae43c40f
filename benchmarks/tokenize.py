"""
Preparing token shards: our speed beside `datasets.map`, and our memory for small and large corpora.

    python -m benchmarks.tokenize --tokenizer TOKENIZER                     # speed
    python -m benchmarks.tokenize --tokenizer TOKENIZER --memory 10 100     # peak memory for so many MB of text

TOKENIZER is a folder or a name on the Hub. The text is the standard library's source, in documents of mixed lengths. On
the other side `datasets.map(batched=True)` encodes the same documents with the same tokenizer, in as many processes as
ours has threads, into its Arrow file: without a split, end-of-text tokens or a report, which ours makes as well.
"""

import argparse
import itertools
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from configuration.data import DataConfig
from training.data.preparation import prepare_shards
from training.data.sources import open_corpus
from training.data.tokenizer import load_tokenizer

WINDOW = 1024


def write_text(folder: Path, megabytes: float) -> None:
    """A .jsonl file of documents of 100 to 20,000 characters from the standard library's source, which repeats."""
    run = DataConfig(corpus="stdlib")
    source = "".join(piece for document in open_corpus(run).documents() for piece in document.pieces())
    lengths = random.Random(0)
    folder.mkdir()
    written = place = 0
    with (folder / "text.jsonl").open("w", encoding="utf-8") as stream:
        for number in itertools.count():
            length = int(10 ** lengths.uniform(2, 4.3))
            text = f"{number}\n{source[place : place + length]}"
            place = (place + length) % len(source)
            written += len(text.encode())
            stream.write(json.dumps({"text": text}) + "\n")
            if written >= megabytes * 1e6:
                return


def prepare(corpus: Path, data: Path, args: argparse.Namespace) -> int:
    """Our side. Returns the tokens of all parts."""
    run = DataConfig(
        corpus=str(corpus),
        split="hash",
        tokenizer=args.tokenizer,
        tokenize_threads=args.threads,
        data_dir=str(data),
    )
    prepared = prepare_shards(run, 2**24, WINDOW, say=lambda line: None)
    return sum(part["tokens"] for part in prepared.manifest["parts"].values())


def map_dataset(corpus: Path, data: Path, args: argparse.Namespace) -> int:
    """The other side. Returns its tokens."""
    from datasets import load_dataset

    tokenizer = load_tokenizer(args.tokenizer)

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"ids": tokenizer(batch["text"], return_attention_mask=False)["input_ids"]}

    dataset = load_dataset("json", data_files=str(corpus / "text.jsonl"), split="train", cache_dir=str(data))
    started_at = time.perf_counter()
    encoded = dataset.map(encode, batched=True, num_proc=args.threads, remove_columns=["text"])
    map_dataset.seconds = time.perf_counter() - started_at
    return sum(len(ids) for batch in encoded.with_format("numpy").iter(1000) for ids in batch["ids"])


def compare_speed(args: argparse.Namespace, folder: Path) -> None:
    """Both sides in turns on the same text; the other side's reading of JSON into its cache is not counted."""
    corpus = folder / "corpus"
    write_text(corpus, args.megabytes)
    ratios = []
    for pair in range(args.pairs + 1):  # the first warms up
        started_at = time.perf_counter()
        tokens = prepare(corpus, folder / f"ours-{pair}", args)
        ours = time.perf_counter() - started_at
        theirs_tokens = map_dataset(corpus, folder / f"theirs-{pair}", args)
        theirs = map_dataset.seconds
        for side in ("ours", "theirs"):
            shutil.rmtree(folder / f"{side}-{pair}")
        if pair:
            ratios.append((tokens / ours) / (theirs_tokens / theirs))
            print(f"ours {tokens / ours:,.0f} tokens/s, datasets.map {theirs_tokens / theirs:,.0f}", flush=True)
    print(
        f"speed ratio, ours / datasets.map, {args.threads} threads or processes, {args.megabytes:g} MB: median "
        f"{statistics.median(ratios):.3f}, min {min(ratios):.3f}, max {max(ratios):.3f} of {len(ratios)} pairs"
    )


def measure_memory(args: argparse.Namespace, folder: Path) -> None:
    """Our side for each size, each in a fresh process."""
    for megabytes in args.memory:
        corpus = folder / f"{megabytes:g}"
        write_text(corpus, megabytes)
        words = [sys.executable, "-m", "training", "tokenize", "--model", "demo", "--corpus", corpus]
        words += ["--tokens_per_step", "1", "--output_dir", folder / "run", "--data_dir", folder / "data"]
        words += ["--tokenizer", args.tokenizer, "--vocab_size", "100000", "--split", "hash"]
        words += ["--tokenize_threads", str(args.threads)]
        started_at = time.perf_counter()
        process = subprocess.Popen(list(map(str, words)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        peak = _peak_memory(process)
        seconds = time.perf_counter() - started_at
        if process.returncode:
            raise RuntimeError(f"tokenize ended with {process.returncode}")
        print(f"{megabytes:g} MB of text: peak {peak:.0f} MiB, {seconds:,.0f} s", flush=True)
        shutil.rmtree(corpus)
        shutil.rmtree(folder / "data")


def _peak_memory(process: subprocess.Popen) -> float:
    """Largest resident memory (RSS), in MiB, of a process until it ends. Linux."""
    peak = 0.0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        if "VmHWM:" in status:  # which is gone once the process has ended
            peak = int(status.split("VmHWM:")[1].split()[0]) / 2**10
        time.sleep(0.05)
    return peak


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tokenize",
        description="Compares the speed of preparing token shards with datasets.map, or measures its memory.",
        allow_abbrev=False,
    )
    parser.add_argument("--tokenizer", required=True, help="folder or Hub name")
    parser.add_argument("--threads", type=int, default=2, help="of ours, and processes of the other side")
    parser.add_argument("--megabytes", type=float, default=20, help="text of the speed comparison")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--memory", type=float, nargs="+", metavar="MB", help="measure memory for these sizes instead")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        (measure_memory if args.memory else compare_speed)(args, Path(folder))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
