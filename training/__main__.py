"""
`python -m training COMMAND`: `tokenize` prepares text, `pretrain` makes a model of it, `watch` shows a run, `generate`
lets the model write, `serve` lets it answer programs that speak the API of OpenAI.
"""

import sys
from importlib import import_module

from .errors import InputError
from .run.exit_codes import exit_code_of

# Modules of this folder, imported when they are asked for.
COMMANDS = ("tokenize", "pretrain", "watch", "generate", "serve")


def main(argv: list[str]) -> int:
    """Runs a command line, and returns its exit code."""
    return exit_code_of(lambda: _run(argv))


def _run(argv: list[str]) -> int:
    if not argv or argv[0] not in COMMANDS:
        if argv and argv[0] in ("-h", "--help"):
            print(f"{__doc__}\n\nusage: python -m training {{{','.join(COMMANDS)}}} ...   (--help after a command)")
            return 0
        found = f"{argv[0]} is no command" if argv else "a command is missing"
        raise InputError(f"{found}; commands are: {', '.join(COMMANDS)}")
    return import_module(f"{__package__}.{argv[0]}").main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
