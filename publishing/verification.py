"""Whether a release is what it should be: its files looked through, and opened in a process without this project."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from modeling_gpt_scratch.conversion import LOGITS_TOLERANCE
from training.errors import InputError

from . import stranger
from .card import problems_of_card
from .confidential import personal_data_in, secrets_in
from .environments import environment_with
from .record import RunRecord
from .release import Release

# Of a row's logits in fp32, alone and beside a longer one: the order of summation differs.
PADDING_TOLERANCE = 1e-4

# What the fresh process gets of the user's variables: no token, cache or mode of theirs. Libraries may come through
# PYTHONPATH; this project does not, however it is found (see stranger.py).
KEPT_VARIABLES = re.compile(
    r"PATH|PYTHONPATH|LD_LIBRARY_PATH|HOME|TMPDIR|LANG|LC_\w+|(OMP|MKL)_\w+|CUDA_\w+|(https?|all|no)_proxy|(HTTPS?|ALL|NO)_PROXY"
    r"|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|DO_NOT_TRACK"
    r"|HF_ENDPOINT|HF_HUB_DISABLE_\w+|HF_HUB_\w+_TIMEOUT|HF_XET_CLIENT_\w+"
)


def check_release(release: Release, token: str | None = None, versions: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Everything that can be known before a file is sent; offline, but for what pip downloads.

    Args:
        token: the one that will be used, which no file may hold.
        versions: of Transformers, to open the release with beside those that are installed here.

    Returns:
        What the fresh processes have found that opened the release, once for each set of versions: first the one with
        the libraries of this process.

    Raises:
        InputError: the release must not be published; lists every problem. Or a version cannot be installed.
    """
    problems = secrets_in(release.folder, token)
    if release.facts.record:
        problems += personal_data_in(release.facts.record, release.facts.repo_id.split("/")[0])
    problems += problems_of_card((release.folder / "README.md").read_text(encoding="utf-8"), release.facts)
    opened: list[dict[str, Any]] = []

    def open_with(python: str, prefix: str = "") -> None:
        try:
            found = open_as_stranger(release, str(release.folder), python=python, environment={"HF_HUB_OFFLINE": "1"})
        except InputError as error:
            problems.append(f"{prefix}{error}")
        else:
            problems.extend(f"{prefix}{problem}" for problem in problems_found(release, found))
            if found["versions"] not in (other["versions"] for other in opened):
                opened.append(found)

    open_with(sys.executable)
    for version in () if problems else versions:  # installing takes minutes
        if version not in (found["versions"]["transformers"] for found in opened):
            with environment_with(version) as python:
                open_with(python, f"with Transformers {version}: ")
    if problems:
        raise InputError("\n".join(problems))
    return opened


def open_as_stranger(
    release: Release,
    place: str,
    *,
    python: str = sys.executable,
    revision: str | None = None,
    sha256: dict[str, str] | None = None,
    environment: dict[str, str],
    fill_cache: Callable[[Path], object] | None = None,
) -> dict[str, Any]:
    """Opens a folder or repository in a fresh process that cannot import this project, and has no token.

    Args:
        place, revision, sha256: see stranger.py.
        python: the interpreter, with whose libraries it is opened.
        environment: variables to set there.
        fill_cache: puts what nobody could download without a token into the process' cache, which is empty otherwise.

    Raises:
        InputError: it does not open there.
    """
    with tempfile.TemporaryDirectory() as elsewhere:
        workplace = Path(elsewhere)
        save_file(release.probe, workplace / "probe.safetensors")
        request = {
            "place": place,
            "revision": revision,
            "trust_remote_code": not release.facts.native,
            "auto_class": release.facts.auto_class,
            "task": release.facts.pipeline_tag,
            "threads": torch.get_num_threads(),
            "probe": str(workplace / "probe.safetensors"),
            "sha256": sha256,
        }
        if fill_cache is not None:
            fill_cache(workplace / "home" / "hub")
        (workplace / "request.json").write_text(json.dumps(request), encoding="utf-8")
        kept = {name: value for name, value in os.environ.items() if KEPT_VARIABLES.fullmatch(name)}
        # Another environment's libraries are its own alone.
        isolation = "-P" if python == sys.executable else "-I"
        finished = subprocess.run(
            [python, isolation, stranger.__file__, str(workplace / "request.json")],
            cwd=workplace,
            env={**kept, "HF_HOME": str(workplace / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment},
            capture_output=True,
            text=True,
            check=False,
        )
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or ["no message"]
        raise InputError(f"the process that opens {place} ended with {finished.returncode}: {lines[-1]}")
    found = json.loads(finished.stdout.splitlines()[-1])
    if "error" in found:
        raise InputError(f"{place} does not open in a process without this project: {found['error']}")
    return found


def problems_found(release: Release, found: dict[str, Any]) -> list[str]:
    """What is wrong with what a fresh process found."""
    if found.get("altered"):
        return [f"these files are not what was sent: {', '.join(found['altered'])}"]
    problems = []
    expected = "transformers." if release.facts.native else "transformers_modules."
    if not found["code"].startswith(expected):
        problems.append(f"the model ran {found['code']}, not the code that comes with the release")
    problems += [
        f"{kind} weights: {', '.join(found[kind])}" for kind in ("missing", "unexpected", "mismatched") if found[kind]
    ]
    if not found["finite"]:
        problems.append("the logits are not finite")
    elif "logits_difference" not in found:
        problems.append("the logits have the shape {}, but the source's have {}".format(*found["logits_shape"]))
    # Not bit by bit: a kernel for other instructions or of another version adds up in another order, which changes the
    # logits by up to about 1e-6 of the largest.
    elif not found["logits_difference"] <= LOGITS_TOLERANCE * release.probe["logits"].abs().max().item():
        problems.append(f"the logits differ from the source folder's by {found['logits_difference']:.2e}")
    if not found["padding_difference"] <= PADDING_TOLERANCE:
        problems.append(f"a row that is padded on the left gives other logits ({found['padding_difference']:.2e})")
    if not _covers(found, release.facts.record):
        problems.append(
            f"the tokenizer has {found['tokens']:,} tokens, but vocab_size is {found['vocab_size']:,}: it belongs to "
            "another model"
        )
    problems += [
        f"{name} is {there}, but the tokenizer's is {tokenizer}: put the file right"
        for name, (tokenizer, there) in found["special_tokens"].items()
        if tokenizer != there
        and not (isinstance(there, list) and tokenizer in there)
        and not (tokenizer is None and there == _stand_in(name, found["special_tokens"]))
    ]
    tokenizer_length, positions = found["lengths"]
    if tokenizer_length > positions:
        shown = f"{tokenizer_length:,}" if tokenizer_length < 10**9 else "not set"
        problems.append(
            f"the tokenizer's model_max_length is {shown}, but the model has {positions:,} positions: set it, and save "
            "the tokenizer again"
        )
    return problems


def _stand_in(name: str, special_tokens: dict[str, list[Any]]) -> int | None:
    """What a file may say of a token that the tokenizer lacks: that texts are padded with its end-of-text token."""
    return special_tokens[name.replace("pad_", "eos_")][0] if name.startswith("pad_") else None


def _covers(found: dict[str, Any], record: RunRecord | None) -> bool:
    """
    Whether a vocabulary is a tokenizer's, perhaps rounded up: as its recipe says, or as GPUs like it. That of the run
    itself may have run out of text before it had as many tokens as it was to have.
    """
    tokens, vocab_size = found["tokens"], found["vocab_size"]
    own = record.run["data"].get("tokenizer_sha256") if record else None
    if own and own == found["tokenizer_sha256"]:
        return tokens <= vocab_size
    multiples = {2**power for power in range(11)}
    if record and record.recipe.get("pad_vocab_to_multiple_of"):
        multiples.add(record.recipe["pad_vocab_to_multiple_of"])
    return any(vocab_size == -(-tokens // multiple) * multiple for multiple in multiples)
