"""Prepared data of a corpus of text: named by its contents, and made, or gone on with where a process was cut short."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from configuration.data import DataConfig

from .completion import write_manifest
from .corpus import Corpus
from .cutting import with_bounded_words
from .duplicates import SeenDocuments
from .encoding import usable_cores
from .requirements import check_parts
from .shards import FORMAT, folder_name
from .split import Position, Split, Survey, plan_split, split_documents, survey
from .tokenization import Tokenization, state_settings
from .tokenizer import load_tokenizer, tokenizer_identity, train_tokenizer
from .work_folder import WorkFolder, work_on


def prepare_text(
    config: DataConfig,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast | None,
    vocab_size: int,
    window: int,
    say: Callable[[str], None],
) -> Path:
    """The folder of a corpus' prepared data, which is made if it is not there.

    Args:
        tokenizer: `None` trains one of `vocab_size` tokens.
        window: tokens that the model reads at once; the training part must hold more.

    Raises:
        InputError: the corpus cannot be read or split, or a part of it is too short.
    """
    found = survey(corpus, config.deduplicate) if corpus.identity is None else None
    split = plan_split(config.split, config.split_fractions, found)
    contents = {
        "format": FORMAT,
        "corpus": found.sha256 if found else corpus.identity,
        "split": [split.kind, split.fractions],
        "tokenizer": f"train {vocab_size}" if tokenizer is None else tokenizer_identity(tokenizer),
    }
    if config.deduplicate:
        contents["deduplicate"] = True
    folder = Path(config.data_dir) / folder_name(corpus.name, contents)
    if folder.exists():
        return folder
    with work_on(folder, say) as work:
        if not folder.exists():  # else another process has prepared it meanwhile
            _TextPreparation(config, corpus, found, split, work, say).make(tokenizer, vocab_size, window)
            work.complete(folder)
    return folder


class _TextPreparation:
    """One corpus on its way into a work folder."""

    def __init__(
        self,
        config: DataConfig,
        corpus: Corpus,
        found: Survey | None,
        split: Split,
        work: WorkFolder,
        say: Callable[[str], None],
    ):
        self.config, self.corpus, self.found, self.split, self.work, self.say = config, corpus, found, split, work, say

    def make(self, given: PreTrainedTokenizerFast | None, vocab_size: int, window: int) -> None:
        """Makes all that is in the prepared data, from where an earlier process was cut off."""
        state = self.work.state(state_settings())
        tokenizer = self._begin(given, vocab_size) if state is None else self._go_on(state)
        try:
            with Tokenization(self.work, self.corpus, self.split, self.config.deduplicate, tokenizer, state) as text:
                threads = self.config.tokenize_threads or usable_cores()
                parts = text.write_parts(threads, self.found.characters if self.found else None)
        except EOFError as error:  # the disk has lost what was on it
            self.say(f"{error}: beginning anew")
            self.work.clear()
            self.make(given, vocab_size, window)
            return
        check_parts(parts, window)
        corpus = {**self.corpus.description, **self._totals(parts, text.position)}
        write_manifest(self.work.data, tokenizer, corpus, asdict(self.split), parts, self.say)

    def _begin(self, given: PreTrainedTokenizerFast | None, vocab_size: int) -> PreTrainedTokenizerFast:
        length = f"{self.found.documents:,} documents, {self.found.characters:,} characters, " if self.found else ""
        self.say(f"corpus {self.corpus.name}: {length}split {self.split.kind}")
        tokenizer = given or self._train_tokenizer(vocab_size)
        tokenizer.save_pretrained(self.work.data / "tokenizer")
        return tokenizer

    def _go_on(self, state: dict[str, Any]) -> PreTrainedTokenizerFast:
        done = state["position"]
        self.say(f"going on after {done['documents']:,} documents, {done['characters']:,} characters")
        return load_tokenizer(str(self.work.data / "tokenizer"))

    def _train_tokenizer(self, vocab_size: int) -> PreTrainedTokenizerFast:
        self.say(f"training a tokenizer of {vocab_size:,} tokens")
        seen = SeenDocuments() if self.config.deduplicate else None
        stream = split_documents(self.corpus, self.split, seen)
        texts = (text for stretches, _ in stream for part, text, _ in stretches if part == "train")
        return train_tokenizer(with_bounded_words(texts), vocab_size)

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
        if self.config.deduplicate:
            totals["duplicates_left_out"] = duplicates
            self.say(f"{duplicates:,} documents left out because the same text came before")
        return totals
