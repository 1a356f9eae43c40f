"""Outliving whoever reads the output."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class _LastingStream:
    """A text stream that goes on as if nothing had happened when nobody is left to read it: a pipe or a terminal that
    was closed."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._last(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._last(self._stream.flush)

    def _last(self, act: Callable[..., object], *arguments: str) -> None:
        try:
            act(*arguments)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return  # the line is lost; later ones come when there is space again
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: of a terminal
                raise
            self._go_nowhere()

    def finish(self) -> None:
        """Writes what is left in a buffer, which would fail when Python ends."""
        try:
            self._stream.flush()
        except OSError:
            self._go_nowhere()

    def _go_nowhere(self) -> None:
        # From here on whatever has the file open, C libraries included, writes to nowhere.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Keeps a program alive whose output is read no more: work of hours is worth more than its lines."""
    outer = sys.stdout, sys.stderr
    lasting = [stream and _LastingStream(stream) for stream in outer]  # None: closed before the program began
    sys.stdout, sys.stderr = lasting
    try:
        yield
    finally:
        for stream in filter(None, lasting):
            stream.finish()
        sys.stdout, sys.stderr = outer
