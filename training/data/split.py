"""How a corpus is parted into train, validation and test: surveyed, planned, and read as a stream of text by part."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from tqdm import tqdm

from ..errors import InputError
from .corpus import Corpus
from .cutting import next_place
from .duplicates import SeenDocuments

# Raised when the same corpus becomes another stream of text, which half of one cannot go on with.
STREAM = 2
SPLITS = ("train", "validation", "test")  # in the order in which a contiguous split has them
DEFAULT_FRACTIONS = {"hash": (0.98, 0.01, 0.01), "contiguous": (0.90, 0.05, 0.05)}
# Below this, a hundredth of the documents would be less than one.
DOCUMENTS_FOR_HASH_SPLIT = 100
# A part that gets no document by chance is a concern of small corpora only: the chance that none of n documents falls
# into a hundredth is 0.99^n, 1e-18 here.
MAX_KEPT_HASHES = 4096


@dataclass(frozen=True)
class Survey:
    """What one pass over a corpus finds out: enough to name it, split it and check it.

    Args:
        sha256: hash of all documents in order.
        documents, characters, utf8_bytes: totals.
        duplicates: documents left out because the same text came before.
        document_hashes: the distinct hashes' fractions in rising order, or `None` where there are too many to keep.
    """

    sha256: str
    documents: int
    characters: int
    utf8_bytes: int
    duplicates: int
    document_hashes: tuple[float, ...] | None


def survey(corpus: Corpus, seen: SeenDocuments | None = None) -> Survey:
    """Reads the whole corpus once.

    Args:
        seen: leave out documents that it has seen, and show it the others.

    Raises:
        InputError: the corpus holds no text, or something unreadable.
    """
    sha256 = hashlib.sha256()
    documents = characters = utf8_bytes = duplicates = 0
    hashes: set[float] | None = set()
    with tqdm(desc="reading", unit="char", unit_scale=True, delay=5) as progress:
        for document in corpus.documents():
            document_sha256 = hashlib.sha256()
            length = size = 0
            for piece in document.pieces():
                encoded = piece.encode()
                document_sha256.update(encoded)
                length += len(piece)
                size += len(encoded)
            progress.update(length)
            if length == 0:
                continue
            digest = document_sha256.digest()
            if seen is not None and not seen.add(digest):
                duplicates += 1
                continue
            sha256.update(digest)
            documents += 1
            characters += length
            utf8_bytes += size
            if hashes is not None:
                hashes.add(_fraction(digest))
                if len(hashes) > MAX_KEPT_HASHES:
                    hashes = None
    if documents == 0:
        others = "" if duplicates == 0 else f" that has not come before (deduplicate), in {duplicates:,} documents"
        raise InputError(f"corpus {corpus.name} is empty: it holds no text{others}")
    kept = None if hashes is None else tuple(sorted(hashes))
    return Survey(sha256.hexdigest(), documents, characters, utf8_bytes, duplicates, kept)


def _fraction(digest: bytes) -> float:
    """A number in [0, 1) that depends on the document's text alone."""
    return int.from_bytes(digest[:6]) / 2**48


@dataclass(frozen=True)
class Split:
    """How a corpus is parted; made by [`plan_split`].

    Args:
        boundaries: where validation and test begin: in [0, 1) by hash, in characters of the corpus if contiguous.
    """

    kind: Literal["hash", "contiguous"]
    fractions: tuple[float, float, float]
    boundaries: tuple[float, float]


def plan_split(
    kind: Literal["auto", "hash", "contiguous"], fractions: list[float] | None, found: Survey | None
) -> Split:
    """Decides where train, validation and test lie, so that none of them is empty.

    By hash, identical documents fall into the same part, and a document stays in its part when a large corpus grows.

    Args:
        found: `None` for a corpus that was not read beforehand, which is taken to be large.

    Raises:
        InputError: fewer than three different documents for a split by hash, or no known length for a contiguous one.
    """
    if kind == "auto":
        kind = "hash" if found is None or found.documents >= DOCUMENTS_FOR_HASH_SPLIT else "contiguous"
    shares = tuple(fractions) if fractions is not None else DEFAULT_FRACTIONS[kind]
    ends = (shares[0], shares[0] + shares[1])
    if kind == "contiguous":
        if found is None:
            raise InputError("split is contiguous, but a streamed dataset's length is not known: set split to hash")
        return Split(kind, shares, tuple(round(end * found.characters) for end in ends))
    hashes = None if found is None else found.document_hashes
    if hashes is None:
        return Split(kind, shares, ends)
    if len(hashes) < 3:
        raise InputError(
            f"split is hash, which needs 3 different documents, but the corpus has {len(hashes)}: "
            "set split to contiguous"
        )
    validation, test = (max(1, round(share * len(hashes))) for share in shares[1:])
    test = min(test, len(hashes) - 2)  # of few documents the larger shares leave some to the other parts
    validation = min(validation, len(hashes) - test - 1)
    return Split(kind, shares, (hashes[-test - validation], hashes[-test]))


@dataclass(frozen=True)
class Position:
    """How far a stream of text has come.

    Args:
        documents: documents of the corpus that are done, duplicates among them.
        pieces: pieces done of the document after those.
        characters: of the corpus so far.
        different: documents so far that had not come before, where that is looked at.
        state: the corpus' own state.
        earlier: of several corpora, the documents and characters of each one before this.
    """

    documents: int = 0
    pieces: int = 0
    characters: int = 0
    different: int = 0
    state: Any = None
    earlier: list[list[int]] = field(default_factory=list)

    @property
    def corpus(self) -> int:
        """The number of the corpus that it is in."""
        return len(self.earlier)

    @property
    def all_documents(self) -> int:
        return self.documents + sum(documents for documents, _ in self.earlier)

    @property
    def all_characters(self) -> int:
        return self.characters + sum(characters for _, characters in self.earlier)


# A stretch of text: its part, the text, and whether a document ends here.
Stretch = tuple[str, str, bool]


def split_documents(
    corpus: Corpus, split: Split, seen: SeenDocuments | None = None, start: Position | None = None
) -> Iterator[tuple[list[Stretch], Position]]:
    """The corpus as a stream of text by part, in the corpus' order, each time with the position after it.

    Only a contiguous split cuts documents, near the boundary.

    Args:
        seen: leave out documents that it has seen, and show it the others.
        start: go on from here; `seen` must be as it was then.
    """
    start = start or Position()
    characters = start.characters
    for number, document in enumerate(corpus.documents(start.documents, start.state), start=start.documents):
        done = start.pieces if number == start.documents else 0
        part = digest = None
        if split.kind == "hash" or seen is not None:
            digest = document.sha256()
        if seen is not None and not done and not seen.add(digest):
            continue
        if split.kind == "hash":
            part = SPLITS[sum(_fraction(digest) >= boundary for boundary in split.boundaries)]
        for index, (piece, is_last) in enumerate(_with_last(document.pieces())):
            if index < done:
                continue
            stretches = []
            if part is not None:
                stretches.append((part, piece, is_last))
            else:
                places = [min(max(0, int(boundary - characters)), len(piece)) for boundary in split.boundaries]
                cuts = [0, *(next_place(piece, place) for place in places), len(piece)]
                for name, begin, end in zip(SPLITS, cuts[:-1], cuts[1:], strict=True):
                    if begin < end:
                        stretches.append((name, piece[begin:end], is_last and end == len(piece)))
            characters += len(piece)
            place = (number + 1, 0) if is_last else (number, index + 1)
            different = len(seen) if seen is not None else 0
            yield stretches, Position(*place, characters, different, earlier=start.earlier)


def _with_last(pieces: Iterator[str]) -> Iterator[tuple[str, bool]]:
    previous = None
    for piece in pieces:
        if previous is not None:
            yield previous, False
        previous = piece
    if previous is not None:
        yield previous, True
