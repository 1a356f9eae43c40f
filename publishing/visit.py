"""A Space is started here, in a process without this project and without a token, and asked as a visitor asks."""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.errors import InputError

from .release import Release
from .verification import KEPT_VARIABLES

START_SECONDS = 600.0  # a large model takes a while to load
ANSWER_SECONDS = 600.0
NEW_TOKENS = 8
PROMPT = "The"
ANNOUNCEMENT = "Running on local URL:"


def check_space(files: dict[str, Path], release: Release, commit: str) -> str:
    """Asks the app for a continuation, token by token, and with a prompt longer than the model's context.

    Args:
        files: of the Space; its app loads the release as this commit of the model, and nothing from elsewhere.

    Returns:
        What it answers.

    Raises:
        InputError: it does not start, answer, stream, or trim.
    """
    with running_space(files, release, commit) as url:
        answer, note, steps = ask(url, PROMPT)
        _, long_note, _ = ask(url, f"{PROMPT} " * (2 * release.facts.config.max_position_embeddings))
    problems = [] if steps > 1 or len(answer) <= len(PROMPT) else ["its answer does not come bit by bit"]
    if note:
        problems.append(f"it says of a short prompt: {note}")
    if "its context has" not in long_note:
        problems.append("it does not say that it has trimmed a long prompt")
    if problems:
        raise InputError("\n".join(f"the Space does not work here: {problem}" for problem in problems))
    return answer


@contextmanager
def running_space(files: dict[str, Path], release: Release, commit: str) -> Iterator[str]:
    """Starts the app in a cache that holds the release alone; gives its address, and ends it.

    Raises:
        InputError: it does not start.
    """
    with tempfile.TemporaryDirectory() as elsewhere:
        workplace = Path(elsewhere)
        cached = (
            workplace / "home" / "hub" / f"models--{release.facts.repo_id.replace('/', '--')}" / "snapshots" / commit
        )
        for name, file in release.files.items():
            (cached / name).parent.mkdir(parents=True, exist_ok=True)
            (cached / name).symlink_to(file.resolve())
        for name, file in files.items():
            (workplace / name).write_bytes(file.read_bytes())
        kept = {name: value for name, value in os.environ.items() if KEPT_VARIABLES.fullmatch(name)}
        ours = {"HF_HOME": str(workplace / "home"), "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
        ours |= {"PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1,localhost"}
        errors = workplace / "errors.txt"
        with errors.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-P", "app.py"],
                cwd=workplace,
                env={**kept, **ours},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        too_late = threading.Timer(START_SECONDS, process.kill)
        too_late.start()
        try:
            url = next((line.split()[-1] for line in process.stdout if ANNOUNCEMENT in line), None)
            too_late.cancel()
            if url is None:
                lines = errors.read_text(encoding="utf-8").strip().splitlines() or ["no message"]
                raise InputError(f"the Space does not start here (it ended with {process.wait()}): {lines[-1]}")
            yield url
        finally:
            too_late.cancel()
            process.kill()
            process.wait()
            process.stdout.close()


def ask(url: str, prompt: str) -> tuple[str, str, int]:
    """The app's answer, what it says of the prompt, and in how many steps they came.

    Raises:
        InputError: there is none.
    """
    from gradio_client import Client

    try:
        # False: otherwise the client hands the app the token that somebody is logged in with.
        visitor = Client(url, token=False, verbose=False)
        endpoint = (
            "/chat"
            if "/chat" in visitor.view_api(print_info=False, return_format="dict")["named_endpoints"]
            else "/complete"
        )
        job: Any = visitor.submit(prompt, NEW_TOKENS, 0, 1, api_name=endpoint)
        answer, note = job.result(timeout=ANSWER_SECONDS)
        return answer, note, len(job.outputs())
    except Exception as error:  # whatever the app or the client raises is the finding
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"the Space does not answer here: {reason}") from None
