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

from modeling_gpt_scratch.durable import write_durably

from ..errors import InputError
from ..files import sha256_of
from .overlap import describe_overlap, measure_overlap
from .shards import FORMAT, MANIFEST, TokenVector
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
        raise InputError(f"tokenizer is train, but {name} holds token files: name the tokenizer that made them")
    lengths = [_tokens_of(file) for file in files]
    with tqdm(total=sum(file.stat().st_size for file in files), desc="hashing", unit="B", delay=5) as progress:
        hashes = {file: sha256_of(file, progress.update) for file in files}
    contents = [FORMAT, *hashes.values(), tokenizer_sha256(tokenizer), tokenizer.eos_token_id]
    folder = data_dir / f"{name}-{hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:12]}"
    if folder.exists():
        return folder

    held_out = plan_held_out(lengths[1])
    places = {"train": (files[0], 0, lengths[0])} | {part: (files[1], *place) for part, place in held_out.items()}
    vectors = {part: TokenVector([file], [tokens], [offset]) for part, (file, offset, tokens) in places.items()}
    with work_on(folder, say) as work:
        if folder.exists():
            return folder
        work.clear()
        say(f"token files {name}: {lengths[0]:,} tokens to train on, {lengths[1]:,} held out; reading them once")
        byte_lengths = token_byte_lengths(tokenizer)
        counts = {part: _count(vector, byte_lengths, tokenizer.eos_token_id) for part, vector in vectors.items()}
        for file in files:
            _link_or_copy(file.resolve(), work.data / file.name)
        parts = {
            part: {
                "tokens": tokens,
                **counts[part],
                "shards": [
                    {
                        "file": file.name,
                        "offset": offset,
                        "tokens": tokens,
                        "bytes": file.stat().st_size,
                        "sha256": hashes[file],
                    }
                ],
            }
            for part, (file, offset, tokens) in places.items()
        }
        overlap = measure_overlap(vectors["train"], {part: vectors[part] for part in held_out})
        say(describe_overlap(overlap))
        tokenizer.save_pretrained(work.data / "tokenizer")
        manifest = {
            "format": FORMAT,
            "corpus": {"corpus": name, "sha256": hashlib.sha256("".join(hashes.values()).encode()).hexdigest()},
            "split": {"kind": "token files"},
            "tokenizer": {"sha256": tokenizer_sha256(tokenizer), "tokens": len(tokenizer)},
            "dtype": "uint16" if len(tokenizer) <= 2**16 else "uint32",
            "parts": parts,
            "overlap": overlap,
        }
        write_durably(work.data / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        work.complete(folder)
    return folder


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


def _tokens_of(file: Path) -> int:
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
