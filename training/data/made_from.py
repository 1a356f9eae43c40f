"""
How prepared data is found again by what a recipe says: without reading the text a second time, and without the text.

Beside its manifest, a prepared folder keeps `made_from.json`: for each recipe that led to it, the signatures of the
corpus and of the tokenizer at that time. A recipe is known there by the hash of its settings as they are written in it,
so the file holds no path.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from configuration.data import DataConfig
from modeling_gpt_scratch.durable import write_durably

from ..errors import InputError, UnavailableError
from ..files import sha256_of_values
from .shards import FORMAT, data_record
from .work_folder import work_on

MADE_FROM = "made_from.json"
SETTINGS = (
    *("corpus", "text_field", "dataset_config", "dataset_split", "dataset_revision", "deduplicate"),
    *("split", "split_fractions", "tokenizer"),
)

# Of the corpus and the tokenizer, by these names. A signature differs when the contents do.
Signatures = dict[str, str]


def settings_sha256(config: DataConfig, vocab_size: int) -> str:
    """Names what a recipe says of its data."""
    settings = {name: getattr(config, name) for name in SETTINGS}
    corpora = [os.path.normpath(corpus) for corpus in config.corpora]
    settings["corpus"] = corpora if len(corpora) > 1 else corpora[0]
    settings["vocab_size"] = vocab_size if config.tokenizer == "train" else None
    if config.eos_token is not None:  # else named as before there was such a setting
        settings["eos_token"] = config.eos_token
    return sha256_of_values([FORMAT, settings])


def find_made_from(data_dir: Path, settings: str, signatures: Signatures) -> list[Path]:
    """The prepared folders that a recipe led to when what is known of its sources was as it is now.

    Args:
        settings: from [`settings_sha256`].
        signatures: of those sources that can be seen; the others are not compared.
    """
    found = []
    for file in sorted(data_dir.glob(f"*/{MADE_FROM}")):
        then = _read(file).get(settings)
        if then is not None and all(then.get(source) == now for source, now in signatures.items()):
            found.append(file.parent)
    return found


def find_in_place_of(
    missing: list[UnavailableError],
    data_dir: Path,
    settings: str,
    signatures: Signatures,
    say: Callable[[str], None],
) -> Path:
    """The prepared folder that stands in for sources that are missing.

    Raises:
        InputError: there is none, or there are several of different contents because a source has changed in the
            meantime.
    """
    found = find_made_from(data_dir, settings, signatures)
    if not found:
        raise missing[0]
    records = [(data_record(folder) or {}) | {"folder": ""} for folder in found]  # a copy has another name
    if any(record != records[0] for record in records):
        names = ", ".join(map(str, found))
        raise InputError(f"{missing[0]}; it had different contents when {names} were made: name one of them as corpus")
    for error in missing:
        say(f"{error}: going on with {found[0]}, which was made from it")
    return found[0]


def remember_made_from(folder: Path, settings: str, signatures: Signatures, say: Callable[[str], None]) -> None:
    """Notes in a prepared folder which recipe led to it. In a place that cannot be written nothing is noted.

    Nor is it where there are no locks or the disk is full: the data is there, and the note only saves time.
    """
    if not all(os.access(path, os.W_OK) for path in (folder, folder.parent)):
        return
    with suppress(OSError), work_on(folder, say):
        file = folder / MADE_FROM
        write_durably(file, json.dumps(_read(file) | {settings: signatures}, indent=2) + "\n")


def _read(file: Path) -> dict[str, Signatures]:
    """What was noted; nothing where that cannot be read, so that the sources are read again."""
    try:
        noted = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}
