"""Throw-away environments with other versions of Transformers, in which a release is opened before it is published."""

import re
import subprocess
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from training.errors import InputError

NEWEST = "newest"
VERSION = re.compile(r"\d+(\.\d+)*((a|b|rc|\.dev|\.post)\d+)*")


def read_versions(text: str) -> tuple[str, ...]:
    """The versions in a list such as `5.15.0,newest`, each once.

    Raises:
        InputError: one is no version.
    """
    versions = tuple(dict.fromkeys(version.strip() for version in text.split(",")))
    wrong = [version for version in versions if version != NEWEST and not VERSION.fullmatch(version)]
    if wrong:
        raise InputError(f"--check-with: {wrong[0]!r} is no version of Transformers; name such as 5.15.0, or {NEWEST}")
    return versions


@contextmanager
def environment_with(transformers: str) -> Iterator[str]:
    """Gives the Python of a new environment, which is gone afterwards.

    It holds that version of Transformers with all that it brings, and PyTorch in the version that runs here. pip takes
    them from where the user's own configuration says.

    Args:
        transformers: a version, or `NEWEST` for the one that pip chooses by itself.

    Raises:
        InputError: they cannot be installed together.
    """
    with tempfile.TemporaryDirectory(prefix="check-with-") as folder:
        builder = venv.EnvBuilder(with_pip=True)
        try:
            builder.create(folder)
        except subprocess.CalledProcessError as error:  # a Python without ensurepip
            raise InputError(f"--check-with: no environment can be made here: {error}") from None
        python = builder.ensure_directories(folder).env_exe
        # Without the local part, such as +cpu: other indexes have the same version under another one, or none.
        pinned = f"torch=={torch.__version__.split('+')[0]}"
        install(python, pinned, "transformers" if transformers == NEWEST else f"transformers=={transformers}")
        yield python


def install(python: str, *requirements: str) -> None:
    """Installs packages into the environment of a Python.

    Raises:
        InputError: pip has failed; says what it said last.
    """
    # -I: what PYTHONPATH adds here would count as installed there.
    command = [python, "-I", "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    finished = subprocess.run([*command, *requirements], capture_output=True, text=True, check=False)
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or ["no message"]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR: ")), lines[-1])
        raise InputError(
            f"--check-with: pip cannot install {' and '.join(requirements)}: {reason.removeprefix('ERROR: ')}"
        )
