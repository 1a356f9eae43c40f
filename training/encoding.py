"""
Text to token ids, in several processes and in order.

What a worker imports is small, and a worker ends with the process that started it, however that ends.
"""

import multiprocessing
import os
import queue
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import numpy as np
from tokenizers import Tokenizer

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
        core: a tokenizer's core, made by `tokenizer.encoder`.
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


def _work(connection: Connection, core: str, dtype: str, eos_token_id: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the first one decides
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    restored = Tokenizer.from_str(core)
    restored.encode_special_tokens = True  # which is not part of the text form
    encode = BatchEncoder(restored, dtype, eos_token_id)
    while True:
        try:
            batch = connection.recv()
        except EOFError:  # nobody holds the other end any more
            return
        connection.send(encode(batch))


class EncodingProcesses:
    """Encodes in `processes` processes, or here where that is 1. To be used in a `with` block, which ends them."""

    def __init__(self, encode: BatchEncoder, processes: int):
        self._encode_here = encode
        # Not forked: threads of PyTorch and tokenizers would be cut off in the middle of what they do.
        context = multiprocessing.get_context("spawn")
        self._idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._processes = []
        for _ in range(processes if processes > 1 else 0):
            ours, theirs = context.Pipe()
            arguments = (theirs, encode.core.to_str(), encode.dtype, encode.eos_token_id)
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            theirs.close()  # so that reading fails when the process is gone
            self._processes.append(process)
            self._idle.put(ours)
        self._threads = ThreadPoolExecutor(processes)

    def __enter__(self) -> "EncodingProcesses":
        return self

    def __exit__(self, *exception: Any) -> None:
        for process in self._processes:
            process.terminate()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.join()

    def encode_in_order(self, batches: Iterable[tuple[list, Tag]]) -> Iterator[tuple[dict[str, Encoded], Tag]]:
        """Encodes `(batch, tag)` pairs and gives `(encoded, tag)`. Reads few batches ahead, so memory is constant.

        Raises:
            ChildProcessError: a process was ended from outside.
        """
        if not self._processes:
            yield from ((self._encode_here(batch), tag) for batch, tag in batches)
            return
        waiting: deque[tuple[Future, Tag]] = deque()
        for batch, tag in batches:
            waiting.append((self._threads.submit(self._encode, batch), tag))
            if len(waiting) > 2 * len(self._processes):
                future, done = waiting.popleft()
                yield future.result(), done
        for future, done in waiting:
            yield future.result(), done

    def _encode(self, batch: list) -> dict[str, Encoded]:
        connection = self._idle.get()
        try:
            connection.send(batch)
            encoded = connection.recv()
        except (EOFError, OSError):
            raise ChildProcessError(
                "a process that encodes text was ended, perhaps for want of memory: "
                "the same command goes on; a smaller tokenize_processes needs less"
            ) from None
        finally:
            self._idle.put(connection)
        return encoded
