"""Which documents have been seen before, in as little memory as that takes."""

import numpy as np

# A key is 64 bits of a document's sha256: among 100 million different documents, the chance that any two are taken for
# the same is 3 in 10,000.
KEY_BYTES = 8
FEWEST_RECENT = 2**16


class SeenDocuments:
    """A set of documents by their sha256, of 16 to 30 bytes a document.

    Args:
        keys: those of documents that were seen before, as [`keys`] gave them.
    """

    def __init__(self, keys: bytes = b""):
        self._sorted = np.sort(np.frombuffer(keys, dtype=np.uint64))
        self._recent: set[int] = set()
        self._unsaved: list[int] = []

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def add(self, sha256: bytes) -> bool:
        """Notes a document. Returns whether it is a new one."""
        key = int.from_bytes(sha256[:KEY_BYTES])
        if key in self._recent:
            return False
        place = int(np.searchsorted(self._sorted, np.uint64(key)))
        if place < len(self._sorted) and int(self._sorted[place]) == key:
            return False
        self._recent.add(key)
        self._unsaved.append(key)
        # In step with the whole, so that sorting stays cheap however many there are.
        if len(self._recent) >= max(FEWEST_RECENT, len(self._sorted) // 8):
            recent = np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent))
            self._sorted = np.concatenate([self._sorted, recent])
            self._sorted.sort(kind="stable")
            self._recent.clear()
        return True

    def new_keys(self) -> bytes:
        """The keys that came since the last call, in their order."""
        keys = np.array(self._unsaved, dtype=np.uint64).tobytes()
        self._unsaved.clear()
        return keys
