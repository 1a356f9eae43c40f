"""
Stops training runs with a signal, again and again, and compares their end with that of a run that nobody disturbed.

The same command is started after each. SIGKILL hits all processes at any moment, a third of the times while a
checkpoint is half written; SIGTERM and SIGINT hit one process while it trains, and all must exit with 128 + the signal.
At the end the weights must be equal bit for bit, and so must the lines of metrics.jsonl but for times and rates. Run
from the clone's root; needs a system with fork:

    python -m benchmarks.faults --kills 20 --processes 2
    python -m benchmarks.faults --kills 20 --signal TERM
"""

import argparse
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from training.__main__ import main as training
from training.files import weights_sha256
from training.record import METRICS, MODEL, STAGING, checkpoints_in, read_metrics

# What may differ: when it happened, and how fast.
TIMES = ("elapsed_seconds", "eval_runtime", "mfu", "tokens_per_second")
WORDS = ["light", "lamp", "ship", "gull", "sea", "morning", "stairs", "letter", "wind", "clock", "night", "voice"]


def write_corpus(folder: Path) -> None:
    """A hundred short texts that are the same every time."""
    folder.mkdir()
    words = random.Random(0)
    for number in range(100):
        (folder / f"{number:03d}.txt").write_text(" ".join(words.choices(WORDS, k=150)) + "\n", encoding="utf-8")


def command(workplace: Path, name: str, processes: int, workers: int, steps: int) -> list[str]:
    """A run with dropout, whose saving, logging and evaluation fall on different steps."""
    settings = {
        "model": "demo",
        "corpus": workplace / "corpus",
        "data_dir": workplace / "data",
        "output_dir": workplace / name,
        "vocab_size": 300,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
        "embedding_dropout": 0.1,
        "attention_dropout": 0.1,
        "residual_dropout": 0.1,
        "tokens_per_step": 256,
        "per_device_train_batch_size": 4 // processes,  # two micro-batches a step
        "dataloader_num_workers": workers,
        "max_steps": steps,
        "learning_rate": 1e-3,
        "muon_learning_rate": 0.02,
        "logging_steps": 5,
        "eval_strategy": "steps",
        "eval_steps": 12,
        "save_steps": 7,
        "save_total_limit": 3,
        "disable_tqdm": True,
    }
    return ["pretrain", *(text for name, value in settings.items() for text in (f"--{name}", str(value)))]


def free_port() -> int:
    """One that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(argv: list[str], processes: int, log: Path) -> list[int]:
    """Forks the processes of one run and returns their ids; much faster than starting them anew."""
    port = free_port()
    children = []
    for rank in range(processes):
        child = os.fork()
        if child:
            children.append(child)
            continue
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell starts in the background
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if processes > 1:  # the library asks for all cores in each, unless told otherwise
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        code = 70
        try:
            torch.set_num_threads(1)
            code = training(argv)
        except BaseException:  # else the exit below would hide it
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return children


def wait(children: list[int]) -> list[int]:
    """The exit codes of all, once all have ended; negative for a signal."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def wait_until(condition: Callable[[], bool], children: list[int], seconds: float) -> bool:
    """Whether all lived until the condition was true, or the time was over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():
        if any(os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) for child in children):
            return False
        time.sleep(0.0005)
    return True


def without_times(run: Path) -> list[dict]:
    """The lines of metrics.jsonl, but for what may differ."""
    return [{name: value for name, value in line.items() if name not in TIMES} for line in read_metrics(run)]


def ending(run: Path) -> tuple[dict[str, str], list[dict]]:
    """What two runs are compared by: the hash of the weights, and the metrics without times."""
    return weights_sha256(run / MODEL), without_times(run)


def survive(
    workplace: Path, number: signal.Signals, kills: int, processes: int, workers: int, steps: int, seed: int
) -> dict[str, int]:
    """Runs undisturbed, then with so many signals of this number; returns figures.

    Raises:
        RuntimeError: the two runs end differently, or a run ends by itself with an error.
    """
    write_corpus(workplace / "corpus")
    log = workplace / "log.txt"
    started_at = time.monotonic()
    children = start(command(workplace, "calm", processes, workers, steps), processes, log)
    wait_until(lambda: (workplace / "calm" / METRICS).exists(), children, 600)
    startup_seconds = time.monotonic() - started_at
    if any(wait(children)):
        raise RuntimeError(f"the undisturbed run failed: {log.read_text()[-2000:]}")
    training_seconds = time.monotonic() - started_at - startup_seconds
    longest = startup_seconds + 2 * training_seconds / kills
    # The machine may be faster now than it was, so no attempt may come further than its share: all kills fall before
    # the end.
    share = len(read_metrics(workplace / "calm")) // (kills + 1)

    run, moments = workplace / "killed", random.Random(seed)
    argv = command(workplace, "killed", processes, workers, steps)
    figures = {"kills": 0, "while saving": 0, "starts": 1, "resumed": 0}
    children = start(argv, processes, log)
    while figures["kills"] < kills:
        if number == signal.SIGKILL and figures["kills"] % 3 == 2:
            lived = wait_until(lambda: (run / STAGING).exists(), children, 600)
        else:
            goal = len(read_metrics(run)) + moments.randint(1, share)
            # Signals that are handled come when training has begun, kills at any time.
            seconds = moments.uniform(0, longest) if number == signal.SIGKILL else 600
            lived = wait_until(lambda goal=goal: len(read_metrics(run)) >= goal, children, seconds)
        time.sleep(moments.uniform(0, 0.01))
        if not lived:  # finished, or failed
            if any(wait(children)):
                raise RuntimeError(f"a run failed by itself: {log.read_text()[-2000:]}")
            break
        killed = number == signal.SIGKILL
        for child in moments.sample(children, len(children) if killed else 1):
            os.kill(child, number)
        codes = wait(children)
        if not any(codes):  # finished in the meantime
            break
        if codes != [-number if killed else 128 + number] * processes:
            raise RuntimeError(f"exit codes {codes} after {number.name}: {log.read_text()[-2000:]}")
        figures["kills"] += 1
        figures["while saving"] += (run / STAGING).exists()
        figures["starts"] += 1
        figures["resumed"] += bool(checkpoints_in(run))
        children = start(argv, processes, log)
    else:
        if any(wait(children)):
            raise RuntimeError(f"the last run failed: {log.read_text()[-2000:]}")
    if ending(run) != ending(workplace / "calm"):
        raise RuntimeError(f"the killed run ends differently; {log} tells more")
    return figures | {"lines compared": len(ending(run)[1])}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description="Stops a training run by signals and checks that it ends as if nothing had happened.",
        allow_abbrev=False,
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--signal", choices=["KILL", "TERM", "INT"], default="KILL")
    parser.add_argument("--processes", type=int, choices=[1, 2], default=1)
    parser.add_argument("--workers", type=int, default=0, help="processes that load data, for each process that trains")
    parser.add_argument("--steps", type=int, help="of the whole run (default: 12 for each kill)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args(argv)
    steps = args.steps or 12 * args.kills
    with tempfile.TemporaryDirectory() as workplace:
        number = signal.Signals[f"SIG{args.signal}"]
        figures = survive(Path(workplace), number, args.kills, args.processes, args.workers, steps, args.seed)
    print(json.dumps(figures | {"same weights": True, "same metrics": True}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
