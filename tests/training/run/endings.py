"""How a run ends: its weights, its lines, its model."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from benchmarks import faults
from training.__main__ import main

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def calm_ending(argv: list[str], tmp_path: Path) -> tuple:
    """How the same run ends when nothing happens to it."""
    assert main([*argv, "--output_dir", str(tmp_path / "calm")]) == 0
    return faults.ending(tmp_path / "calm")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def assert_opens_as(folder: Path, logits: torch.Tensor) -> None:
    model, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values())
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, logits, atol=1e-6, rtol=0)  # another kernel, at the most
    assert (folder / "modeling_gpt_scratch.py").is_file()
