"""Prepared data of text: named by its contents, and made, or gone on with where a process was cut short."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from configuration.data import DataConfig

from .completion import write_manifest
from .corpus import Corpus
from .cutting import with_bounded_words
from .duplicates import SeenDocuments
from .encoding import usable_cores
from .mixture import (
    PartedCorpus,
    check_every_corpus,
    describe_corpora,
    describe_split,
    name_of,
    part_corpora,
    split_corpora,
)
from .requirements import check_parts
from .shards import FORMAT, folder_name
from .split import Position
from .tokenization import Tokenization, state_settings
from .tokenizer import load_tokenizer, tokenizer_identity, tokenizer_of_characters, train_tokenizer
from .work_folder import WorkFolder, work_on


def prepare_text(
    config: DataConfig,
    corpora: list[Corpus],
    tokenizer: PreTrainedTokenizerFast | None,
    vocab_size: int,
    window: int,
    say: Callable[[str], None],
) -> Path:
    """The folder of the prepared data of one or several corpora, which is made if it is not there.

    Args:
        corpora: read one after the other.
        tokenizer: `None` makes one of the text: of `vocab_size` tokens, or of its characters.
        window: tokens that the model reads at once; the training part must hold more.

    Raises:
        InputError: the corpus cannot be read or split, or a part of it is too short.
    """
    parted = part_corpora(corpora, config)
    hashes, splits = ([each.contents for each in parted], [[each.split.kind, each.split.fractions] for each in parted])
    contents = {
        "format": FORMAT,
        "corpus": hashes if len(parted) > 1 else hashes[0],
        "split": splits if len(parted) > 1 else splits[0],
        "tokenizer": _tokenizer_of(config, tokenizer, vocab_size),
    }
    if config.deduplicate:
        contents["deduplicate"] = True
    folder = Path(config.data_dir) / folder_name(name_of(corpora), contents)
    if folder.exists():
        return folder
    with work_on(folder, say) as work:
        if not folder.exists():  # else another process has prepared it meanwhile
            _TextPreparation(config, parted, work, say).make(tokenizer, vocab_size, window)
            work.complete(folder)
    return folder


def _tokenizer_of(
    config: DataConfig, given: PreTrainedTokenizerFast | None, vocab_size: int
) -> str | list[str | int | None]:
    if given is not None:
        return tokenizer_identity(given)
    return "characters" if config.tokenizer == "characters" else f"train {vocab_size}"


class _TextPreparation:
    """Corpora on their way into a work folder."""

    def __init__(self, config: DataConfig, parted: list[PartedCorpus], work: WorkFolder, say: Callable[[str], None]):
        self.config, self.parted, self.work, self.say = config, parted, work, say
        surveys = [each.found for each in parted]
        self.surveys = surveys if all(surveys) else None

    def make(self, given: PreTrainedTokenizerFast | None, vocab_size: int, window: int) -> None:
        """Makes all that is in the prepared data, from where an earlier process was cut off."""
        state = self.work.state(state_settings())
        tokenizer = self._begin(given, vocab_size) if state is None else self._go_on(state)
        try:
            with Tokenization(self.work, self.parted, self.config.deduplicate, tokenizer, state) as text:
                threads = self.config.tokenize_threads or usable_cores()
                characters = sum(found.characters for found in self.surveys) if self.surveys else None
                parts = text.write_parts(threads, characters)
        except EOFError as error:  # the disk has lost what was on it
            self.say(f"{error}: beginning anew")
            self.work.clear()
            self.make(given, vocab_size, window)
            return
        check_parts(parts, window)
        check_every_corpus([each.corpus.name for each in self.parted], parts)
        corpus = describe_corpora(self.parted, parts, text.position)
        if self.config.deduplicate:
            corpus["duplicates_left_out"] = self._duplicates(text.position)
        write_manifest(self.work.data, tokenizer, corpus, describe_split(self.parted), parts, self.say)

    def _begin(self, given: PreTrainedTokenizerFast | None, vocab_size: int) -> PreTrainedTokenizerFast:
        for each in self.parted:
            found = each.found
            length = f"{found.documents:,} documents, {found.characters:,} characters, " if found else ""
            self.say(f"corpus {each.corpus.name}: {length}split {each.split.kind}")
        tokenizer = given or self._make_tokenizer(vocab_size)
        tokenizer.save_pretrained(self.work.data / "tokenizer")
        return tokenizer

    def _go_on(self, state: dict[str, Any]) -> PreTrainedTokenizerFast:
        done = Position(**state["position"])
        self.say(f"going on after {done.all_documents:,} documents, {done.all_characters:,} characters")
        return load_tokenizer(str(self.work.data / "tokenizer"))

    def _make_tokenizer(self, vocab_size: int) -> PreTrainedTokenizerFast:
        characters = self.config.tokenizer == "characters"
        self.say("collecting the characters" if characters else f"training a tokenizer of {vocab_size:,} tokens")
        seen = SeenDocuments() if self.config.deduplicate else None
        stream = split_corpora(self.parted, seen)
        texts = (text for stretches, _ in stream for part, text, _ in stretches if part == "train")
        return tokenizer_of_characters(texts) if characters else train_tokenizer(with_bounded_words(texts), vocab_size)

    def _duplicates(self, end: Position) -> int:
        if self.surveys:
            duplicates = sum(found.duplicates for found in self.surveys)
        else:
            duplicates = end.all_documents - end.different
        self.say(f"{duplicates:,} documents left out because the same text came before")
        return duplicates
