"""Text to token ids, in several threads and in order: the tokenizers library gives Python's lock back meanwhile."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from tokenizers import Tokenizer

PARALLELISM = "TOKENIZERS_PARALLELISM"
Tag = TypeVar("Tag")


@dataclass(frozen=True)
class Encoded:
    """What one part of the corpus gets from a batch: its ids, the bytes of their text, and the documents that end."""

    ids: np.ndarray
    utf8_bytes: int
    documents: int


class BatchEncoder:
    """Encodes batches of `(part, text, whether a document ends here)`. An end becomes the end-of-text token.

    Args:
        core: a tokenizer's core, made by `tokenizer.encoder`. Threads may share it: encoding changes nothing but a
            cache, which has a lock.
        dtype: of the ids.
        eos_token_id: the end-of-text token.
    """

    def __init__(self, core: Tokenizer, dtype: str, eos_token_id: int):
        self.core, self.dtype, self.eos_token_id = core, dtype, eos_token_id

    def __call__(self, batch: list[tuple[str, str, bool]]) -> dict[str, Encoded]:
        encodings = self.core.encode_batch_fast([text for _, text, _ in batch], add_special_tokens=False)
        parts: dict[str, list[tuple[list[int], int, bool]]] = {}
        for (part, text, ends), encoding in zip(batch, encodings, strict=True):
            ids = [*encoding.ids, self.eos_token_id] if ends else encoding.ids
            parts.setdefault(part, []).append((ids, len(text.encode()), ends))
        return {
            part: Encoded(
                np.concatenate([np.array(ids, dtype=self.dtype) for ids, _, _ in found]),
                sum(size for _, size, _ in found),
                sum(ends for _, _, ends in found),
            )
            for part, found in parts.items()
        }


def usable_cores() -> int:
    """Cores that this process may run on; all there are where the system does not say, as macOS does not."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def encode_in_order(
    encode: BatchEncoder, batches: Iterable[tuple[list[tuple[str, str, bool]], Tag]], threads: int
) -> Iterator[tuple[dict[str, Encoded], Tag]]:
    """Encodes `(batch, tag)` pairs in `threads` threads and gives `(encoded, tag)` in their order.

    Reads few batches ahead, so memory is constant. To be closed where it is not read to its end, which ends the threads
    after the batches that they have begun.
    """
    with _one_thread_a_call(), ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[Future[dict[str, Encoded]], Tag]] = deque()
        try:
            for batch, tag in batches:
                waiting.append((pool.submit(encode, batch), tag))
                if len(waiting) > 2 * threads:
                    future, done = waiting.popleft()
                    yield future.result(), done
            while waiting:
                future, done = waiting.popleft()
                yield future.result(), done
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread_a_call() -> Iterator[None]:
    """Keeps the library's own threads, one for each core, out: they would come on top of ours, and are slower."""
    before = os.environ.get(PARALLELISM)
    os.environ[PARALLELISM] = "false"  # which the library reads at each call
    try:
        yield
    finally:
        if before is None:
            del os.environ[PARALLELISM]
        else:
            os.environ[PARALLELISM] = before
