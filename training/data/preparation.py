"""From a corpus to token shards: found, or made, or gone on with where an earlier process was cut short."""

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from configuration.data import DataConfig
from modeling_gpt_scratch.durable import write_durably

from ..errors import InputError, UnavailableError
from ..processes import on_every_process, on_first_process
from . import writing
from .corpus import SPLITS, Corpus, Position, Split, Stretch, Survey, plan_split, split_documents, survey
from .duplicates import KEY_BYTES, SeenDocuments
from .encoding import BatchEncoder, encode_in_order, usable_cores
from .made_from import Signatures, find_in_place_of, find_made_from, remember_made_from, settings_sha256
from .overlap import describe_overlap, measure_overlap
from .shards import FORMAT, MANIFEST, TokenShards, TokenVector, data_record
from .sources import open_corpus
from .token_files import find_token_files, prepare_token_files, signature_of_files
from .tokenizer import encoder, load_tokenizer, tokenizer_sha256, train_tokenizer
from .work_folder import WorkFolder, work_on
from .writing import GrowingFile, PartWriter

BATCH_CHARACTERS = 2**19
SECONDS_BETWEEN_STATES = 10


def add_verify_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--verify_data", action="store_true", help="compare every token shard with its recorded sha256 first"
    )


def prepare_shards(
    run: DataConfig,
    vocab_size: int,
    window: int,
    say: Callable[[str], None],
    verify: bool = False,
    begun_on: dict[str, Any] | None = None,
) -> TokenShards:
    """The token shards of a run: those in `data_dir` if they are there, else made now.

    Of several processes the first one finds or makes them, and the others open the same.

    Args:
        vocab_size: the model's; a tokenizer that is trained here gets so many tokens, another one must not have more.
        window: tokens that the model reads at once; the training part must hold more.
        say: told what is going on, in a line.
        verify: whether to read all shards and compare them with what was written.
        begun_on: the data that the run has begun on, as `shards.data_record` describes it. Where it is in `data_dir`
            it is used, whatever its sources are now; else its commit of a dataset counts instead of what the recipe's
            revision stands for now.

    Raises:
        InputError: the corpus, the tokenizer or the prepared data cannot be used; nothing is written then.
    """

    def open_prepared() -> TokenShards:
        given = data_record(Path(run.corpus)) is not None
        prepared = TokenShards(Path(run.corpus) if given else _find_or_prepare(run, vocab_size, window, say, begun_on))
        if given:
            _check_settings(run, prepared, vocab_size, say)
        _check_vocabulary(prepared.tokenizer, vocab_size)
        _check_parts(prepared.manifest["parts"], window)
        if verify:
            prepared.verify()
            say(f"{prepared.folder}: every shard is as written")
        return prepared

    prepared = on_first_process(open_prepared)
    on_every_process(prepared.check_here)
    return prepared


def _find_or_prepare(
    run: DataConfig,
    vocab_size: int,
    window: int,
    say: Callable[[str], None],
    begun_on: dict[str, Any] | None,
) -> Path:
    data_dir, settings = Path(run.data_dir), settings_sha256(run, vocab_size)
    if begun_on is not None:
        begun_in = data_dir / begun_on.get("folder", "")
        if data_record(begun_in) == begun_on:
            say(f"the run goes on with the data that it began on, {begun_in}")
            return begun_in
        run = replace(run, dataset_revision=begun_on["corpus"].get("revision", run.dataset_revision))
    corpus = tokenizer = None
    signatures: Signatures = {}
    missing: list[UnavailableError] = []
    token_files = find_token_files(run.corpus)
    try:
        if token_files is not None:
            signatures["corpus"] = _sha256_of(signature_of_files(token_files))
        else:
            corpus = open_corpus(run)
            signatures["corpus"] = corpus.signature()
    except UnavailableError as error:
        missing.append(error)
    try:
        tokenizer = None if run.tokenizer == "train" else load_tokenizer(run.tokenizer)
        signatures["tokenizer"] = "train" if tokenizer is None else _sha256_of(_identity(tokenizer))
    except UnavailableError as error:
        missing.append(error)

    if missing:
        return find_in_place_of(missing, data_dir, settings, signatures, say)
    if tokenizer is not None:
        _check_vocabulary(tokenizer, vocab_size)
    found = find_made_from(data_dir, settings, signatures)
    if found:
        return found[0]
    if token_files is not None:
        folder = prepare_token_files(token_files, data_dir, tokenizer, say)
    else:
        folder = _prepare_text(run, corpus, tokenizer, vocab_size, window, say)
    remember_made_from(folder, settings, signatures, say)
    return folder


def _check_settings(run: DataConfig, prepared: TokenShards, vocab_size: int, say: Callable[[str], None]) -> None:
    """Raises InputError where a recipe names prepared data as its corpus, and asks for something else than that is."""
    manifest = prepared.manifest
    then = {
        "split": manifest["split"]["kind"],
        "split_fractions": manifest["split"].get("fractions"),
        "deduplicate": "duplicates_left_out" in manifest["corpus"],
    }
    problems = [
        f"{name} is {getattr(run, name)}, but was {value}"
        for name, value in then.items()
        if getattr(run, name) not in ("auto", None, False, value)
    ]
    tokens = len(prepared.tokenizer)
    if run.tokenizer == "train":
        if tokens < vocab_size:  # more are refused for any corpus
            say(f"vocab_size is {vocab_size:,}, but the tokenizer in {prepared.folder} has {tokens:,} tokens")
    else:
        try:
            if tokenizer_sha256(load_tokenizer(run.tokenizer)) != manifest["tokenizer"]["sha256"]:
                problems.append(f"tokenizer is {run.tokenizer}, but was another one")
        except UnavailableError as error:
            say(f"{error}: going on with the one in {prepared.folder}")
    if problems:
        raise InputError(
            f"corpus {run.corpus} was prepared otherwise: {'; '.join(problems)}: leave that out of the recipe, or name "
            "the text itself as corpus, to prepare it anew"
        )


def _prepare_text(
    run: DataConfig,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast | None,
    vocab_size: int,
    window: int,
    say: Callable[[str], None],
) -> Path:
    found = survey(corpus, run.deduplicate) if corpus.identity is None else None
    split = plan_split(run.split, run.split_fractions, found)
    contents = {
        "format": FORMAT,
        "corpus": found.sha256 if found else corpus.identity,
        "split": [split.kind, split.fractions],
        "tokenizer": f"train {vocab_size}" if tokenizer is None else _identity(tokenizer),
    }
    if run.deduplicate:
        contents["deduplicate"] = True
    folder = Path(run.data_dir) / f"{corpus.name}-{_sha256_of(contents)[:12]}"
    if folder.exists():
        return folder
    with work_on(folder, say) as work:
        if not folder.exists():  # else another process has prepared it meanwhile
            _Preparation(run, corpus, found, split, work, say).make(folder, tokenizer, vocab_size, window)
    return folder


def _identity(tokenizer: PreTrainedTokenizerFast) -> list[Any]:
    return [tokenizer_sha256(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]


def _sha256_of(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _check_vocabulary(tokenizer: PreTrainedTokenizerFast, vocab_size: int) -> None:
    if len(tokenizer) > vocab_size:
        raise InputError(
            f"the tokenizer has {len(tokenizer):,} tokens, but vocab_size is {vocab_size:,}: "
            f"set vocab_size to {len(tokenizer)} or more"
        )


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


class _Preparation:
    """One corpus on its way into a work folder."""

    def __init__(
        self,
        run: DataConfig,
        corpus: Corpus,
        found: Survey | None,
        split: Split,
        work: WorkFolder,
        say: Callable[[str], None],
    ):
        self.run, self.corpus, self.found, self.split, self.work, self.say = run, corpus, found, split, work, say
        # A state is of use only where the same steps lead on from it; all else is in the folder's name.
        self.settings = {"format": FORMAT, "tokens_per_shard": writing.TOKENS_PER_SHARD}

    def make(self, folder: Path, tokenizer: PreTrainedTokenizerFast | None, vocab_size: int, window: int) -> None:
        """Makes the prepared data, from where an earlier process was cut off."""
        state = self.work.state(self.settings)
        given = tokenizer
        if state is None:
            length = f"{self.found.documents:,} documents, {self.found.characters:,} characters, " if self.found else ""
            self.say(f"corpus {self.corpus.name}: {length}split {self.split.kind}")
            tokenizer = tokenizer or self._train_tokenizer(vocab_size)
            tokenizer.save_pretrained(self.work.data / "tokenizer")
        else:
            tokenizer = load_tokenizer(str(self.work.data / "tokenizer"))
            done = state["position"]
            self.say(f"going on after {done['documents']:,} documents, {done['characters']:,} characters")
        dtype = "uint16" if len(tokenizer) <= 2**16 else "uint32"
        try:
            parts, end = self._write_parts(tokenizer, dtype, state)
        except EOFError as error:  # the disk has lost what was on it
            self.say(f"{error}: beginning anew")
            self.work.clear()
            self.make(folder, given, vocab_size, window)
            return
        _check_parts(parts, window)
        totals = self._totals(parts, end)
        vectors = {
            part: TokenVector(
                [self.work.data / shard["file"] for shard in parts[part]["shards"]],
                [shard["tokens"] for shard in parts[part]["shards"]],
            )
            for part in SPLITS
        }
        overlap = measure_overlap(vectors["train"], {part: vectors[part] for part in SPLITS[1:]})
        self.say(describe_overlap(overlap))
        manifest = {
            "format": FORMAT,
            "corpus": {**self.corpus.description, **totals},
            "split": asdict(self.split),
            "tokenizer": {"sha256": tokenizer_sha256(tokenizer), "tokens": len(tokenizer)},
            "dtype": dtype,
            "parts": parts,
            "overlap": overlap,
        }
        write_durably(self.work.data / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        self.work.complete(folder)

    def _totals(self, parts: dict[str, Any], end: Position) -> dict[str, Any]:
        """What the manifest says of the whole corpus."""
        if self.found is None:
            totals = {
                "sha256": hashlib.sha256(self.corpus.identity.encode()).hexdigest(),
                "documents": sum(part["documents"] for part in parts.values()),
                "characters": end.characters,
                "utf8_bytes": sum(part["utf8_bytes"] for part in parts.values()),
            }
            duplicates = end.documents - end.different
        else:
            names = ("sha256", "documents", "characters", "utf8_bytes")
            totals = {name: getattr(self.found, name) for name in names}
            duplicates = self.found.duplicates
        if self.run.deduplicate:
            totals["duplicates_left_out"] = duplicates
            self.say(f"{duplicates:,} documents left out because the same text came before")
        return totals

    def _train_tokenizer(self, vocab_size: int) -> PreTrainedTokenizerFast:
        self.say(f"training a tokenizer of {vocab_size:,} tokens")
        seen = SeenDocuments() if self.run.deduplicate else None
        stream = split_documents(self.corpus, self.split, seen)
        texts = (text for stretches, _ in stream for part, text, _ in stretches if part == "train")
        return train_tokenizer(texts, vocab_size)

    def _write_parts(
        self, tokenizer: PreTrainedTokenizerFast, dtype: str, state: dict[str, Any] | None
    ) -> tuple[dict[str, Any], Position]:
        """Writes all shards, saving its state now and then. Returns the manifest's `parts` and where the text ended."""
        start = Position(**state["position"]) if state else Position()
        saved = state["parts"] if state else dict.fromkeys(SPLITS)
        eos = tokenizer.eos_token_id
        writers = {part: PartWriter(self.work.path, part, dtype, eos, saved[part]) for part in SPLITS}
        keys = seen = None
        if self.run.deduplicate:
            keys = GrowingFile(self.work.path / "seen.keys", start.different * KEY_BYTES)
            seen = SeenDocuments(keys.file.read_bytes())

        def save_state(position: Position) -> None:
            if keys is not None:
                keys.append(seen.new_keys())
                keys.sync()
            parts = {part: writer.checkpoint() for part, writer in writers.items()}
            self.work.save_state({"settings": self.settings, "position": asdict(position), "parts": parts})
            for writer in writers.values():
                writer.forget_outdated()

        try:
            if state is None:
                save_state(start)
            end = self._encode(BatchEncoder(encoder(tokenizer), dtype, eos), writers, seen, start, save_state)
            save_state(end)  # finishing is quick; what comes after it may not be
            return {part: writer.finish() for part, writer in writers.items()}, end
        finally:
            for stream in (*writers.values(), *([keys] if keys else [])):
                stream.close()

    def _encode(
        self,
        encode: BatchEncoder,
        writers: dict[str, PartWriter],
        seen: SeenDocuments | None,
        start: Position,
        save_state: Callable[[Position], None],
    ) -> Position:
        end = start
        saved_at = time.monotonic()
        total = self.found.characters if self.found else None
        threads = self.run.tokenize_threads or usable_cores()
        bar = {"total": total, "initial": start.characters, "desc": "tokenizing", "unit": "char", "unit_scale": True}
        with closing(encode_in_order(encode, self._batches(seen, start), threads)) as stream, tqdm(**bar) as progress:
            for encoded, position in stream:
                shards = sum(len(writer.shards) for writer in writers.values())
                for part, found in encoded.items():
                    writers[part].add(found.ids, found.utf8_bytes, found.documents)
                progress.update(position.characters - end.characters)
                end = position
                has_new_shard = sum(len(writer.shards) for writer in writers.values()) > shards
                due = has_new_shard or time.monotonic() - saved_at >= SECONDS_BETWEEN_STATES
                # In the middle of a document a dataset on the Hub has no state to go on from.
                if due and (position.pieces == 0 or self.corpus.identity is None):
                    save_state(position)
                    saved_at = time.monotonic()
        return end

    def _batches(self, seen: SeenDocuments | None, start: Position) -> Iterator[tuple[list[Stretch], Position]]:
        batch: list[Stretch] = []
        waiting = 0
        position = start
        for stretches, position in split_documents(self.corpus, self.split, seen, start):
            batch += stretches
            waiting += sum(len(text) for _, text, _ in stretches)
            if waiting >= BATCH_CHARACTERS:
                yield batch, replace(position, state=self.corpus.state())
                batch, waiting = [], 0
        if batch:
            yield batch, replace(position, state=self.corpus.state())
