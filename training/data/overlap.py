"""How much of the held-out text also occurs in the training text: a loss on what was learnt by heart says little."""

from typing import Any

import numpy as np
from tqdm import tqdm

from .shards import TokenVector

WINDOW = 50  # tokens (Lee et al., 2022, "Deduplicating Training Data Makes Language Models Better", section 4.1)
# Evenly spread over a longer part, so that memory stays constant.
MAX_WINDOWS = 2**16
TOKENS_TOGETHER = 2**18
CHUNKS_MAPPED = 32
# Any odd number with well mixed bits serves as the base of a rolling hash modulo 2^64.
BASE = 0x9E3779B97F4A7C15
TABLE_BITS = 22


def window_hashes(tokens: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each window of `WINDOW` tokens, by its first token.

    A window of 2n is made from two of n, so that this takes a few passes and not `WINDOW`.
    """
    count = len(tokens) - WINDOW + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    doubled = _mixed(tokens.astype(np.uint64) + np.uint64(1))
    hashes, covered, width = None, 0, 1
    while width <= WINDOW:
        if WINDOW & width:
            here = doubled[covered : covered + count]
            hashes = here if hashes is None else hashes * _power(width) + here
            covered += width
        doubled = doubled[:-width] * _power(width) + doubled[width:] if len(doubled) > width else doubled[:0]
        width *= 2
    return _mixed(hashes)


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(BASE, exponent, 2**64))


def _mixed(values: np.ndarray) -> np.ndarray:
    values = values * np.uint64(BASE)
    return (values ^ (values >> np.uint64(29))) * np.uint64(BASE)


def measure_overlap(train: TokenVector, held_out: dict[str, TokenVector], progress: bool = True) -> dict[str, Any]:
    """Looks for the held-out parts' windows, end to end, at every position of the training part.

    Returns:
        the window's length in tokens and, for each part, how many windows were looked for and how many were found.
    """
    wanted: dict[str, np.ndarray] = {}
    for part, tokens in held_out.items():
        windows = len(tokens) // WINDOW
        places = np.unique(np.linspace(0, windows - 1, min(windows, MAX_WINDOWS)).astype(np.int64)) * WINDOW
        found = [window_hashes(tokens[int(place) : int(place) + WINDOW]) for place in places]
        wanted[part] = np.concatenate(found) if found else np.empty(0, dtype=np.uint64)

    keys = np.unique(np.concatenate(list(wanted.values())))
    occurs = np.zeros(len(keys), dtype=bool)
    table = np.zeros(2**TABLE_BITS, dtype=bool)  # most windows are told apart here, without a search
    shift = np.uint64(64 - TABLE_BITS)
    table[keys >> shift] = True
    with tqdm(total=len(train), desc="overlap", unit="tok", unit_scale=True, delay=5, disable=not progress) as bar:
        for start in range(0, len(train) if len(keys) else 0, TOKENS_TOGETHER):
            hashes = window_hashes(train[start : start + TOKENS_TOGETHER + WINDOW - 1])
            candidates = hashes[table[hashes >> shift]]
            places = np.minimum(np.searchsorted(keys, candidates), len(keys) - 1)
            occurs[places[keys[places] == candidates]] = True
            bar.update(min(TOKENS_TOGETHER, len(train) - start))
            if start // TOKENS_TOGETHER % CHUNKS_MAPPED == 0:
                train.release()

    parts = {
        part: {"windows": len(hashes), "in_train": int(occurs[np.searchsorted(keys, hashes)].sum())}
        for part, hashes in wanted.items()
    }
    return {"window_tokens": WINDOW, **parts}


def describe_overlap(overlap: dict[str, Any]) -> str:
    """The figures as one line."""
    shares = [
        f"{counts['in_train']:,} of the {part} part's {counts['windows']:,}"
        for part, counts in overlap.items()
        if part != "window_tokens"
    ]
    return f"windows of {overlap['window_tokens']} tokens that also occur in training: {', '.join(shares)}"
