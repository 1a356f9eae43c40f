"""From a recipe to its token shards: found, or else made of a text or of token files."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from configuration.data import DataConfig

from ..errors import UnavailableError
from ..files import sha256_of_values
from ..processes import on_every_process, on_first_process
from .corpus import Corpus
from .made_from import Signatures, find_in_place_of, find_made_from, remember_made_from, settings_sha256
from .mixture import open_corpora
from .requirements import check_parts, check_settings, check_vocabulary
from .shards import TokenShards, data_record
from .text_preparation import prepare_text
from .token_files import find_token_files, prepare_token_files, signature_of_files
from .tokenizer import load_tokenizer, tokenizer_identity


def add_verify_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--verify_data", action="store_true", help="compare every token shard with its recorded sha256 first"
    )


def prepare_shards(
    config: DataConfig,
    vocab_size: int,
    window: int,
    say: Callable[[str], None],
    verify: bool = False,
    begun_on: dict[str, Any] | None = None,
) -> TokenShards:
    """The token shards of a run: those in `data_dir` if they are there, else made now.

    Of several processes the first one finds or makes them, and the others open the same.

    Args:
        vocab_size: a tokenizer that is trained here gets so many tokens where the text gives them; an existing one
            must not have more.
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
        given = len(config.corpora) == 1 and data_record(Path(config.corpora[0])) is not None
        prepared = TokenShards(
            Path(config.corpora[0]) if given else _find_or_prepare(config, vocab_size, window, say, begun_on)
        )
        if given:
            check_settings(config, prepared, say)
        check_vocabulary(config, prepared.tokenizer, vocab_size, say)
        for line in prepared.losses():
            say(line)
        check_parts(prepared.manifest["parts"], window)
        if verify:
            prepared.verify()
            say(f"{prepared.folder}: every shard is as written")
        return prepared

    prepared = on_first_process(open_prepared)
    on_every_process(prepared.check_here)
    return prepared


class _Sources:
    """The text and the tokenizer that a recipe names, as far as they can be seen.

    Attributes:
        token_files: where the corpus is such files, else `None`.
        corpora: one or several; `None` where one is missing, and for token files.
        tokenizer: `None` where it is missing, and for one that is made of the text.
        signatures: of those that can be seen.
        missing: why the others cannot.
    """

    def __init__(self, config: DataConfig, begun_on: dict[str, Any] | None, say: Callable[[str], None]):
        self.token_files = find_token_files(config.corpora[0]) if len(config.corpora) == 1 else None
        self.begun_on = begun_on
        self.corpora: list[Corpus] | None = None
        self.tokenizer: PreTrainedTokenizerFast | None = None
        self.signatures: Signatures = {}
        self.missing: list[UnavailableError] = []
        self.say = say
        for name, signature in (("corpus", self._open_corpus), ("tokenizer", self._open_tokenizer)):
            try:
                self.signatures[name] = signature(config)
            except UnavailableError as error:
                self.missing.append(error)

    def _open_corpus(self, config: DataConfig) -> str:
        if self.token_files is not None:
            return sha256_of_values(signature_of_files(self.token_files))
        self.corpora = open_corpora(config, self.begun_on and self.begun_on["corpus"])
        signatures = [corpus.signature() for corpus in self.corpora]
        return signatures[0] if len(signatures) == 1 else sha256_of_values(signatures)

    def _open_tokenizer(self, config: DataConfig) -> str:
        if config.makes_tokenizer:
            return config.tokenizer
        self.tokenizer = load_tokenizer(config.tokenizer, config.eos_token, self.say)
        return sha256_of_values(tokenizer_identity(self.tokenizer))


def _find_or_prepare(
    config: DataConfig,
    vocab_size: int,
    window: int,
    say: Callable[[str], None],
    begun_on: dict[str, Any] | None,
) -> Path:
    data_dir, settings = Path(config.data_dir), settings_sha256(config, vocab_size)
    if begun_on is not None:
        begun_in = data_dir / begun_on.get("folder", "")
        if data_record(begun_in) == begun_on:
            say(f"the run goes on with the data that it began on, {begun_in}")
            return begun_in
    sources = _Sources(config, begun_on, say)
    if sources.missing:
        return find_in_place_of(sources.missing, data_dir, settings, sources.signatures, say)
    if sources.tokenizer is not None:
        check_vocabulary(config, sources.tokenizer, vocab_size, say)
    found = find_made_from(data_dir, settings, sources.signatures)
    if found:
        return found[0]
    if sources.token_files is not None:
        folder = prepare_token_files(sources.token_files, data_dir, sources.tokenizer, say)
    else:
        for corpus in sources.corpora:
            if corpus.not_read:
                say(corpus.not_read)
        folder = prepare_text(config, sources.corpora, sources.tokenizer, vocab_size, window, say)
        for corpus in sources.corpora:
            if corpus.rows_without_text:
                say(f"corpus {corpus.name}: rows without text, skipped: {corpus.rows_without_text:,}")
    remember_made_from(folder, settings, sources.signatures, say)
    return folder
