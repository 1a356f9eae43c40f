"""The overlap of held-out and training text, against a count by hand."""

import numpy as np
import pytest

from training.data import overlap
from training.data.overlap import WINDOW, describe_overlap, measure_overlap, window_hashes


class Tokens:
    """A vector in memory."""

    def __init__(self, ids: np.ndarray):
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def release(self) -> None:
        self.released = True

    def __getitem__(self, window: slice) -> np.ndarray:
        return self.ids[window].astype(np.int64)


def test_equal_windows_have_equal_hashes_and_others_do_not():
    tokens = np.random.default_rng(0).integers(0, 2, 3000)  # two ids only: 50 of them are almost surely different
    tokens = np.concatenate([tokens, tokens[:100]])
    hashes = window_hashes(tokens)
    windows = [tokens[start : start + WINDOW].tobytes() for start in range(len(tokens) - WINDOW + 1)]
    assert len(hashes) == len(windows)
    assert len(set(hashes.tolist())) == len(set(windows)) < len(windows)
    assert dict(zip(windows, hashes.tolist(), strict=True)) == dict(
        zip(windows[::-1], hashes.tolist()[::-1], strict=True)
    )
    assert len(window_hashes(tokens[: WINDOW - 1])) == 0
    assert len(window_hashes(tokens[:WINDOW])) == 1


@pytest.mark.parametrize("together", [7, 100, 10_000])
def test_copied_windows_are_found_wherever_they_lie(together, monkeypatch):
    monkeypatch.setattr(overlap, "TOKENS_TOGETHER", together)
    random = np.random.default_rng(1)
    train, validation, test = (random.integers(0, 50_000, size) for size in (2000, 500, 549))
    train[33 : 33 + WINDOW] = validation[100:150]  # a whole window, at an odd place
    train[-WINDOW:] = validation[450:]  # at the very end
    train[700:749] = test[200:249]  # one token less than a window
    train[900:950] = test[325:375]  # across two windows
    train[1000:1050] = test[:50]
    in_memory = Tokens(train)
    found = measure_overlap(in_memory, {"validation": Tokens(validation), "test": Tokens(test)})
    assert found == {
        "window_tokens": WINDOW,
        "validation": {"windows": 10, "in_train": 2},
        "test": {"windows": 10, "in_train": 1},
    }
    assert in_memory.released
    assert describe_overlap(found).endswith("2 of the validation part's 10, 1 of the test part's 10")


def test_a_long_part_is_sampled_evenly(monkeypatch):
    monkeypatch.setattr(overlap, "MAX_WINDOWS", 4)
    tokens = np.arange(10_000)
    found = measure_overlap(Tokens(tokens[5000:]), {"test": Tokens(tokens)})
    assert found["test"] == {"windows": 4, "in_train": 2}


def test_parts_shorter_than_a_window_have_none():
    short = Tokens(np.arange(WINDOW - 1))
    found = measure_overlap(short, {"validation": short, "test": Tokens(np.arange(WINDOW))})
    assert found["validation"] == {"windows": 0, "in_train": 0}
    assert found["test"] == {"windows": 1, "in_train": 0}
    assert measure_overlap(short, {"test": short})["test"]["windows"] == 0
