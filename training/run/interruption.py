"""
Being asked to stop: a signal sets a flag, and all processes of a run act on it at the same place. And outliving whoever
reads the output.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TextIO

import torch

# The last one comes when a terminal is closed, and exists on Unix alone.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


class RunStoppedError(Exception):
    """The run has stopped because of a signal, and nothing is lost.

    Args:
        signal_number: which signal.
    """

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


class StopRequest:
    """Whether somebody has asked this run to stop. A second signal of the same kind acts as if nobody listened."""

    def __init__(self):
        self.signal_number = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Notes `SIGNALS` for as long as the block lasts; one that is ignored stays so, as SIGHUP under nohup."""
        previous = {number: signal.getsignal(number) for number in SIGNALS}
        heard = {number: handler for number, handler in previous.items() if handler is not signal.SIG_IGN}

        def note(number: int, frame: FrameType | None) -> None:
            self.signal_number = number
            signal.signal(number, heard[number])

        for number in heard:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in heard.items():
                signal.signal(number, handler)

    def agreed(self, device: torch.device) -> bool:
        """Whether any process was asked; every process must call this at the same places."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            asked = torch.tensor(self.signal_number, device=device)
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
            self.signal_number = int(asked)
        return self.signal_number != 0

    def raise_if_asked(self) -> None:
        if self.signal_number:
            raise RunStoppedError(self.signal_number)


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
