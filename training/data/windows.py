"""From token shards to batches: windows and their order."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from .shards import TokenVector

IGNORED = -100  # a label that does not count


class TokenWindows(Dataset):
    """Consecutive windows of a token vector; a window of T tokens has T predictions, the last one into the next window.

    Args:
        tokens: the vector.
        length: T, in tokens.
        keep_tail: whether the last, shorter window counts: yes where every token is to be measured, no in training.
        document_start: the id that stands before each document, to count positions from it, which keeps the model from
            looking into another document; `None`: positions count through the window.
    """

    def __init__(self, tokens: TokenVector, length: int, keep_tail: bool = False, document_start: int | None = None):
        self.tokens = tokens
        self.length = length
        self.document_start = document_start
        predictions = max(0, len(tokens) - 1)
        self.num_windows = math.ceil(predictions / length) if keep_tail else predictions // length

    def __len__(self) -> int:
        return self.num_windows

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        start = index * self.length
        tokens = torch.from_numpy(self.tokens[start : start + self.length + 1])
        window = {"input_ids": tokens[:-1], "shift_labels": tokens[1:]}
        if self.document_start is not None:
            window["position_ids"] = positions_in_documents(window["input_ids"], self.document_start)
        return window


def positions_in_documents(input_ids: torch.Tensor, document_start: int) -> torch.Tensor:
    """Each token's position in its document; a document that began before the window counts from the window's first
    token.

    The end of a text is the first token of the next one: it predicts how a text begins, as it does when the model
    writes from nothing, and that must not depend on the text before.

    Args:
        input_ids: ids of shape `(length,)`.
        document_start: the id at which a document begins.
    """
    positions = torch.arange(len(input_ids))
    starts = torch.where(input_ids == document_start, positions, 0)
    return positions - starts.cummax(dim=0).values


def collate_windows(windows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stacks windows to `(batch_size, length)`. A shorter one is filled up with labels that do not count.

    `labels` repeat the input, because the library's Trainer counts and evaluates by that name; the model uses
    `shift_labels` alone.
    """
    length = max(len(window["input_ids"]) for window in windows)

    def stack(name: str, fill: int) -> torch.Tensor:
        return torch.stack([torch.nn.functional.pad(w[name], (0, length - len(w[name])), value=fill) for w in windows])

    batch = {
        "input_ids": stack("input_ids", 0),  # any id: later tokens change nothing before them
        "labels": stack("input_ids", IGNORED),
        "shift_labels": stack("shift_labels", IGNORED),
    }
    return batch | ({"position_ids": stack("position_ids", 0)} if "position_ids" in windows[0] else {})


@dataclass(frozen=True)
class WindowShare:
    """The windows of one of several corpora, and their share of those that a run visits.

    Args:
        name: of the corpus.
        tokens: of the corpus in the part.
        first, end: its windows are those from `first` up to `end`, without it.
        share: all shares add up to 1.
    """

    name: str
    tokens: int
    first: int
    end: int
    share: float


class WindowOrder(Sampler[int]):
    """The order in which a run visits the windows: epoch after epoch, a function of (seed, epoch) alone.

    One pass over the sampler is the whole run, so that every step has the same number of tokens, also where an epoch
    ends within one.

    Args:
        num_windows: windows of an epoch.
        num_samples: windows that the run visits.
        seed: of the permutations.
        shuffle: whether to permute at all.
        shares: of several corpora that are weighted: each has epochs of its own, and takes its turns so that at any
            moment it has had its share, to less than one window. `None`: the windows are visited as they are.
    """

    def __init__(
        self, num_windows: int, num_samples: int, seed: int, shuffle: bool, shares: list[WindowShare] | None = None
    ):
        self.ranges = [(share.first, share.end) for share in shares] if shares else [(0, num_windows)]
        self.shares = [share.share for share in shares] if shares else [1.0]
        self.num_samples = num_samples
        self.seed = seed
        self.shuffle = shuffle

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        streams = [self._endless(corpus) for corpus in range(len(self.shares))]
        return itertools.islice((next(streams[corpus]) for corpus in turns(self.shares)), self.num_samples)

    def _endless(self, corpus: int) -> Iterator[int]:
        first, end = self.ranges[corpus]
        for epoch in itertools.count():
            if self.shuffle:
                seed = [self.seed, epoch, *([corpus] if corpus else [])]
                yield from map(int, first + np.random.default_rng(seed).permutation(end - first))
            else:
                yield from range(first, end)


def turns(shares: list[float]) -> Iterator[int]:
    """Whose turn it is, without end: after any number n of turns, each has had n times its share, to less than one.

    Tijdeman, 1980, "The chairman assignment problem": of those who may have a turn without getting too far ahead, the
    one who would be too far behind first.
    """
    slack = 1 - 1 / max(2, 2 * len(shares) - 2)
    had = [0] * len(shares)
    for turn in itertools.count(1):
        may = [who for who, share in enumerate(shares) if turn * share - had[who] >= 1 - slack] or range(len(shares))
        who = min(may, key=lambda who: (had[who] + slack) / shares[who])
        had[who] += 1
        yield who
