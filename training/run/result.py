"""What has come of a run: the figures that run.json keeps, and what people are shown of them."""

from pathlib import Path
from typing import Any

from ..files import weights_sha256
from ..record import read_metrics
from .folder import RunFolder
from .speed import Speed


def result_of(folder: RunFolder, planned: dict[str, Any], measured: dict[str, Any], speed: Speed) -> dict[str, Any]:
    """The result of a run whose model is written.

    Args:
        planned: what was written when it began.
        measured: `seconds` of training, and what evaluations have found.
        speed: knows the device's peak.
    """
    # The time is that of this folder, which may have set in at another run's checkpoint.
    seen = folder.record()["starts"][0].get(speed.unit, 0)
    rate = (planned[speed.unit] - seen) / measured["seconds"]
    first = next((line for line in read_metrics(folder.path) if line["step"] == 0 and "eval_loss" in line), {})
    return {
        "parameters": planned["parameters"],
        "model_sha256": weights_sha256(folder.model),
        "steps": planned["steps"],
        speed.unit: planned[speed.unit],
        "seconds": round(measured["seconds"], 1),
        f"{speed.unit}_per_second": round(rate, 1),
        **({"peak_flops": round(speed.peak_flops)} if speed.peak_flops else {}),
        **speed.utilization(rate),
        "initial": {name: first[name] for name in folder.program.figures if name in first},
        **{name: value for name, value in measured.items() if name not in ("seconds", "epoch")},
    }


def print_result(folder: RunFolder) -> None:
    """Shows a finished run's result."""
    result, unit = folder.result(), folder.program.unit
    for name, what in folder.program.figures.items():
        if name not in result:
            continue
        start = f"{result['initial'][name]:.4f} -> " if name in result["initial"] else ""
        test = f"test_{name.removeprefix('eval_')}"
        tested = f" (test: {result[test]:.4f})" if test in result else ""
        print(f"validation: {start}{result[name]:.4f} {what}{tested}")
    print(
        f"{result[unit]:,} {unit} in {result['seconds']:,.0f} s: {result[f'{unit}_per_second']:,.0f} {unit}/s\n"
        f"model: {folder.model}    charts: {Path(folder.path, 'loss.png')}"
    )
