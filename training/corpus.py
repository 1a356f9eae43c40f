"""
Text in: a corpus is a sequence of documents, read as a stream, and its split into train, validation and test.

Documents are never held together, and a long one comes in pieces, so memory does not grow with the corpus.
"""

import hashlib
import json
import platform
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .errors import InputError

TEXT_SUFFIXES = (".txt", ".md", ".py")
SUFFIXES = (*TEXT_SUFFIXES, ".jsonl")
SPLITS = ("train", "validation", "test")
DEFAULT_FRACTIONS = {"hash": (0.98, 0.01, 0.01), "contiguous": (0.90, 0.05, 0.05)}
# Below this, a hundredth of the documents would be less than one.
DOCUMENTS_FOR_HASH_SPLIT = 100
PIECE_CHARACTERS = 2**20
# What has no space for a megabyte is cut into words of this length, since training a tokenizer takes the square of it.
WORD_CHARACTERS = 4096

# Left out of the standard library: its tests are larger than itself, and the tables of the codecs are no text.
STDLIB_LEFT_OUT = {"__pycache__", "dist-packages", "encodings", "idle_test", "site-packages", "test", "tests"}


@dataclass(frozen=True)
class Document:
    """One text. `pieces()` reads it from its start, each time it is called."""

    pieces: Callable[[], Iterator[str]]

    def hash_fraction(self) -> float:
        """A number in [0, 1) that depends on the text alone."""
        sha256 = hashlib.sha256()
        for piece in self.pieces():
            sha256.update(piece.encode())
        return _fraction(sha256.digest())


def _fraction(digest: bytes) -> float:
    return int.from_bytes(digest[:6]) / 2**48


@dataclass(frozen=True)
class Corpus:
    """Files that hold documents: one each, or one a line in .jsonl.

    Args:
        name: short name, used for the folder of the prepared data.
        description: what the records of a run say of it; no absolute path.
        files: in the order in which they are read.
        text_field: field of a .jsonl line that holds the text.
        skip_undecodable: leave out files that are not UTF-8; otherwise they are an `InputError`.
    """

    name: str
    description: dict[str, str | int]
    files: tuple[Path, ...]
    text_field: str = "text"
    skip_undecodable: bool = False

    def documents(self) -> Iterator[Document]:
        """The documents in order.

        Raises:
            InputError: a file that is not UTF-8 text or cannot be read, or a .jsonl line without the text field.
        """
        for file in self.files:
            if file.suffix.lower() == ".jsonl":
                yield from self._json_lines(file)
            elif not (self.skip_undecodable and not _is_utf8(file)):
                yield Document(lambda file=file: _pieces(_read(file, PIECE_CHARACTERS)))

    def _json_lines(self, file: Path) -> Iterator[Document]:
        for number, line in enumerate(_read(file, None), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                raise InputError(f"{file}, line {number}: not JSON") from None
            if not isinstance(record, dict) or not isinstance(record.get(self.text_field), str):
                found = ", ".join(record) if isinstance(record, dict) else type(record).__name__
                raise InputError(f"{file}, line {number}: no text in field {self.text_field!r}; found: {found}")
            text = record[self.text_field]
            try:
                text.encode()
            except UnicodeEncodeError:
                raise InputError(f"{file}, line {number}: half a surrogate pair, which is no character") from None
            yield Document(lambda text=text: _pieces([text]))


def open_corpus(corpus: str, text_field: str) -> Corpus:
    """The corpus that a recipe names: `stdlib`, or a file or folder of .txt, .md, .py and .jsonl.

    Raises:
        InputError: nothing there, or nothing of a known kind.
    """
    if corpus == "stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        files = tuple(
            file for file in sorted(root.rglob("*.py")) if not STDLIB_LEFT_OUT & set(file.relative_to(root).parts)
        )
        if not files:
            raise InputError("corpus is stdlib, but this Python has no source of its standard library: name a folder")
        description = {"corpus": "stdlib", "python": platform.python_version()}
        return Corpus("stdlib", description, files, skip_undecodable=True)

    path = Path(corpus)
    if not path.exists():
        raise InputError(f"corpus {corpus} does not exist")
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"corpus {corpus} is a {path.suffix or 'nameless'} file; known are {', '.join(SUFFIXES)}")
        files = (path,)
    else:
        files = tuple(
            sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and _is_visible(file, path))
        )
        if not files:
            raise InputError(f"corpus {corpus} holds no file of the known kinds: {', '.join(SUFFIXES)}")
    name = path.resolve().stem
    return Corpus(name, {"corpus": name, "files": len(files)}, files, text_field)


def _is_visible(file: Path, root: Path) -> bool:
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(root).parts)


def _is_utf8(file: Path) -> bool:
    try:
        return all(True for _ in _read(file, PIECE_CHARACTERS))
    except InputError:
        return False


def _read(file: Path, size: int | None) -> Iterator[str]:
    """The file's text, `size` characters at a time, or by lines where it is `None`."""
    try:
        # newline="": bytes are counted, so line ends stay as they are. A byte order mark is no text.
        with file.open(encoding="utf-8-sig", newline="") as stream:
            yield from stream if size is None else iter(lambda: stream.read(size), "")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text ({error.reason}): convert it or take it out") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """Cuts a long text before a space that follows a visible character, where byte-level tokenizers begin a new token.

    So the pieces' tokens, one after the other, are the whole text's tokens, as far as the text has such spaces.
    """
    rest = ""
    for text in texts:
        rest += text
        while len(rest) > PIECE_CHARACTERS:
            cut = _last_cut(rest, PIECE_CHARACTERS)
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def _last_cut(text: str, limit: int) -> int:
    for separator in " \n":
        position = limit
        while (position := text.rfind(separator, 1, position)) > 0:
            if not text[position - 1].isspace():
                return position
    return min(limit, WORD_CHARACTERS)


@dataclass(frozen=True)
class Survey:
    """What one pass over a corpus finds out: enough to name it, split it and check it.

    Args:
        sha256: hash of all documents in order.
        documents, characters, utf8_bytes: totals.
        document_hashes: the distinct `hash_fraction`s in rising order, or `None` where there are too many to keep.
    """

    sha256: str
    documents: int
    characters: int
    utf8_bytes: int
    document_hashes: tuple[float, ...] | None


# A part that gets no document by chance is a concern of small corpora only: the chance that none of n documents falls
# into a hundredth is 0.99^n, 1e-18 here.
MAX_KEPT_HASHES = 4096


def survey(corpus: Corpus) -> Survey:
    """Reads the whole corpus once.

    Raises:
        InputError: the corpus holds no text, or something unreadable.
    """
    sha256 = hashlib.sha256()
    documents = characters = utf8_bytes = 0
    hashes: set[float] | None = set()
    for document in corpus.documents():
        document_sha256 = hashlib.sha256()
        length = 0
        for piece in document.pieces():
            encoded = piece.encode()
            document_sha256.update(encoded)
            length += len(piece)
            utf8_bytes += len(encoded)
        if length == 0:
            continue
        sha256.update(document_sha256.digest())
        documents += 1
        characters += length
        if hashes is not None:
            hashes.add(_fraction(document_sha256.digest()))
            if len(hashes) > MAX_KEPT_HASHES:
                hashes = None
    if documents == 0:
        raise InputError(f"corpus {corpus.name} is empty: it holds no text")
    kept = None if hashes is None else tuple(sorted(hashes))
    return Survey(sha256.hexdigest(), documents, characters, utf8_bytes, kept)


@dataclass(frozen=True)
class Split:
    """How a corpus is parted; made by [`plan_split`].

    Args:
        boundaries: where validation and test begin: in [0, 1) by hash, in characters of the corpus if contiguous.
    """

    kind: Literal["hash", "contiguous"]
    fractions: tuple[float, float, float]
    boundaries: tuple[float, float]


def plan_split(kind: Literal["auto", "hash", "contiguous"], fractions: list[float] | None, found: Survey) -> Split:
    """Decides where train, validation and test lie, so that none of them is empty.

    By hash, identical documents fall into the same part, and a document stays in its part when a large corpus grows.

    Raises:
        InputError: fewer than three different documents for a split by hash.
    """
    if kind == "auto":
        kind = "hash" if found.documents >= DOCUMENTS_FOR_HASH_SPLIT else "contiguous"
    shares = tuple(fractions) if fractions is not None else DEFAULT_FRACTIONS[kind]
    ends = (shares[0], shares[0] + shares[1])
    if kind == "contiguous":
        return Split(kind, shares, tuple(round(end * found.characters) for end in ends))
    hashes = found.document_hashes
    if hashes is None:
        return Split(kind, shares, ends)
    if len(hashes) < 3:
        raise InputError(
            f"split is hash, which needs 3 different documents, but the corpus has {len(hashes)}: "
            "set split to contiguous"
        )
    validation, test = (max(1, round(share * len(hashes))) for share in shares[1:])
    return Split(kind, shares, (hashes[-test - validation], hashes[-test]))


def split_documents(corpus: Corpus, split: Split) -> Iterator[tuple[str, str, bool]]:
    """The corpus as a stream of `(part, text, whether a document ends here)`, in the corpus' order.

    Only a contiguous split cuts documents, at the first space or line end after the boundary.
    """
    position = 0
    for document in corpus.documents():
        part = None
        if split.kind == "hash":
            fraction = document.hash_fraction()
            part = SPLITS[sum(fraction >= boundary for boundary in split.boundaries)]
        for piece, is_last in _with_last(document.pieces()):
            if part is not None:
                yield part, piece, is_last
                continue
            cuts = [0, *(_cut(piece, boundary - position) for boundary in split.boundaries), len(piece)]
            for name, start, end in zip(SPLITS, cuts[:-1], cuts[1:], strict=True):
                if start < end:
                    yield name, piece[start:end], is_last and end == len(piece)
            position += len(piece)


def _with_last(pieces: Iterator[str]) -> Iterator[tuple[str, bool]]:
    previous = None
    for piece in pieces:
        if previous is not None:
            yield previous, False
        previous = piece
    if previous is not None:
        yield previous, True


def _cut(piece: str, offset: float) -> int:
    """The nearest place at or after `offset` that does not break a word."""
    cut = min(max(0, int(offset)), len(piece))
    while 0 < cut < len(piece) and not piece[cut].isspace():
        cut += 1
    return cut
