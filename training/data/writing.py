"""Writing token shards so that a process may be killed at any time and another one goes on (`work_folder`)."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from modeling_gpt_scratch.durable import give_name

from .encoding import COUNTS, Encoded

TOKENS_PER_SHARD = 2**25  # 64 MiB of uint16
COPIED_TOGETHER = 2**20  # bytes
NOTHING = dict.fromkeys(("tokens", *COUNTS), 0)
SAFETENSORS_DTYPES = {"uint16": "U16", "uint32": "U32"}


def check_length(file: Path, length: int) -> None:
    """Raises EOFError where a file is shorter than what was recorded."""
    found = file.stat().st_size if file.exists() else 0
    if found < length:
        raise EOFError(f"{file} has {found} bytes, less than the {length} that were recorded")


class GrowingFile:
    """A file that is only appended to.

    Args:
        length: bytes that count; what lies after them is cut off.

    Raises:
        EOFError: there are not that many.
    """

    def __init__(self, file: Path, length: int):
        self.file = file
        check_length(file, length)
        self._stream = file.open("r+b" if length else "wb")
        self._stream.truncate(length)
        self._stream.seek(length)
        self.length = length

    def append(self, data: bytes | memoryview) -> None:
        self._stream.write(data)
        self.length += len(data)

    def sync(self) -> int:
        """Makes it durable. Returns its length."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return self.length

    def close(self) -> None:
        self._stream.close()


class PartWriter:
    """The shards of one part, from ids that come in order. It begins with the end-of-text token.

    Of several corpora, whose ids come one after the other, each is counted for itself.

    Args:
        work: the work folder.
        state: what [`checkpoint`] returned, to go on from there; `None` begins anew.
    """

    def __init__(self, work: Path, part: str, dtype: str, eos_token_id: int, state: dict[str, Any] | None = None):
        self.work, self.part, self.dtype = work, part, np.dtype(dtype)
        state = state or {"shards": [], "waiting_bytes": 0, "corpora": [dict(NOTHING)], "ended": False}
        self.shards: list[dict[str, Any]] = list(state["shards"])
        self.corpora: list[dict[str, int]] = [dict(counts) for counts in state["corpora"]]
        self._end = np.array([eos_token_id], dtype=dtype)
        self._ended: bool = state["ended"]
        self._outdated: list[Path] = []
        for shard in self.shards:
            check_length(work / "data" / shard["file"], shard["bytes"])
        self._waiting = self._open(state["waiting_bytes"])
        if not self.shards and not self._waiting.length:
            self.add(Encoded(self._end, 0, 0))

    def begin_corpus(self, number: int) -> None:
        """What is added from now on is of that corpus. A document that a split has cut has its end before it."""
        while len(self.corpora) <= number:
            if not self._ended:
                self.add(Encoded(self._end, 0, 0))
            self.corpora.append(dict(NOTHING))

    def add(self, encoded: Encoded) -> None:
        counts = self.corpora[-1]
        counts["tokens"] += len(encoded.ids)
        for name in COUNTS:
            counts[name] += getattr(encoded, name)
        if len(encoded.ids):
            self._ended = bool(encoded.ids[-1] == self._end[0])
        self._append(encoded.ids)

    def checkpoint(self) -> dict[str, Any]:
        """Makes everything so far durable. Returns what brings it back."""
        return {
            "shards": list(self.shards),
            "waiting_bytes": self._waiting.sync(),
            "corpora": [dict(counts) for counts in self.corpora],
            "ended": self._ended,
        }

    def forget_outdated(self) -> None:
        """Removes what only an older checkpoint needs; to be called when the newer one is on the disk."""
        for file in self._outdated:
            file.unlink(missing_ok=True)
        self._outdated.clear()

    def finish(self) -> dict[str, Any]:
        """Writes the last shard, which may be shorter. Returns what the manifest says of the part."""
        if self._waiting.length:
            self._complete_shard()
        self._waiting.close()
        totals = {name: sum(counts[name] for counts in self.corpora) for name in NOTHING}
        return {**totals, **({"corpora": self.corpora} if len(self.corpora) > 1 else {}), "shards": self.shards}

    def close(self) -> None:
        self._waiting.close()

    def _open(self, length: int) -> GrowingFile:
        return GrowingFile(self.work / f"{self.part}-{len(self.shards):05d}.tokens", length)

    def _append(self, ids: np.ndarray) -> None:
        while len(ids):
            room = TOKENS_PER_SHARD - self._waiting.length // self.dtype.itemsize
            self._waiting.append(np.ascontiguousarray(ids[:room]).data.cast("B"))
            ids = ids[room:]
            if self._waiting.length == TOKENS_PER_SHARD * self.dtype.itemsize:
                self._complete_shard()
                self._waiting = self._open(0)

    def _complete_shard(self) -> None:
        """The waiting ids with a header before them, in pieces: a shard is never held in memory."""
        size = self._waiting.sync()
        self._waiting.close()
        file = self.work / "data" / f"{self.part}-{len(self.shards):05d}.safetensors"
        temporary = self.work / f"{file.name}.new"
        sha256 = hashlib.sha256()
        with self._waiting.file.open("rb") as source, temporary.open("wb") as target:
            piece = _header(self.dtype, size)
            while piece:
                target.write(piece)
                sha256.update(piece)
                piece = source.read(COPIED_TOGETHER)
            written = target.tell()
        give_name(temporary, file)
        self._outdated.append(self._waiting.file)
        tokens = size // self.dtype.itemsize
        self.shards.append({"file": file.name, "tokens": tokens, "bytes": written, "sha256": sha256.hexdigest()})


def _header(dtype: np.dtype, size: int) -> bytes:
    """What a safetensors file begins with that holds one vector `tokens` of `size` bytes."""
    entry = {
        "dtype": SAFETENSORS_DTYPES[dtype.name],
        "shape": [size // dtype.itemsize],
        "data_offsets": [0, size],
    }
    header = json.dumps({"tokens": entry}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header
