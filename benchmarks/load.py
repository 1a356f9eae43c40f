"""
Opening a saved folder: our model by the code in its folder, and the library's GPT-2, in turns, with equal weights.

Both sides go through `AutoModelForCausalLM.from_pretrained(..., trust_remote_code=True)` in float32, in a process that
has imported the library and not this package, with the files in the system's cache. Run from the clone's
root; nothing needs to be installed:

    python -m benchmarks.load
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from .pairs import OURS, THEIRS, add_size_arguments, build_pair, speed_ratio

STRANGER = """
import json, sys, time
from transformers import AutoModelForCausalLM
from transformers.utils import logging
logging.disable_progress_bar()
device, repeats = sys.argv[1], int(sys.argv[2])
seconds = {folder: [] for folder in sys.argv[3:]}
for measured in [False] + [True] * repeats:
    for folder in seconds:
        started_at = time.perf_counter()
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).to(device)
        if measured:
            seconds[folder].append(time.perf_counter() - started_at)
print(json.dumps(list(seconds.values())))
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load",
        description="Compares the time to open our model's folder with that of the library's GPT-2.",
        allow_abbrev=False,
    )
    parser.add_argument("--repeats", type=int, default=24, help="measured openings of each side")
    add_size_arguments(parser)
    args = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as workplace:
        folders = {side: Path(workplace) / side for side in (OURS, THEIRS)}
        for side, model in build_pair(args, positions=32).items():
            model.save_pretrained(folders[side])
        # -I: without the current folder, so that our side runs the code in its folder.
        command = [sys.executable, "-I", "-c", STRANGER, args.device, str(args.repeats), *map(str, folders.values())]
        environment = os.environ | {"HF_MODULES_CACHE": str(Path(workplace) / "modules")}
        output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    seconds = dict(zip(folders, json.loads(output), strict=True))

    print(f"opening a folder: {args.layers} layers, width {args.width}, vocabulary {args.vocab_size}, fp32")
    for side, measured in seconds.items():
        print(f"{side:14}{statistics.median(measured):10.4f} s (median)")
    print(speed_ratio(seconds))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
