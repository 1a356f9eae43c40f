"""The benchmarks run from the clone's root and print what they promise. Their times are not judged here."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import muon, pairs

ROOT = Path(__file__).parent.parent
TINY = ["--layers", "2", "--width", "32", "--heads", "2", "--vocab_size", "97", "--device", "cpu"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory on CPU is read from Linux's /proc")
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("benchmarks.train_step", ["--sequence_length", "16", "--steps", "3", "--precision", "bf16"]),
        ("benchmarks.generate", ["--prompt_tokens", "4", "--new_tokens", "3", "--repeats", "3", "--batch_size", "2"]),
    ],
)
def test_prints_time_and_memory_of_both_sides_and_their_ratios(module, arguments):
    command = [sys.executable, "-m", module, *TINY, *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for side in (pairs.OURS, pairs.THEIRS):
        seconds, tokens_per_second, peak = re.search(rf"^{side} +(\S+) +(\S+) +(\S+)$", run.stdout, re.M).groups()
        assert float(seconds) > 0
        assert float(tokens_per_second) > 0
        assert 50 < float(peak) < 5000  # MiB of a whole process: PyTorch, the library and a tiny model
    low, median, high = re.search(
        r"^speed ratio, .* median (\S+), min (\S+), max (\S+) of 3 pairs$", run.stdout, re.M
    ).group(2, 1, 3)
    assert 0 < float(low) <= float(median) <= float(high)
    assert re.search(r"^memory ratio, .*: \d\.\d{3}$", run.stdout, re.M)


@pytest.mark.slow
def test_opening_a_folder_is_timed_on_both_sides():
    command = [sys.executable, "-m", "benchmarks.load", *TINY, "--repeats", "3"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for side in (pairs.OURS, pairs.THEIRS):
        assert float(re.search(rf"^{side} +(\S+) s \(median\)$", run.stdout, re.M).group(1)) > 0
    assert re.search(r"^speed ratio, .* of 3 pairs$", run.stdout, re.M)


@pytest.mark.slow
def test_tokenizing_is_timed_beside_datasets_and_its_memory_measured(tokenizer, tmp_path):
    pytest.importorskip("datasets")
    tokenizer.save_pretrained(tmp_path)
    words = [sys.executable, "-m", "benchmarks.tokenize", "--tokenizer", str(tmp_path)]
    speed = subprocess.run(
        [*words, "--megabytes", "0.2", "--pairs", "1"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert speed.returncode == 0, speed.stderr
    assert re.search(r"^speed ratio, .* median \d+\.\d{3}, min .* of 1 pairs$", speed.stdout, re.M)
    memory = subprocess.run([*words, "--memory", "0.2"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert memory.returncode == 0, memory.stderr
    assert 100 < float(re.search(r"^0\.2 MB of text: peak (\d+) MiB", memory.stdout)[1]) < 5000


def test_muon_is_timed_in_both_types_beside_torchs(capsys):
    assert muon.main(["--layers", "1", "--width", "16", "--steps", "3", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    sides = [re.match(r"(.+?) +(\d+\.\d+) s, torch.optim.Muon / \1: median (\S+), min", line) for line in lines]
    assert [side[1] for side in sides] == ["ours in fp32", "ours in bf16", "torch.optim.Muon"]
    assert all(float(side[3]) > 0 for side in sides)
    assert float(sides[2][3]) == 1


def test_ratios_say_how_much_faster_and_smaller_our_side_is():
    seconds = {pairs.OURS: [1.0, 2.0, 2.0], pairs.THEIRS: [3.0, 4.0, 5.0]}
    text = pairs.table(seconds, {pairs.OURS: 100.0, pairs.THEIRS: 400.0}, tokens=10)
    assert "speed ratio, gpt-scratch / GPT-2: median 2.500, min 2.000, max 3.000 of 3 pairs" in text
    assert "memory ratio, gpt-scratch / GPT-2: 0.250" in text


def test_the_sides_take_turns_and_the_first_turn_is_not_measured():
    turns = []
    runs = {side: lambda side=side: turns.append(side) for side in (pairs.OURS, pairs.THEIRS)}
    seconds = pairs.seconds_in_turns(runs, 2, "cpu")
    assert turns == [pairs.OURS, pairs.THEIRS] * 3
    assert [len(seconds[side]) for side in runs] == [2, 2]


def test_models_that_disagree_are_not_compared(monkeypatch):
    args = argparse.Namespace(layers=2, width=32, heads=2, vocab_size=97, device="cpu")
    assert set(pairs.build_pair(args, positions=16)) == {pairs.OURS, pairs.THEIRS}
    copy_weights = pairs.copy_weights

    def copy_all_but_one(ours, theirs):
        copy_weights(ours, theirs)
        theirs.transformer.h[0].mlp.c_fc.weight.data[0, 0] += 1.0

    monkeypatch.setattr(pairs, "copy_weights", copy_all_but_one)
    with pytest.raises(RuntimeError, match="logits differ"):
        pairs.build_pair(args, positions=16)
