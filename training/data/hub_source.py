"""A dataset on the Hub as a corpus, streamed: no copy of it on this disk, and memory for a few rows."""

import gc
import re
from collections.abc import Iterator
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from configuration.data import DataConfig

from ..errors import InputError, UnavailableError
from .corpus import Corpus, Document
from .text_field import column_of, text_of

HUB_PREFIX = "hf:"
COMMIT = re.compile("[0-9a-f]{40}")


class HubCorpus(Corpus):
    """The rows of one split of a dataset at one commit. The commit is the identity: nothing is read to find it out.

    Args:
        repository: `owner/name` on the Hub.
        revision: a commit.
        config: configuration of the dataset (FineWeb's are called `sample-10BT` and so on); `None`: its default.
        split: split of the dataset; all its rows are parted anew into train, validation and test.
        text_field: the column that holds the text, or a field in a column.
    """

    def __init__(self, repository: str, revision: str, config: str | None, split: str, text_field: str):
        self.name = "--".join([*repository.split("/"), *([config] if config else [])])
        self.description = {"corpus": repository, "revision": revision, "config": config, "split": split}
        self.identity = " ".join([repository, revision, config or "", split, text_field])
        self._text_field = text_field
        self._arguments = {"path": repository, "name": config, "split": split, "revision": revision}
        self._stream: Any = None
        self._rows = 0

    def signature(self) -> str:
        return self.identity

    def documents(self, skip: int = 0, state: dict[str, Any] | None = None) -> Iterator[Document]:
        self._stream = self._open()
        self._rows = self.rows_without_text = 0
        if state is not None:
            state = dict(state)
            self._rows, self.rows_without_text = state.pop("rows"), state.pop("rows_without_text")
            skip = 0
            self._stream.load_state_dict(state)
        try:
            for row in self._stream:
                self._rows += 1
                place = f"dataset {self.description['corpus']}, row {self._rows}"
                text = text_of(row, self._text_field, place)
                if not text:
                    self.rows_without_text += 1
                elif skip:
                    skip -= 1
                else:
                    yield Document.of(text, place)
        finally:
            # Arrow's threads of a stream that was left early abort the process if Python ends before they are collected
            # (apache/arrow issue 45214).
            gc.collect()

    def state(self) -> dict[str, Any]:
        return {**self._stream.state_dict(), "rows": self._rows, "rows_without_text": self.rows_without_text}

    def _open(self) -> Any:
        from datasets import disable_progress_bars, load_dataset

        disable_progress_bars()
        try:
            stream = load_dataset(**self._arguments, streaming=True)
        except (OSError, ValueError) as error:
            raise InputError(
                f"dataset {self.description['corpus']} cannot be opened: {' '.join(str(error).split())}"
            ) from None
        # Of tables, only the one column is sent over the network.
        column = column_of(stream.features or {}, self._text_field)
        return stream if column is None else stream.select_columns([column])


def open_hub_dataset(config: DataConfig) -> HubCorpus:
    """The dataset that `corpus: hf:owner/name` means, at the commit that its revision stands for now.

    The Hub is asked for that only where the revision is not itself a commit.

    Raises:
        UnavailableError: there is no such dataset, or it cannot be reached, or `datasets` is not installed.
    """
    repository = config.corpus.removeprefix(HUB_PREFIX)
    try:
        import datasets  # noqa: F401
    except ImportError:
        raise UnavailableError(f"corpus {config.corpus} needs the datasets library: pip install '.[data]'") from None
    commit = config.dataset_revision
    if commit is None or not COMMIT.fullmatch(commit):
        try:
            commit = HfApi().dataset_info(repository, revision=config.dataset_revision).sha
        except (HTTPError, OSError, ValueError) as error:
            raise UnavailableError(f"dataset {repository} cannot be found: {' '.join(str(error).split())}") from None
    return HubCorpus(repository, commit, config.dataset_config, config.dataset_split, config.text_field)
