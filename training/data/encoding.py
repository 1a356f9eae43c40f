"""Text to token ids, in several threads and in order: the tokenizers library gives Python's lock back meanwhile."""

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

PARALLELISM = "TOKENIZERS_PARALLELISM"
Tag = TypeVar("Tag")


@dataclass(frozen=True)
class Encoded:
    """What one part of the corpus gets from a batch.

    Args:
        ids: its tokens.
        utf8_bytes: of their text.
        documents: that end.
        unknown_tokens: how many stand for any text that the tokenizer has no token for.
        changed_bytes: of the texts that cannot be had back from their tokens.
    """

    ids: np.ndarray
    utf8_bytes: int
    documents: int
    unknown_tokens: int = 0
    changed_bytes: int = 0


# What is counted of all text, beside its tokens.
COUNTS = tuple(field.name for field in fields(Encoded) if field.name != "ids")


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
        self.keeps_all_text = keeps_all_text(core)
        unknown = unknown_token(core)
        self.unknown_id = None if unknown is None else core.token_to_id(unknown)

    def __call__(self, batch: list[tuple[str, str, bool]]) -> dict[str, Encoded]:
        encodings = self.core.encode_batch_fast([text for _, text, _ in batch], add_special_tokens=False)
        parts: dict[str, list[Encoded]] = {}
        for (part, text, ends), encoding in zip(batch, encodings, strict=True):
            ids = [*encoding.ids, self.eos_token_id] if ends else encoding.ids
            size = len(text.encode())
            losses = (0, 0) if self.keeps_all_text else self._losses(text, encoding.ids, size)
            parts.setdefault(part, []).append(Encoded(np.array(ids, dtype=self.dtype), size, ends, *losses))
        return {
            part: Encoded(
                np.concatenate([encoded.ids for encoded in found]),
                *(sum(getattr(encoded, name) for encoded in found) for name in COUNTS),
            )
            for part, found in parts.items()
        }

    def _losses(self, text: str, ids: list[int], size: int) -> tuple[int, int]:
        """The tokens that stand for unknown text, and all bytes of the text if it does not come back as it was."""
        back = self.core.decode(ids, skip_special_tokens=False)
        # Tokenizers that write a space into each word put one before the first, or take it away.
        is_kept = back.removeprefix(" ") == text.removeprefix(" ")
        return ids.count(self.unknown_id), 0 if is_kept else size


def unknown_token(core: Tokenizer) -> str | None:
    """The token for text that a tokenizer has no other for, if there is one."""
    model = json.loads(core.to_str())["model"]
    if model.get("unk_id") is not None:  # Unigram's
        return model["vocab"][model["unk_id"]][0]
    return model.get("unk_token")


def keeps_all_text(core: Tokenizer) -> bool:
    """Whether any text comes back from its tokens by the way they are made: of its bytes, which nothing changes before.

    Other tokenizers may keep the text at hand too, which only a look at it tells.
    """
    parts = json.loads(core.to_str())
    steps = parts["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    in_bytes = [step for step in steps if step.get("type") == "ByteLevel"]
    return (
        parts["normalizer"] is None
        and (parts["decoder"] or {}).get("type") == "ByteLevel"
        and len(in_bytes) == 1
        and not in_bytes[0]["add_prefix_space"]
        and all(
            step["type"] in ("ByteLevel", "Split", "Digits") and step.get("behavior") != "Removed" for step in steps
        )
        and not any(token["lstrip"] or token["rstrip"] for token in parts["added_tokens"] if not token["special"])
        and all(core.token_to_id(byte) is not None for byte in ByteLevel.alphabet())
    )


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
