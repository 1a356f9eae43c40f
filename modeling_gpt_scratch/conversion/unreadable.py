"""
Files that cannot be read without running code from them, or at all: why, and the line that saves them readably.

A pickle names the classes of what is in it, and making their objects may run anything. `torch.load` makes those of
tensors and plain values alone; numpy's numbers, which training loops save beside their weights, are added here.
"""

import errno
import pickle
import re
import shlex
import zipfile
from pathlib import Path

import numpy as np
import torch

from .checks import ConversionError

# Where training loops keep the weights, and where nanoGPT and its relatives keep the sizes beside them.
CONTAINERS = ("model_state_dict", "state_dict", "model")
SIZES = ("model_args", "config")
# What `np.float64(1.2)` consists of in a pickle, under numpy's present and former names.
_SCALAR = np.float64().__reduce__()[0]
NUMPY_NUMBERS = [np.dtype, *{type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}]
NUMPY_NUMBERS += [(_SCALAR, f"numpy.{place}.multiarray.scalar") for place in ("_core", "core")]
# A module that such a file holds whole says these names for its layers.
LAYERS = "torch.nn.modules."
# Modules that nothing of a model is in: such a file wants to do something else than to be read.
COMMANDS = ("os", "posix", "nt", "sys", "subprocess", "builtins", "shutil", "socket")
# What a shell does not leave alone between quotation marks.
SHELLS_OWN = set('"$`!')


class Empty:
    """Stands for every class that is not made: it does nothing and keeps the fields that its objects had."""

    def __init__(self, *arguments):
        pass

    def __setstate__(self, fields: object):
        if isinstance(fields, dict):
            vars(self).update(fields)


def load_pickle(path: Path) -> object:
    """What `torch.save` has written: tensors, plain values and numpy's numbers. No code from it runs.

    Raises:
        `ConversionError`: it is damaged or holds more; ends in the line that saves it in a readable form.
    """
    try:
        return _load(path, [])
    except OSError as error:
        if error.errno == errno.EINVAL:  # torch looks for something before the beginning of a file that is cut off
            raise damaged(path, error, error.strerror) from error
        raise
    except Exception as error:  # the documentation of pickle: a damaged file may raise other exceptions, of any kind
        # torch hides the cause behind advice to load the file without the protection; the first sentence says it.
        reason = str(error.__context__ or error).split(". ")[0].rstrip(".")
        names = _name_in(reason)
        if not names:
            raise damaged(path, error, reason) from error
        raise _refusal(path, _foreign_names(path) or names) from error


def damaged(path: Path, error: Exception, reason: str) -> ConversionError:
    """The refusal of a file that nothing can be read from."""
    return ConversionError(
        f"{path} cannot be read ({type(error).__name__}: {reason}): it is damaged. {saved_where_it_was_made(path)}"
    )


def save_readably(path: str | Path, new: str | Path, key: str | None = None) -> None:
    """Saves what is in a file again, of tensors and plain values alone. No code from it runs.

    Objects of classes become dictionaries of their fields, which is all that a configuration is.

    Args:
        key: the entry to save alone; `None` means all.
    """
    content = _load_without_classes(Path(path))
    torch.save(_plain(content if key is None else content[key]), new)


def saved_again(path: Path, key: str | None = None) -> str:
    """The line that calls [`save_readably`]."""
    given = ", ".join(repr(str(value)) for value in (path, _readable_name(path), key) if value is not None)
    program = f"from {__name__} import save_readably; save_readably({given})"
    # A key comes from the file, which may be anybody's: a shell must not find a command of its own in it. Where there
    # is none, the quotation marks are those that Windows' shell knows too.
    return "python -c " + (shlex.quote(program) if set(program) & SHELLS_OWN else f'"{program}"')


def saved_where_it_was_made(path: Path) -> str:
    """The advice for a file that no line can save again without its program."""
    return f"In the program that made it: torch.save(model.state_dict(), {str(_readable_name(path))!r})"


def _load(path: Path, names: list[str]) -> object:
    """What is in a file, with [`Empty`] in the place of the classes of these names."""
    with torch.serialization.safe_globals([*NUMPY_NUMBERS, *((Empty, name) for name in names)]):
        # Mapped where possible, not read into memory: files of torch.save since 1.6, which are zip archives.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _load_without_classes(path: Path) -> object:
    """What is in a file, with [`Empty`] in the place of all classes. Some are not made so, such as kinds of `dict`."""
    names = []
    while True:
        try:
            return _load(path, names)
        except pickle.UnpicklingError as error:
            found = [name for name in _name_in(str(error)) if name not in names]
            if not found:  # not for want of a class
                raise
            names += found


def _refusal(path: Path, names: list[str]) -> ConversionError:
    wanted = f"{path} cannot be read, because it holds more than tensors and plain values: {', '.join(names[:3])}"
    if any(name.split(".")[0] in COMMANDS for name in names):
        return ConversionError(
            f"{wanted}, which would run commands while it loads. If the file is yours, do it without that. "
            f"{saved_where_it_was_made(path)}"
        )
    if any(name.startswith(LAYERS) for name in names):
        return ConversionError(
            f"{wanted}. It is a whole model, whose code is not in it. {saved_where_it_was_made(path)}"
        )
    try:
        _load_without_classes(path)
    except Exception:  # of any kind, as in loading
        return ConversionError(f"{wanted}. {saved_where_it_was_made(path)}")
    return ConversionError(
        f"{wanted}. This line saves its weights again as {_readable_name(path)}, with the fields of its configuration "
        f"as plain values, and runs no code from it: {saved_again(path)}"
    )


def _plain(value: object) -> object:
    if value is Empty:  # the class itself
        return None
    if isinstance(value, Empty):
        value = vars(value)
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items() if not isinstance(name, Empty)}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.item() if isinstance(value, np.generic) else value


def _readable_name(path: Path) -> Path:
    return path.with_name(f"{path.stem}-readable.pt")


def _foreign_names(path: Path) -> list[str]:
    """The classes and functions that a file asks for and that are not made, where torch can list them."""
    try:
        with torch.serialization.safe_globals(NUMPY_NUMBERS):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # of any kind, as in loading: an old file, or one with more than torch knows
        return []


def _name_in(reason: str) -> list[str]:
    return re.findall(r"GLOBAL ([\w.]+\w)", reason)
