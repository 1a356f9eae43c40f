"""
`python -m training COMMAND`: `tokenize` prepares text, `pretrain` makes a model of it, `watch` shows a run, `generate`
lets the model write.
"""

import sys
from collections.abc import Callable
from importlib import import_module

from configuration.recipe_file import RecipeError
from modeling_gpt_scratch.model_folder import ModelFolderError

from .errors import InputError
from .run.interruption import RunStoppedError
from .run.lasting_output import lasting_output

COMMANDS = ("tokenize", "pretrain", "watch", "generate")  # modules of this folder, imported when they are asked for


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


def exit_code_of(program: Callable[[], int]) -> int:
    """Runs a program and says what has ended it.

    Returns:
        Its own exit code; 2 for bad input, 1 when training broke down, 129, 130 or 143 when a signal has stopped it.
    """
    with lasting_output():
        try:
            return program()
        except (InputError, RecipeError) as error:
            for problem in str(error).splitlines():
                print(f"error: {problem}", file=sys.stderr)
            return 2
        except OSError as error:
            # Disks fill up and folders forbid writing. Whatever else an OSError may be, its message names the file.
            print(f"error: {error}", file=sys.stderr)
            return 2
        except FloatingPointError as error:
            print(f"error: {error}; lower the learning rate, or clip gradients (max_grad_norm)", file=sys.stderr)
            return 1
        except ModelFolderError as error:
            print(f"error: {error}; the run's last checkpoint is as it was", file=sys.stderr)
            return 1
        except RunStoppedError as stopped:
            print("interrupted", file=sys.stderr)
            return stopped.exit_code
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
