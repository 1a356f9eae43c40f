"""
Token shards: a corpus as memory-mapped vectors of token ids, with a manifest that says what they are.

    data/<corpus>-<hash>/
      manifest.json                 totals, tokenizer, split, size and sha256 of each shard
      tokenizer/                    the tokenizer that made the ids
      train-00000.safetensors ...   one vector `tokens` each, likewise validation-* and test-*

Each part begins with the end-of-text token, and each document is followed by it: every token of text is predicted, and
so is every end. The folder has its final name only when it is complete.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from configuration.recipe import RunConfig
from modeling_gpt_scratch.atomic_folder import atomic_folder

from .corpus import SPLITS, Corpus, Split, open_corpus, plan_split, split_documents, survey
from .errors import InputError
from .tokenizer import encoder, load_tokenizer, tokenizer_sha256, train_tokenizer

MANIFEST = "manifest.json"
FORMAT = 1
TOKENS_PER_SHARD = 2**25  # 64 MiB of uint16
ENCODED_TOGETHER = 2**21  # characters


class TokenVector:
    """The token ids of one part, read from its shards as they are asked for. Safe to send to worker processes."""

    def __init__(self, files: list[Path], lengths: list[int]):
        self._files = files
        self._starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self._open: dict[int, Any] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, window: slice) -> np.ndarray:
        """`vector[start:stop]` as int64, across shards where need be."""
        start, stop, _ = window.indices(len(self))
        pieces = []
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            end = min(stop, int(self._starts[shard + 1]))
            offset = int(self._starts[shard])
            pieces.append(self._tokens(shard)[start - offset : end - offset].astype(np.int64))
            start, shard = end, shard + 1
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)

    def _tokens(self, shard: int) -> Any:
        if shard not in self._open:
            self._open[shard] = safe_open(self._files[shard], framework="numpy").get_slice("tokens")
        return self._open[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # an open file belongs to one process


class TokenShards:
    """Prepared data, opened; the sizes of its shards are checked.

    Raises:
        InputError: the folder is incomplete, a shard has another size than recorded, or the ids were made by another
            tokenizer than the one beside them.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self.manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise InputError(f"{folder} holds no readable {MANIFEST}: delete the folder to prepare it again") from None
        if not isinstance(self.manifest, dict) or self.manifest.get("format") != FORMAT:
            raise InputError(f"{folder / MANIFEST} is not of format {FORMAT}: delete {folder} to prepare it again")
        for part in SPLITS:
            for shard in self.manifest["parts"][part]["shards"]:
                file = folder / shard["file"]
                size = file.stat().st_size if file.exists() else 0
                if size != shard["bytes"]:
                    raise InputError(
                        f"{file} has {size} bytes, not {shard['bytes']} as written: delete {folder} to prepare it again"
                    )
        self.tokenizer = load_tokenizer(str(folder / "tokenizer"))
        if tokenizer_sha256(self.tokenizer) != self.manifest["tokenizer"]["sha256"]:
            raise InputError(
                f"the tokenizer in {folder} is not the one that made its tokens: delete it to prepare it again"
            )

    def tokens(self, part: str) -> TokenVector:
        shards = self.manifest["parts"][part]["shards"]
        return TokenVector([self.folder / shard["file"] for shard in shards], [shard["tokens"] for shard in shards])

    def utf8_bytes(self, part: str) -> int:
        return self.manifest["parts"][part]["utf8_bytes"]


class _PartWriter:
    """Collects the ids of one part and writes a shard whenever one is full."""

    def __init__(self, folder: Path, part: str, dtype: str, eos_token_id: int):
        self.folder, self.part, self.dtype, self.eos_token_id = folder, part, dtype, eos_token_id
        self.documents = self.utf8_bytes = 0
        self.shards: list[dict[str, Any]] = []
        self.pending = [np.array([eos_token_id], dtype=dtype)]
        self.num_pending = 1

    def add(self, ids: list[int], utf8_bytes: int, ends_document: bool) -> None:
        self.pending.append(np.array([*ids, self.eos_token_id] if ends_document else ids, dtype=self.dtype))
        self.num_pending += len(self.pending[-1])
        self.utf8_bytes += utf8_bytes
        self.documents += ends_document
        while self.num_pending >= TOKENS_PER_SHARD:
            tokens = np.concatenate(self.pending)
            self._write(tokens[:TOKENS_PER_SHARD])
            self.pending = [tokens[TOKENS_PER_SHARD:]]
            self.num_pending -= TOKENS_PER_SHARD

    def finish(self) -> dict[str, Any]:
        tokens = np.concatenate(self.pending)
        if len(tokens):
            self._write(tokens)
        return {
            "tokens": sum(shard["tokens"] for shard in self.shards),
            "utf8_bytes": self.utf8_bytes,
            "documents": self.documents,
            "shards": self.shards,
        }

    def _write(self, tokens: np.ndarray) -> None:
        file = self.folder / f"{self.part}-{len(self.shards):05d}.safetensors"
        save_file({"tokens": np.ascontiguousarray(tokens)}, file)
        with file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        self.shards.append({"file": file.name, "tokens": len(tokens), "bytes": file.stat().st_size, "sha256": sha256})


def prepare_shards(run: RunConfig, vocab_size: int, window: int, say: Callable[[str], None]) -> TokenShards:
    """The token shards of a run: those in `data_dir` if they are there, else made now.

    Args:
        vocab_size: the model's; a tokenizer that is trained here gets so many tokens, another one must not have more.
        window: tokens that the model reads at once; the training part must hold more.
        say: told what is going on, in a line.

    Raises:
        InputError: the corpus or the tokenizer cannot be used; nothing is written then.
    """
    corpus = open_corpus(run.corpus, run.text_field)
    found = survey(corpus)
    split = plan_split(run.split, run.split_fractions, found)
    tokenizer = None if run.tokenizer == "train" else load_tokenizer(run.tokenizer)
    if tokenizer is not None and len(tokenizer) > vocab_size:
        raise InputError(
            f"the tokenizer has {len(tokenizer):,} tokens, but vocab_size is {vocab_size:,}: "
            f"set vocab_size to {len(tokenizer)} or more"
        )
    contents = {
        "format": FORMAT,
        "corpus": found.sha256,
        "split": [split.kind, split.fractions],
        "tokenizer": f"train {vocab_size}" if tokenizer is None else _identity(tokenizer),
    }
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    folder = Path(run.data_dir) / f"{corpus.name}-{digest[:12]}"
    if folder.exists():
        prepared = TokenShards(folder)
        _check_parts(prepared.manifest["parts"], window)
        return prepared

    say(f"corpus {corpus.name}: {found.documents:,} documents, {found.characters:,} characters, split {split.kind}")
    if tokenizer is None:
        say(f"training a tokenizer of {vocab_size:,} tokens")
        training_text = (text for part, text, _ in split_documents(corpus, split) if part == "train")
        tokenizer = train_tokenizer(training_text, vocab_size)
    try:
        with atomic_folder(folder) as temporary:
            tokenizer.save_pretrained(temporary / "tokenizer")
            manifest = {
                "format": FORMAT,
                "corpus": {
                    **corpus.description,
                    "sha256": found.sha256,
                    "documents": found.documents,
                    "characters": found.characters,
                    "utf8_bytes": found.utf8_bytes,
                },
                "split": asdict(split),
                "tokenizer": {"sha256": tokenizer_sha256(tokenizer), "tokens": len(tokenizer)},
                **_write_parts(corpus, split, tokenizer, temporary, found.characters),
            }
            _check_parts(manifest["parts"], window)
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    except OSError:
        if not (folder / MANIFEST).exists():  # else another run has prepared the same data meanwhile
            raise
    return TokenShards(folder)


def _identity(tokenizer: PreTrainedTokenizerFast) -> list[Any]:
    return [tokenizer_sha256(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]


def _check_parts(parts: dict[str, Any], window: int) -> None:
    """Raises InputError where a part is too short to train or measure on."""
    if parts["train"]["tokens"] <= window:
        raise InputError(
            f"the training part has {parts['train']['tokens']} tokens, less than one window of {window + 1}: "
            "use more text, or a smaller max_position_embeddings"
        )
    for part in SPLITS[1:]:
        if parts[part]["tokens"] < 2:  # the end of text that each part begins with, and something to predict
            raise InputError(f"the {part} part of the corpus is empty: use more text or other split_fractions")


def _write_parts(
    corpus: Corpus, split: Split, tokenizer: PreTrainedTokenizerFast, folder: Path, characters: int
) -> dict[str, Any]:
    core = encoder(tokenizer)
    dtype = "uint16" if len(tokenizer) <= 2**16 else "uint32"
    writers = {part: _PartWriter(folder, part, dtype, tokenizer.eos_token_id) for part in SPLITS}

    def write(batch: list[tuple[str, str, bool]]) -> None:
        encodings = core.encode_batch_fast([text for _, text, _ in batch], add_special_tokens=False)
        for (part, text, ends_document), encoding in zip(batch, encodings, strict=True):
            writers[part].add(encoding.ids, len(text.encode()), ends_document)

    batch: list[tuple[str, str, bool]] = []
    waiting = 0
    with tqdm(total=characters, desc="tokenizing", unit="char", unit_scale=True) as progress:
        for item in split_documents(corpus, split):
            batch.append(item)
            waiting += len(item[1])
            if waiting >= ENCODED_TOGETHER:
                write(batch)
                progress.update(waiting)
                batch, waiting = [], 0
        write(batch)
        progress.update(waiting)
    return {"dtype": dtype, "parts": {part: writer.finish() for part, writer in writers.items()}}
