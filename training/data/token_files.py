"""
Token files made elsewhere, in the form in which the blog publishes its own: `train.safetensors` and
`validation.safetensors`, one vector `tokens` each, without a manifest.

The prepared folder has them too, by hard links where the file system allows that, and adds what a run needs to know.
Validation and test are two stretches of the validation file.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from ..errors import InputError
from ..files import sha256_of
from .completion import write_manifest
from .shards import FORMAT, MANIFEST, TokenVector, folder_name
from .tokenizer import tokenizer_sha256
from .work_folder import work_on
from .writing import SAFETENSORS_DTYPES

NAMES = ("train.safetensors", "validation.safetensors")
# The blog's test slice: 3,200 batches of 6 windows of 1,024 tokens, and one token more to predict.
TEST_OFFSET = 50_000_000
TEST_TOKENS = 3_200 * 6 * 1_024 + 1
TOKENS_TOGETHER = 2**20
CHUNKS_MAPPED = 8
SAMPLES, SAMPLE_BYTES = 64, 4096


def find_token_files(corpus: str) -> tuple[Path, Path] | None:
    """The two files where `corpus` is a folder that has both, and is no prepared folder of ours."""
    folder = Path(corpus)
    files = (folder / NAMES[0], folder / NAMES[1])
    return files if all(file.is_file() for file in files) and not (folder / MANIFEST).exists() else None


def plan_held_out(validation_tokens: int) -> dict[str, tuple[int, int]]:
    """Where validation and test lie in the validation file, as `(offset, tokens)`.

    Test is the blog's slice, and validation as many tokens from the file's start; of a file too short for that they are
    the two halves.
    """
    if validation_tokens >= TEST_OFFSET + TEST_TOKENS:
        return {"validation": (0, TEST_TOKENS), "test": (TEST_OFFSET, TEST_TOKENS)}
    half = validation_tokens // 2
    return {"validation": (0, half), "test": (half, validation_tokens - half)}


def prepare_token_files(
    files: tuple[Path, Path],
    data_dir: Path,
    tokenizer: PreTrainedTokenizerFast | None,
    say: Callable[[str], None],
) -> Path:
    """A prepared folder around the two files, named by all that is in them.

    Raises:
        InputError: the files are not of that form, or their ids are not the tokenizer's.
    """
    name = files[0].resolve().parent.name
    if tokenizer is None:
        raise InputError(f"no tokenizer is named, but {name} holds token files: name the tokenizer that made them")
    lengths = [_length_of(file) for file in files]
    with tqdm(total=sum(file.stat().st_size for file in files), desc="hashing", unit="B", delay=5) as progress:
        hashes = {file: sha256_of(file, progress.update) for file in files}
    contents = [FORMAT, *hashes.values(), tokenizer_sha256(tokenizer), tokenizer.eos_token_id]
    folder = data_dir / folder_name(name, contents)
    if folder.exists():
        return folder
    with work_on(folder, say) as work:
        if folder.exists():  # another process has prepared it meanwhile
            return folder
        work.clear()
        say(f"token files {name}: {lengths[0]:,} tokens to train on, {lengths[1]:,} held out; reading them once")
        parts = _parts_of(files, lengths, hashes, tokenizer)
        for file in files:
            _link_or_copy(file.resolve(), work.data / file.name)
        tokenizer.save_pretrained(work.data / "tokenizer")
        corpus = {"corpus": name, "sha256": hashlib.sha256("".join(hashes.values()).encode()).hexdigest()}
        write_manifest(work.data, tokenizer, corpus, {"kind": "token files"}, parts, say)
        work.complete(folder)
    return folder


def _parts_of(
    files: tuple[Path, Path], lengths: list[int], hashes: dict[Path, str], tokenizer: PreTrainedTokenizerFast
) -> dict[str, Any]:
    """What the manifest says of the parts: where they lie, and what is counted in them."""
    byte_lengths = token_byte_lengths(tokenizer)
    places = {"train": (files[0], 0, lengths[0])}
    places |= {part: (files[1], *place) for part, place in plan_held_out(lengths[1]).items()}
    parts = {}
    for part, (file, offset, tokens) in places.items():
        counts = _count(TokenVector([file], [tokens], [offset]), byte_lengths, tokenizer.eos_token_id)
        size = file.stat().st_size
        shard = {"file": file.name, "offset": offset, "tokens": tokens, "bytes": size, "sha256": hashes[file]}
        parts[part] = {"tokens": tokens, **counts, "shards": [shard]}
    return parts


def _link_or_copy(file: Path, place: Path) -> None:
    """A folder that is moved, copied or mounted from a bucket must stay whole, so no symbolic link."""
    try:
        os.link(file, place)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(file, place)


def token_byte_lengths(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """UTF-8 bytes of text that each id of a byte-level tokenizer stands for; a special token stands for none.

    Raises:
        InputError: the tokenizer is of another kind, where the bytes depend on what comes before.
    """
    decoder = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"]
    if not decoder or decoder["type"] != "ByteLevel":
        raise InputError(
            "token files need a byte-level tokenizer such as GPT-2's: the bytes of their text, and so bits per byte, "
            "cannot be counted otherwise"
        )
    vocabulary = tokenizer.get_vocab()
    added = tokenizer.added_tokens_decoder
    lengths = np.zeros(max(vocabulary.values()) + 1, dtype=np.int64)
    for token, index in vocabulary.items():
        if index not in added:
            lengths[index] = len(token)  # each character of a byte-level token stands for one byte
        elif not added[index].special:
            lengths[index] = len(token.encode())
    return lengths


def _count(tokens: TokenVector, byte_lengths: np.ndarray, eos_token_id: int) -> dict[str, int]:
    utf8_bytes = documents = 0
    with tqdm(total=len(tokens), desc="reading", unit="tok", unit_scale=True, delay=5) as progress:
        for start in range(0, len(tokens), TOKENS_TOGETHER):
            ids = tokens[start : start + TOKENS_TOGETHER]
            if ids.max() >= len(byte_lengths):
                raise InputError(
                    f"the token files hold id {ids.max()}, but the tokenizer's ids end at {len(byte_lengths) - 1}: "
                    "name the tokenizer that made them"
                )
            utf8_bytes += int(byte_lengths[ids].sum())
            documents += int((ids == eos_token_id).sum())
            progress.update(len(ids))
            if start // TOKENS_TOGETHER % CHUNKS_MAPPED == 0:
                tokens.release()
    return {"utf8_bytes": utf8_bytes, "documents": documents}


def _length_of(file: Path) -> int:
    """Tokens in a file. Raises InputError where it is not one vector `tokens` of ids."""
    try:
        with safe_open(file, framework="numpy") as stored:
            tokens = stored.get_slice("tokens")
            shape, dtype = tokens.get_shape(), tokens.get_dtype()
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is no file of tokens: {' '.join(str(error).split())}") from None
    if len(shape) != 1 or dtype not in SAFETENSORS_DTYPES.values():
        raise InputError(f"{file} holds `tokens` of shape {shape} and type {dtype}, not one vector of uint16 or uint32")
    return shape[0]


def signature_of_files(files: tuple[Path, Path]) -> list[Any]:
    """Differs when the files do, without reading all of them.

    The time of the last change of what they hold is part of it, but not that of their entry: a hard link changes that.
    """
    return [[file.stat().st_mtime_ns, *_sample(file)] for file in files]


def _sample(file: Path) -> list[Any]:
    size = file.stat().st_size
    sha256 = hashlib.sha256()
    with file.open("rb") as stream:
        for place in np.linspace(0, max(0, size - SAMPLE_BYTES), SAMPLES):
            stream.seek(int(place), os.SEEK_SET)
            sha256.update(stream.read(SAMPLE_BYTES))
    return [size, sha256.hexdigest()]
