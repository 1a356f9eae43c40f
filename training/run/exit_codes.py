"""How a program ends: one line for what went wrong, and an exit code that scripts can tell apart."""

import sys
from collections.abc import Callable

from configuration.recipe_file import RecipeError
from modeling_gpt_scratch.model_folder import ModelFolderError
from modeling_gpt_scratch.output import escape_unprintable

from ..errors import InputError
from .interruption import RunStoppedError
from .lasting_output import lasting_output


def exit_code_of(program: Callable[[], int]) -> int:
    """Runs a program and says what has ended it.

    Returns:
        Its own exit code; 2 for bad input, 1 when training broke down, 129, 130 or 143 when a signal has stopped it.
    """
    escape_unprintable()
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
