"""
Text to token ids, in several processes and in order.

What a worker imports is small, and a worker ends with the process that started it, however that ends.
"""

import os
import pickle
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
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


def serve() -> None:
    """The work of one process: settings first, then batches from standard input, answers to standard output."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    core, dtype, eos_token_id = pickle.load(requests)
    restored = Tokenizer.from_str(core)
    restored.encode_special_tokens = True  # which is not part of the text form
    encode = BatchEncoder(restored, dtype, eos_token_id)
    while True:
        try:
            batch = pickle.load(requests)
        except EOFError:  # nobody holds the other end any more
            return
        pickle.dump(encode(batch), answers)
        answers.flush()


class EncodingProcesses:
    """Encodes in `processes` processes, or here where that is 1. To be used in a `with` block, which ends them."""

    def __init__(self, encode: BatchEncoder, processes: int):
        self._encode_here = encode
        self._settings = (encode.core.to_str(), encode.dtype, encode.eos_token_id)
        self._idle: queue.SimpleQueue[tuple[subprocess.Popen, bool]] = queue.SimpleQueue()
        # Not forked, since threads of PyTorch and tokenizers would be cut off in the middle of what they do; and not by
        # multiprocessing, whose new processes import the program that starts them, PyTorch and all.
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import serve; serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                process_group=0,  # Ctrl-C is for the process that started it
            )
            for _ in range(processes if processes > 1 else 0)
        ]
        for process in self._processes:
            self._idle.put((process, False))
        self._threads = ThreadPoolExecutor(processes)

    def __enter__(self) -> "EncodingProcesses":
        return self

    def __exit__(self, *exception: Any) -> None:
        for process in self._processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            with suppress(BrokenPipeError):  # of a batch that nobody will read
                process.stdin.close()
            process.stdout.close()
            process.wait()

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
        process, has_settings = self._idle.get()
        try:
            if not has_settings:
                pickle.dump(self._settings, process.stdin)
            pickle.dump(batch, process.stdin)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            raise ChildProcessError(
                "a process that encodes text was ended, perhaps for want of memory: "
                "the same command goes on; a smaller tokenize_processes needs less"
            ) from None
        finally:
            self._idle.put((process, True))
