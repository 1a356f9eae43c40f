"""What must not be in a release: secrets in any file, and in a run's record whoever and whatever machine it was."""

import getpass
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.record import RECIPE, RECORD

from .record import RunRecord

# What a secret begins with and how long it is, as those who hand them out describe it. Where it has no form of its own,
# what stands before it.
SECRETS = {
    "a Hugging Face token": rb"hf_(?:(?:oauth|jwt)_[A-Za-z0-9._-]{20,}|[A-Za-z0-9]{30,})|\bapi_org_[A-Za-z0-9]{20,}",
    # With a digit and a capital letter, since style sheets and links have long names that begin like keys.
    "an OpenAI key": rb"\bsk-(?=[\w-]*[A-Z])(?=[\w-]*[0-9])[\w-]{20,}",
    "an AWS key": rb"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|(?i:aws_secret_access_key)\W{1,4}[A-Za-z0-9/+]{40}",
    "a GitHub token": rb"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})",
    "a GitLab token": rb"\bgl(?:pat|ptt|dt|rt|rtr|cbt|soat|ft|imt|agent|oas)-[A-Za-z0-9_.-]{20,}",
    "a Google key": rb"\bAIza[A-Za-z0-9_-]{35}(?![\w-])|\bGOCSPX-[A-Za-z0-9_-]{28}|\bya29\.[A-Za-z0-9_-]{20,}",
    "a Slack token": rb"\b(?:xox[a-eprs]|xapp)[.-](?=[\w.-]*[0-9])[\w.-]{10,}|\bhooks\.slack\.com/\w+/[\w/]{20,}",
    "an npm token": rb"\bnpm_[A-Za-z0-9]{36}\b|:_auth(?:Token)?\s*=\s*[A-Za-z0-9+/=_-]{20,}"
    rb"|:_password\s*=\s*[A-Za-z0-9+/=]{4,}",
    # The older keys look like a commit's hash.
    "a W&B key": rb"\bwandb_v1_[A-Za-z0-9_-]{20,}|(?i:wandb[\w.( -]{0,20}(?:key|login))\W{1,8}[0-9a-f]{40}\b",
    # A host has a dot, and a default begins its line; a sentence of such words does not.
    "a line of .netrc": (
        rb"(?:\bmachine~(?:[\w-]+\.[\w.-]+|localhost)|(?:\A|\n|\\n)[ \t]*default)"
        rb"~login~\S+?~(?:account~\S+?~)?password~\S"
    ).replace(b"~", rb"(?:\s|\\n)+"),
    "a private key": rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
}
# A path that begins at a root, a drive or a home, or an address such as user@host.
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~-])/[\w.-]+|(?<!\w)[A-Za-z]:\\\w|\\\\\w|(?<![\w/])~/|file://")
ADDRESS = re.compile(r"\b[\w.-]+@[\w-]+(?:\.[\w-]+)*\b")
# Names that say nothing about anybody.
EVERYBODY = {
    *("admin", "debian", "docker", "localhost", "root", "runner", "ubuntu", "user"),
    *("book", "darwin", "demo", "large", "linux", "medium", "model", "python", "small", "test", "text", "train"),
}


def secrets_in(folder: Path, token: str | None) -> list[str]:
    """Names each file that holds what looks like a secret; never shows the secret.

    Args:
        token: the one that is about to be used, looked for in whatever form it has.
    """
    patterns = SECRETS | ({"the token that you are logged in with": re.escape(token.encode())} if token else {})
    return [
        f"{file.relative_to(folder)} holds {what}, or what looks like it: take it out, and revoke it if it is real"
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        for content in [_readable_part(file)]
        for what, pattern in patterns.items()
        if re.search(pattern, content)
    ]


def _readable_part(file: Path) -> bytes:
    """The whole file, or of weights their header: what follows it are numbers."""
    if file.suffix != ".safetensors":
        return file.read_bytes()
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        return stream.read(length)


def personal_data_in(record: RunRecord, owner: str) -> list[str]:
    """Names each value of a run's record that gives away a user, a machine or a place on it; never shows the value.

    Args:
        owner: of the repository, whose name will be public anyway.
    """
    return [
        f"{file}: {key} holds {what}: change it in the run folder"
        for file, values in ((RECIPE, record.recipe), (RECORD, record.run))
        for key, value in _strings(values)
        for what in _personal(value, owner)
    ]


def _personal(value: str, owner: str) -> list[str]:
    found = []
    if ABSOLUTE_PATH.search(value):
        found.append("an absolute path")
    if ADDRESS.search(value):
        found.append("an address")
    for what, name in (("your user name", _user_name()), ("this machine's name", socket.gethostname())):
        if (
            len(name) > 2
            and name.lower() not in {*EVERYBODY, owner.lower()}
            and re.search(rf"(?i)(?<!\w){re.escape(name)}(?!\w)", value)
        ):
            found.append(what)
    return found


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return ""


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string in a nested record, with the dotted key that leads to it."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _strings(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, key)
