"""Where a run takes place: versions, git commit and hardware; no user name, host name or path."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..processes import process_count

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "safetensors", "huggingface_hub")


def describe_environment() -> dict[str, Any]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    processes = process_count()  # one for each GPU
    count, unit = (processes, "GPUs") if torch.cuda.is_available() else (processes * torch.get_num_threads(), "threads")
    return {
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        "git_commit": _git_commit(),
        "hardware": {
            "device": device,
            "count": count,
            "unit": unit,
            "system": f"{platform.system()} {platform.machine()}",
        },
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"


def _git_commit() -> str | None:
    """The commit of this clone, with "+changes" where files differ from it; `None` outside of a clone."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
