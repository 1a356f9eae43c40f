"""The benchmarks run from the clone's root and print what they promise. Their times are not judged here."""

import argparse
import re
from pathlib import Path

import pytest
import torch

from benchmarks import generate, load, muon, pairs, tokenize, train_step

SIDES = (pairs.OURS, pairs.THEIRS)
TINY = ["--layers", "2", "--width", "32", "--heads", "2", "--vocab_size", "97", "--device", "cpu"]


# The programs are called in this process, which spares starting each; what they start is real.


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory on CPU is read from Linux's /proc")
def test_training_prints_time_and_memory_of_both_sides_and_their_ratios(capsys):
    arguments = ["--sequence_length", "16", "--steps", "3", "--precision", "bf16"]
    assert train_step.main([*TINY, *arguments]) == 0
    printed = capsys.readouterr().out
    for side in SIDES:
        seconds, tokens_per_second, peak = re.search(rf"^{side} +(\S+) +(\S+) +(\S+)$", printed, re.M).groups()
        assert float(seconds) > 0
        assert float(tokens_per_second) > 0
        assert 50 < float(peak) < 5000  # MiB of a whole process: PyTorch, the library and a tiny model
    low, median, high = re.search(
        r"^speed ratio, .* median (\S+), min (\S+), max (\S+) of 3 pairs$", printed, re.M
    ).group(2, 1, 3)
    assert 0 < float(low) <= float(median) <= float(high)
    assert re.search(r"^memory ratio, .*: \d\.\d{3}$", printed, re.M)


def test_generation_is_timed_on_both_sides(capsys, monkeypatch):
    monkeypatch.setattr(generate, "peak_memory", lambda *rest, **named: {pairs.OURS: 1.0, pairs.THEIRS: 2.0})
    arguments = ["--prompt_tokens", "4", "--new_tokens", "3", "--repeats", "3", "--batch_size", "2"]
    assert generate.main([*TINY, *arguments]) == 0
    printed = capsys.readouterr().out
    for side in (*SIDES, generate.PLAIN):
        assert float(re.search(rf"^{side} +(\S+)", printed, re.M)[1]) > 0
    for other in (pairs.THEIRS, generate.PLAIN):
        assert re.search(rf"^speed ratio, {pairs.OURS} / {other}: .* of 3 pairs$", printed, re.M)
    assert re.search(r"^memory ratio, .*: 0\.500$", printed, re.M)
    assert "llama.cpp: left out, it is asked for one row on a CPU\n" in printed
    assert re.search(r"^weights read: \d+\.\d GB/s, alone \d+\.\d GB/s; share: median \d+%, min", printed, re.M)


def test_generation_has_llama_cpp_beside_it_that_writes_the_same_tokens(capsys, monkeypatch):
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    monkeypatch.setattr(generate, "peak_memory", lambda *rest, **named: {pairs.OURS: 1.0, pairs.THEIRS: 2.0})
    arguments = ["--prompt_tokens", "4", "--new_tokens", "3", "--repeats", "1", "--vocab_size", "300"]
    assert generate.main([*TINY, *arguments]) == 0
    assert re.search(r"^speed ratio, gpt-scratch / llama.cpp: .* of 1 pairs$", capsys.readouterr().out, re.M)


def test_sides_that_write_other_tokens_are_not_timed():
    runs = {side: lambda last=last: torch.tensor([[1, 2, last]]) for last, side in enumerate(SIDES)}
    with pytest.raises(RuntimeError, match=r"gpt-scratch generates other tokens than GPT-2, .* \[\[0, 2\]\]"):
        generate.check_tokens(runs, (1, 3))


def test_the_share_of_the_bandwidth_is_bytes_read_by_both_in_a_time():
    seconds = {pairs.OURS: [2.0, 4.0, 1.0], generate.READ: [1.0, 1.0, 1.0]}
    text = generate.bandwidth(seconds, weights=generate.BYTES_READ // 4, passes=4)
    assert text == "weights read: 0.2 GB/s, alone 0.4 GB/s; share: median 50%, min 25%, max 100%"


@pytest.mark.slow
def test_opening_a_folder_is_timed_on_both_sides(capsys):
    assert load.main([*TINY, "--repeats", "3"]) == 0
    printed = capsys.readouterr().out
    for side in SIDES:
        assert float(re.search(rf"^{side} +(\S+) s \(median\)$", printed, re.M)[1]) > 0
    assert re.search(r"^speed ratio, .* of 3 pairs$", printed, re.M)


@pytest.mark.slow
def test_tokenizing_is_timed_beside_datasets_and_its_memory_measured(tokenizer, tmp_path, capsys):
    pytest.importorskip("datasets")
    tokenizer.save_pretrained(tmp_path)
    words = ["--tokenizer", str(tmp_path)]
    assert tokenize.main([*words, "--megabytes", "0.2", "--pairs", "1"]) == 0
    assert re.search(r"^speed ratio, .* median \d+\.\d{3}, min .* of 1 pairs$", capsys.readouterr().out, re.M)
    assert tokenize.main([*words, "--memory", "0.2"]) == 0
    assert 100 < float(re.search(r"^0\.2 MB of text: peak (\d+) MiB", capsys.readouterr().out)[1]) < 5000


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
