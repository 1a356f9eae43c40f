"""Text as it lies in a file: plain or compressed, in UTF-8, read a piece or a line at a time."""

import gzip
import io
import shlex
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..errors import InputError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
COMPRESSED_BYTES = 2**13
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
MOST_NAMED = 5


class NotUTF8Error(InputError):
    """A file's bytes are no UTF-8 text."""


def compression_of(file: Path) -> str:
    """`.gz`, `.zst`, or nothing."""
    return next((suffix for suffix in COMPRESSIONS if file.name.lower().endswith(suffix)), "")


def read_text(file: Path, size: int | None) -> Iterator[str]:
    """The file's text, `size` characters at a time, or by lines where it is `None`.

    Raises:
        NotUTF8Error: it is none.
        InputError: it cannot be read or unpacked.
    """
    unpacking = compression_of(file)
    try:
        with _open(file, unpacking) as stored:
            # newline="": bytes are counted, so line ends stay as they are. A byte order mark is no text.
            stream = io.TextIOWrapper(stored, encoding="utf-8-sig", newline="")
            yield from stream if size is None else iter(lambda: stream.read(size), "")
    except UnicodeDecodeError:
        raise NotUTF8Error(not_utf8_problem([file])) from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise InputError(f"{file} is damaged, or not compressed by {COMPRESSIONS[unpacking]}") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None


def is_utf8(file: Path) -> bool:
    """Whether all of it is. What cannot be read for another reason is not said to be of another encoding."""
    try:
        return all(True for _ in read_text(file, 2**20))
    except NotUTF8Error:
        return False
    except InputError:
        return True


def not_utf8_problem(files: list[Path]) -> str:
    """Which files they are, and how they become UTF-8: the command does it for the first one."""
    names = [f"{file} (UTF-16 by its first bytes)" if _is_utf16(file) else str(file) for file in files[:MOST_NAMED]]
    more = f" and {len(files) - MOST_NAMED:,} more" if len(files) > MOST_NAMED else ""
    found = f"{names[0]} is" if len(files) == 1 else f"{len(files):,} files are"
    listed = "" if len(files) == 1 else f": {', '.join(names)}{more}"

    file = shlex.quote(str(files[0]))
    encoding = "utf-16" if _is_utf16(files[0]) else "cp1252"
    tool = COMPRESSIONS.get(compression_of(files[0]))
    convert = f"iconv -f {encoding} -t utf-8"
    convert = f"{tool} -dc {file} | {convert} | {tool} -c" if tool else f"{convert} {file}"
    new = shlex.quote(f"{files[0]}.new")
    return (
        f"{found} not UTF-8 text{listed}; take out what is no text, and convert the rest (usual are cp1252, latin-1 "
        f"and UTF-16), by `{convert} > {new} && mv {new} {file}` where it is {encoding}"
    )


def _is_utf16(file: Path) -> bool:
    """Whether it begins with the mark of that encoding."""
    try:
        with _open(file, compression_of(file)) as stored:
            return stored.read(2) in UTF_16_MARKS
    except (OSError, EOFError, zlib.error):
        return False


def _open(file: Path, unpacking: str) -> IO[bytes] | io.BufferedIOBase:
    if unpacking == ".gz":
        return gzip.open(file)
    if unpacking == ".zst":
        return io.BufferedReader(_ZstdFile(file))
    return file.open("rb")


class _ZstdFile(io.RawIOBase):
    """The bytes that a zstd file stands for, of all its frames. `zstandard`'s own reader takes a cut file for whole.

    Raises:
        EOFError: it is cut off, or damaged.
        InputError: the library that unpacks it is not installed.
    """

    def __init__(self, file: Path):
        try:
            import zstandard
        except ImportError:
            raise InputError(f"{file} needs zstandard: pip install '.[data]'") from None
        # Archives of forums are packed with the largest window there is.
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
        self._error = zstandard.ZstdError
        self._stored = file.open("rb")
        self._frame: Any = None
        self._packed = b""
        self._text = memoryview(b"")  # little packed may be very much text, which is not copied for each piece of it

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._stored.close()
        super().close()

    def readinto(self, buffer: memoryview) -> int:
        while not self._text:
            self._packed = self._packed or self._stored.read(COMPRESSED_BYTES)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            try:
                self._text = memoryview(self._frame.decompress(self._packed))
            except self._error:
                raise EOFError from None
            self._packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        count = min(len(buffer), len(self._text))
        buffer[:count], self._text = self._text[:count], self._text[count:]
        return count
