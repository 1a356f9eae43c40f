"""Where documents come from: the standard library's source, files and folders, or a dataset on the Hub."""

import gzip
import hashlib
import io
import json
import platform
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from configuration.data import DataConfig

from ..errors import InputError, UnavailableError
from .corpus import PIECE_CHARACTERS, Corpus, Document, cut_long
from .hub_source import HUB_PREFIX, open_hub_dataset

TEXT_SUFFIXES = (".txt", ".md", ".py")
LINE_SUFFIXES = (".jsonl", ".jsonl.gz")
SUFFIXES = (*TEXT_SUFFIXES, *LINE_SUFFIXES, ".parquet")
ROWS_TOGETHER = 256

# Left out of the standard library: its tests are larger than itself, and the tables of the codecs are no text.
STDLIB_LEFT_OUT = {"__pycache__", "dist-packages", "encodings", "idle_test", "site-packages", "test", "tests"}


@dataclass(frozen=True)
class FileCorpus(Corpus):
    """Files that hold documents: one each, or one a line in .jsonl, or one a row in .parquet.

    Args:
        files: in the order in which they are read.
        text_field: field of a line, or column of a table, that holds the text.
        skip_undecodable: leave out files that are not UTF-8; otherwise they are an `InputError`.
    """

    name: str
    description: dict[str, str | int | None]
    files: tuple[Path, ...]
    text_field: str = "text"
    skip_undecodable: bool = False

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
        for file in self.files:
            name = file.name.lower()
            if name.endswith(LINE_SUFFIXES):
                yield from self._json_lines(file)
            elif name.endswith(".parquet"):
                yield from self._rows(file)
            elif not (self.skip_undecodable and not _is_utf8(file)):
                yield Document(lambda file=file: cut_long(_read(file, PIECE_CHARACTERS)))

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
            yield Document.of(record[self.text_field], f"{file}, line {number}")

    def _rows(self, file: Path) -> Iterator[Document]:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise InputError(f"{file} needs pyarrow: pip install '.[data]'") from None
        try:
            with pq.ParquetFile(file, pre_buffer=False) as table:
                if self.text_field not in table.schema_arrow.names:
                    found = ", ".join(table.schema_arrow.names)
                    raise InputError(f"{file} has no column {self.text_field!r}; found: {found}")
                row = 0
                for batch in table.iter_batches(ROWS_TOGETHER, columns=[self.text_field], use_threads=False):
                    for text in batch.column(0).to_pylist():
                        row += 1
                        if not isinstance(text, str):
                            found = type(text).__name__
                            raise InputError(f"{file}, row {row}: no text in {self.text_field!r}; found: {found}")
                        yield Document.of(text, f"{file}, row {row}")
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file} cannot be read as parquet: {str(error).splitlines()[0]}") from None


def open_corpus(config: DataConfig) -> Corpus:
    """The corpus that a recipe names: `stdlib`, `hf:` and a dataset on the Hub, or a file or folder of known kinds.

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
    if not path.exists():
        raise UnavailableError(f"corpus {path} does not exist")
    if path.is_file():
        if not _is_known(path):
            raise InputError(f"corpus {path} is a {path.suffix or 'nameless'} file; known are {', '.join(SUFFIXES)}")
        files = (path,)
    else:
        files = tuple(sorted(file for file in path.rglob("*") if _is_known(file) and _is_visible(file, path)))
        if not files:
            raise UnavailableError(f"corpus {path} holds no file of the known kinds: {', '.join(SUFFIXES)}")
    name = path.resolve().stem.removesuffix(".jsonl")
    return FileCorpus(name, {"corpus": name, "files": len(files)}, files, config.text_field)


def _is_known(file: Path) -> bool:
    return file.name.lower().endswith(SUFFIXES)


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
        with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as stored:
            # newline="": bytes are counted, so line ends stay as they are. A byte order mark is no text.
            stream = io.TextIOWrapper(stored, encoding="utf-8-sig", newline="")
            yield from stream if size is None else iter(lambda: stream.read(size), "")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text ({error.reason}): convert it or take it out") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise InputError(f"{file} is damaged, or not compressed by gzip") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
