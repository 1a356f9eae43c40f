"""The text of a split corpus on its way through a tokenizer into shards, with a state to go on from now and then."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from . import writing
from .duplicates import KEY_BYTES, SeenDocuments
from .encoding import BatchEncoder, encode_in_order
from .mixture import PartedCorpus, split_corpora
from .shards import FORMAT
from .split import SPLITS, STREAM, Position, Stretch
from .tokenizer import encoder, ids_dtype
from .work_folder import WorkFolder
from .writing import GrowingFile, PartWriter

BATCH_CHARACTERS = 2**19
SECONDS_BETWEEN_STATES = 10


def state_settings() -> dict[str, int | str]:
    """What a state is of use under only: where the same steps lead on from it. All else is in the folder's name."""
    return {"format": FORMAT, "stream": STREAM, "tokens_per_shard": writing.TOKENS_PER_SHARD}


class Tokenization:
    """Writes the shards of corpora into a work folder, in a `with` block, which closes its files.

    Args:
        parted: the corpora in their order, each with its split.
        deduplicate: whether documents are left out whose text came before.
        tokenizer: makes the ids.
        state: what the work folder has saved, to go on from there; `None` begins anew.

    Raises:
        EOFError: a file is shorter than the state says: the disk has lost what was on it.
    """

    def __init__(
        self,
        work: WorkFolder,
        parted: list[PartedCorpus],
        deduplicate: bool,
        tokenizer: PreTrainedTokenizerFast,
        state: dict[str, Any] | None,
    ):
        self.work, self.parted = work, parted
        self.position = Position(**state["position"]) if state else Position()
        dtype, eos = ids_dtype(tokenizer), tokenizer.eos_token_id
        self._encode = BatchEncoder(encoder(tokenizer), dtype, eos)
        saved = state["parts"] if state else dict.fromkeys(SPLITS)
        self._writers = {part: PartWriter(work.path, part, dtype, eos, saved[part]) for part in SPLITS}
        self._keys = self._seen = None
        if deduplicate:
            self._keys = GrowingFile(work.path / "seen.keys", self.position.different * KEY_BYTES)
            self._seen = SeenDocuments(self._keys.file.read_bytes())
        self._has_state = state is not None
        self._saved_at = time.monotonic()

    def __enter__(self) -> "Tokenization":
        return self

    def __exit__(self, *exception: Any) -> None:
        for stream in (*self._writers.values(), *([self._keys] if self._keys else [])):
            stream.close()

    def write_parts(self, threads: int, characters: int | None) -> dict[str, Any]:
        """Writes all shards, saving its state now and then. Returns the manifest's `parts`.

        Args:
            threads: how many of them encode.
            characters: of the whole text, where that is known.
        """
        if not self._has_state:
            self._save_state()
        start = self.position
        bar = {"initial": start.all_characters, "desc": "tokenizing", "unit": "char", "unit_scale": True}
        encoded_batches = encode_in_order(self._encode, self._batches(start), threads)
        with closing(encoded_batches), tqdm(total=characters, **bar) as progress:
            for encoded, position in encoded_batches:
                shards = self._shards()
                for writer in self._writers.values():
                    writer.begin_corpus(position.corpus)
                for part, found in encoded.items():
                    self._writers[part].add(found)
                progress.update(position.all_characters - self.position.all_characters)
                self.position = position
                due = self._shards() > shards or time.monotonic() - self._saved_at >= SECONDS_BETWEEN_STATES
                # In the middle of a document a dataset on the Hub has no state to go on from.
                if due and (position.pieces == 0 or self.parted[position.corpus].corpus.identity is None):
                    self._save_state()
        for writer in self._writers.values():
            writer.begin_corpus(len(self.parted) - 1)
        self._save_state()  # finishing is quick; what comes after it may not be
        return {part: writer.finish() for part, writer in self._writers.items()}

    def _shards(self) -> int:
        return sum(len(writer.shards) for writer in self._writers.values())

    def _save_state(self) -> None:
        if self._keys is not None:
            self._keys.append(self._seen.new_keys())
            self._keys.sync()
        parts = {part: writer.checkpoint() for part, writer in self._writers.items()}
        self.work.save_state({"settings": state_settings(), "position": asdict(self.position), "parts": parts})
        for writer in self._writers.values():
            writer.forget_outdated()
        self._saved_at = time.monotonic()

    def _batches(self, start: Position) -> Iterator[tuple[list[Stretch], Position]]:
        """Batches, each of text of one corpus."""
        batch: list[Stretch] = []
        waiting = 0
        position = start
        for stretches, reached in split_corpora(self.parted, self._seen, start):
            if batch and reached.corpus != position.corpus:
                yield batch, self._with_state(position)
                batch, waiting = [], 0
            position = reached
            batch += stretches
            waiting += sum(len(text) for _, text, _ in stretches)
            if waiting >= BATCH_CHARACTERS:
                yield batch, self._with_state(position)
                batch, waiting = [], 0
        if batch:
            yield batch, self._with_state(position)

    def _with_state(self, position: Position) -> Position:
        return replace(position, state=self.parted[position.corpus].corpus.state())
