"""Where documents come from: the standard library's source, files and folders, or a dataset on the Hub."""

import hashlib
import json
import os
import platform
import sysconfig
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from configuration.data import DataConfig

from ..errors import InputError, UnavailableError
from .corpus import PIECE_CHARACTERS, Corpus, Document, cut_long
from .file_search import FileSearch, is_pattern
from .hub_source import HUB_PREFIX, open_hub_dataset
from .rows import READERS, is_settings
from .stored_text import COMPRESSIONS, NotUTF8Error, compression_of, is_utf8, not_utf8_problem, read_text
from .text_field import NoTextError

TEXT_SUFFIXES = (".txt", ".md", ".py")
TABLE = ".parquet"  # packs its text by itself
KNOWN = f"{', '.join(TEXT_SUFFIXES)}, {', '.join(READERS)}, and with {' or '.join(COMPRESSIONS)} all but {TABLE}"
KINDS_SHOWN = 8

# Left out of the standard library: its tests are larger than itself, and the tables of the codecs are no text.
STDLIB_LEFT_OUT = {"__pycache__", "dist-packages", "encodings", "idle_test", "site-packages", "test", "tests"}


@dataclass
class FileCorpus(Corpus):
    """Files that hold documents: one each, or one in each row.

    Args:
        files: in the order in which they are read.
        text_field: field of a row that holds the text.
        skip_undecodable: leave out files that are not UTF-8; otherwise they are an `InputError`.
    """

    name: str
    description: dict[str, str | int | None]
    files: tuple[Path, ...]
    text_field: str = "text"
    skip_undecodable: bool = False
    not_read: str = ""

    def signature(self) -> str:
        sha256 = hashlib.sha256()
        for file in self.files:
            status = file.stat()
            # Programs that copy or unpack set the time of modification back; nobody sets back that of the change.
            entry = [str(file), status.st_size, status.st_mtime_ns, status.st_ctime_ns]
            sha256.update(json.dumps(entry).encode())
        return sha256.hexdigest()

    def documents(self, skip: int = 0, state: None = None) -> Iterator[Document]:
        return islice(self._documents(), skip, None)

    def _documents(self) -> Iterator[Document]:
        self.rows_without_text = 0
        for file in self.files:
            kind = kind_of(file)
            if kind in READERS:
                with self._beside_the_others(file):
                    for text, place in READERS[kind](file, self.text_field):
                        if text:
                            yield Document.of(text, place)
                        else:
                            self.rows_without_text += 1
            elif not (self.skip_undecodable and not is_utf8(file)):
                yield Document(lambda file=file: self._pieces(file))

    def _pieces(self, file: Path) -> Iterator[str]:
        with self._beside_the_others(file):
            yield from cut_long(read_text(file, PIECE_CHARACTERS))

    @contextmanager
    def _beside_the_others(self, file: Path) -> Iterator[None]:
        """What is wrong with `file`, told by what else there is."""
        try:
            yield
        except NotUTF8Error:  # whoever has one has many
            later = self.files[self.files.index(file) + 1 :]
            problems = [file, *(each for each in later if kind_of(each) != TABLE and not is_utf8(each))]
            raise InputError(not_utf8_problem(problems)) from None
        except NoTextError as error:  # a table of something else may just lie there
            others = [each for each in self.files if kind_of(each) != kind_of(file)]
            if not others:
                raise
            pattern = Path(os.path.commonpath([each.parent for each in others]), "**", f"*{_ending(others[0])}")
            raise InputError(f"{error}, or corpus to the files that are meant, such as '{pattern}'") from None


def open_corpus(config: DataConfig) -> Corpus:
    """The corpus that a recipe names: `stdlib`, `hf:` and a dataset on the Hub, or files of known kinds.

    Raises:
        UnavailableError: nothing is there, or the Hub cannot be reached.
        InputError: nothing of a known kind.
    """
    if config.corpus.startswith(HUB_PREFIX):
        return open_hub_dataset(config)
    if config.corpus == "stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        files = tuple(
            file for file in sorted(root.rglob("*.py")) if not STDLIB_LEFT_OUT & set(file.relative_to(root).parts)
        )
        if not files:
            problem = "corpus is stdlib, but this Python has no source of its standard library: name a folder"
            raise UnavailableError(problem)
        description = {"corpus": "stdlib", "python": platform.python_version()}
        return FileCorpus("stdlib", description, files, skip_undecodable=True)

    path = Path(config.corpus)
    if path.is_file():
        if kind_of(path) is None:
            raise InputError(f"corpus {path} is a {path.suffix or 'nameless'} file; known are {KNOWN}")
        real = path.resolve()
        name = real.name.removesuffix(_ending(real))
        return FileCorpus(name, {"corpus": name, "files": 1}, (path,), config.text_field)
    if not path.exists() and not is_pattern(config.corpus):
        raise UnavailableError(f"corpus {path} does not exist")
    return _open_files(config)


def _open_files(config: DataConfig) -> FileCorpus:
    search = FileSearch(config.corpus)
    files, others = [], Counter()
    for file in search.files:
        kind = kind_of(file)
        if kind is None:
            others[file.suffix.lower() or "without an ending"] += 1
        elif kind == ".json" and is_settings(file, config.text_field):
            others[f".json without {config.text_field!r}"] += 1
        else:
            files.append(file)
    beside = [f"{_counted('file', others)}; known are {KNOWN}"] if others else []
    beside += [_counted("folder", search.left_out)] if search.left_out else []
    not_read = f"not read: {'; and '.join(beside)}" if beside else ""
    if not files:
        raise UnavailableError(f"corpus {config.corpus} holds no file of the known kinds: {not_read or KNOWN}")
    name = search.folder.resolve().stem.removesuffix(".jsonl")
    description = {"corpus": name, "files": len(files)}
    not_read = not_read and f"corpus {name}: {not_read}"
    return FileCorpus(name, description, tuple(files), config.text_field, not_read=not_read)


def _counted(what: str, kinds: Counter[str]) -> str:
    shown = dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0]))[:KINDS_SHOWN])
    if len(kinds) > KINDS_SHOWN:
        shown["others"] = kinds.total() - sum(shown.values())
    each = ", ".join(f"{kind} {count:,}" for kind, count in shown.items())
    return f"{kinds.total():,} {what}{'s' if kinds.total() > 1 else ''} ({each})"


def kind_of(file: Path) -> str | None:
    """The ending that says how a file is read, below that of its compression; `None` where none is known."""
    compression = compression_of(file)
    kind = Path(file.name[: len(file.name) - len(compression)]).suffix.lower()
    return kind if kind in TEXT_SUFFIXES or (kind in READERS and not (kind == TABLE and compression)) else None


def _ending(file: Path) -> str:
    """As it is written in the name, with that of the compression."""
    compression = file.name[len(file.name) - len(compression_of(file)) :]
    return f"{Path(file.name.removesuffix(compression)).suffix}{compression}"
