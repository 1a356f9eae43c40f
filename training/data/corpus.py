"""
Text in: a corpus is a sequence of documents, read as a stream.

Documents are never held together, and a long one comes in pieces, so memory does not grow with the corpus.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .cutting import cut_into_pieces

PIECE_CHARACTERS = 2**20


@dataclass(frozen=True)
class Document:
    """One text. `pieces()` reads it from its start, each time it is called."""

    pieces: Callable[[], Iterator[str]]

    @classmethod
    def of(cls, text: str, place: str) -> "Document":
        """A document of text that is in memory. `place` says where it came from, for an `InputError`."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(f"{place}: half a surrogate pair, which is no character") from None
        return cls(lambda: cut_long([text]))

    def sha256(self) -> bytes:
        """Of the text alone."""
        sha256 = hashlib.sha256()
        for piece in self.pieces():
            sha256.update(piece.encode())
        return sha256.digest()


class Corpus(ABC):
    """A source of documents, always in the same order.

    Attributes:
        name: short name, used for the folder of the prepared data.
        description: what the records of a run say of it; no absolute path.
        identity: names the contents where they are known without reading; `None` where reading has to find out.
        not_read: what lies beside its files, in a line; nothing where there is nothing.
        rows_without_text: of the latest stream, up to where it stands; they are no documents.
    """

    name: str
    description: dict[str, str | int | None]
    identity: str | None = None
    not_read: str = ""
    rows_without_text: int = 0

    @abstractmethod
    def signature(self) -> str:
        """Differs when the contents do, and is found out without reading them."""

    @abstractmethod
    def documents(self, skip: int = 0, state: Any = None) -> Iterator[Document]:
        """The documents in order, without the first `skip`.

        Args:
            state: what [`state`] said after those; a corpus that gives none counts them again.

        Raises:
            InputError: a document cannot be read, or has no text where it should be.
        """

    def state(self) -> Any:
        """Where the latest stream of documents stands, as JSON, so that the next one need not begin at the start."""
        return None


def cut_long(texts: Iterable[str]) -> Iterator[str]:
    """A long text in pieces whose tokens, one after the other, are the whole text's, as far as it has spaces."""
    return cut_into_pieces(texts, PIECE_CHARACTERS)
