"""A process that has a model folder and the libraries, and not this package: what people on the Hub are."""

import json
import os
import subprocess
import sys
from pathlib import Path

# Python's -I leaves out the current folder, PYTHONPATH and the user's packages; this hides an installed package too.
HIDE_THE_PACKAGE = 'import sys\nsys.modules["modeling_gpt_scratch"] = None\n'


def stranger_environment(workplace: Path) -> dict[str, str]:
    """The variables of a process that is offline and finds neither the package nor anything in a cache."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    places = {"HF_HOME": str(workplace / "home"), "HF_MODULES_CACHE": str(workplace / "modules")}
    return inherited | places | {"HF_HUB_OFFLINE": "1"}


def run_as_stranger(program: str, *arguments: str, workplace: Path) -> tuple[dict, str]:
    """Runs a program that prints JSON on its last line, offline and with empty caches. Returns that, and its stderr."""
    process = run_program(program, *arguments, workplace=workplace)
    return json.loads(process.stdout.splitlines()[-1]), process.stderr


def run_program(
    program: str, *arguments: str, workplace: Path, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    """Runs a program to its good end, with empty caches, and offline unless variables say otherwise."""
    process = subprocess.run(
        [sys.executable, "-I", "-c", HIDE_THE_PACKAGE + program, *arguments],
        cwd=workplace,
        env=stranger_environment(workplace) | (variables or {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process
