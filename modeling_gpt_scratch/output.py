"""What the programs print, on terminals and in pipes that do not speak UTF-8, such as Windows' in many countries."""

import io
import sys


def escape_unprintable() -> None:
    r"""From here on, a character that standard output cannot show is printed as its number, such as \u6c34."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not closed before the program began
            stream.reconfigure(errors="backslashreplace")
