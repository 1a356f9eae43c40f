"""Being asked to stop: a signal sets a flag, and all processes of a run act on it at the same place."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

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
