"""What Windows forbids and lacks, imitated: open files stay under their name, folders are not opened, Unix's parts go.

Its own lock (msvcrt) is Unix's here, and libraries go on as they do on Unix.
"""

import errno
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from modeling_gpt_scratch import durable

MODULES = ("fcntl", "grp", "pwd", "readline", "resource", "termios")
SIGNALS = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGKILL")
FUNCTIONS = ("fork", "getuid", "kill", "mkfifo", "sync", "sched_getaffinity", "O_DIRECTORY")


def open_within(path: Any) -> str | None:
    """A file that this process has open or mapped, and which is the path or lies in it."""
    place = os.path.realpath(path)
    held = [line.rstrip("\n").split(maxsplit=5)[5:] for line in Path("/proc/self/maps").read_text().splitlines()]
    files = [name for names in held for name in names]
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            files.append(os.readlink(descriptor))
        except FileNotFoundError:  # what has listed the folder
            continue
    return next((name for name in files if name == place or name.startswith(place + "/")), None)


def follow_windows_rules(monkeypatch) -> list[str]:
    """Imitates Windows for this process; returns a list that grows by what was refused."""
    refused: list[str] = []

    def refuse(path: Any, why: str) -> None:
        refused.append(f"{path}: {why}")
        raise PermissionError(errno.EACCES, why, str(path))

    def keeping_open_files(act, replaces: bool | None):
        def checked(path, *arguments, dir_fd=None, **options):
            if dir_fd is not None:
                return act(path, *arguments, dir_fd=dir_fd, **options)
            target = arguments[0] if arguments else path
            for place in {os.fspath(path), os.fspath(target)}:
                if used := open_within(place):
                    refuse(place, f"{used} is open")
            if replaces is not None and os.path.lexists(target) and (os.path.isdir(target) or not replaces):
                refuse(target, "is there already")
            return act(path, *arguments, **options)

        return checked

    def open_no_folder(path, flags, *arguments, **options):
        if "dir_fd" not in options and isinstance(path, (str, os.PathLike)) and os.path.isdir(path):
            refuse(path, "is a folder")
        return opened(path, flags, *arguments, **options)

    opened = os.open
    for name, replaces in (("rename", False), ("replace", True), ("unlink", None), ("remove", None)):
        monkeypatch.setattr(os, name, keeping_open_files(getattr(os, name), replaces))
    monkeypatch.setattr(os, "open", open_no_folder)
    monkeypatch.setattr(os, "symlink", lambda *arguments, **options: refuse(arguments[1], "no privilege"))
    monkeypatch.setattr("shutil._use_fd_functions", False)  # by paths, as there
    system = {name: getattr(os, name) for name in ("fsync", "close", "O_RDONLY")} | {"open": open_no_folder}
    monkeypatch.setattr(durable, "os", SimpleNamespace(name="nt", **system))
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    for place, names in ((signal, SIGNALS), (os, FUNCTIONS)):
        for name in names:
            monkeypatch.delattr(place, name)
    return refused
