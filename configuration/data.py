"""The part of a recipe that says which text a model is trained on, and how it becomes windows of tokens."""

import math
from dataclasses import dataclass
from typing import Literal

from .fields import setting

# The names of tokenizers that are made of the training part.
MADE_OF_TEXT = ("train", "characters")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What prepared data depends on, and the order in which a run visits it."""

    corpus: str | list[str] = setting(
        "`stdlib` (the running Python's standard library), a file, a folder or a pattern such as 'texts/**/*.txt' "
        "(.txt, .md, .py, .jsonl, .json, .csv, .tsv, each also with .gz or .zst, and .parquet), `hf:owner/name` (a "
        "dataset on the Hub, streamed), a folder of token files (train.safetensors and validation.safetensors), or a "
        "folder of prepared data (data_dir/<corpus>-<hash>); or a list of texts, [a, b]",
        is_path=True,
    )
    corpus_weights: list[float] | None = setting(
        "the share of the training windows that comes from each of several corpora, such as [0.7, 0.3]; null: as much "
        "as there is of each",
        None,
    )
    text_field: str = setting("the field of a row that holds the text: a name, or `a.b` for field b of field a", "text")
    dataset_config: str | None = setting(
        "configuration of a dataset on the Hub, such as FineWeb's sample-10BT; null: its default", None
    )
    dataset_split: str = setting("split of a dataset on the Hub; all its rows are parted anew", "train")
    dataset_revision: str | None = setting(
        "commit, branch or tag of a dataset on the Hub; null: main. A run keeps to its first commit", None
    )
    deduplicate: bool = setting("keep only the first of documents with the same text", False)
    tokenize_threads: int | None = setting(
        "threads that encode text; null: one for each core. The shards do not depend on it", None, within=(1, 1024)
    )
    tokenizer: str = setting(
        "`train` (byte-level BPE of vocab_size tokens, on the training part), `characters` (those of the training "
        "part), a folder or Hub name, or nanoGPT's meta.pkl",
        "train",
        is_path=True,
    )
    eos_token: str | None = setting(
        "the token of an existing tokenizer that separates documents; null: its own end of text", None
    )
    split: Literal["auto", "hash", "contiguous"] = setting(
        "how train, validation and test are parted: by each document's `hash`, in `contiguous` stretches of text, "
        "or `auto`: by hash from 100 documents up",
        "auto",
    )
    split_fractions: list[float] | None = setting(
        "shares of train, validation and test; 0.98, 0.01, 0.01 by hash, 0.9, 0.05, 0.05 contiguous", None
    )
    shuffle: bool = setting("visit the training windows in a random order of (seed, epoch)", True)
    document_masking: bool = setting(
        "documents in one window do not see each other; positions restart at each end of text", False
    )
    data_dir: str = setting("where prepared token shards are kept, shared by runs", "data", is_path=True)

    @property
    def makes_tokenizer(self) -> bool:
        """Whether the tokenizer is made of the training part, and not an existing one."""
        return self.tokenizer in MADE_OF_TEXT

    def __post_init__(self):
        problems = [
            f"{name} is empty"
            for name in ("text_field", "dataset_split", "tokenizer", "data_dir")
            if not getattr(self, name).strip()
        ]
        problems += self._problems_of_corpora()
        if self.eos_token is not None and self.makes_tokenizer:
            problems.append(
                f"eos_token is {self.eos_token!r}, but tokenizer is {self.tokenizer}, which has an end of text of its "
                "own: leave eos_token out, or name an existing tokenizer"
            )
        fractions = self.split_fractions
        if fractions is not None and (
            len(fractions) != 3 or min(fractions) <= 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6)
        ):
            problems.append(f"split_fractions is {fractions}, but must be three positive numbers that add up to 1")
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def corpora(self) -> list[str]:
        """What `corpus` names, one or several."""
        return self.corpus if isinstance(self.corpus, list) else [self.corpus]

    def _problems_of_corpora(self) -> list[str]:
        corpora, weights = self.corpora, self.corpus_weights
        problems = []
        if not corpora or not all(corpus.strip() for corpus in corpora):
            problems.append("corpus is empty" if len(corpora) < 2 else "corpus has an empty name in it")
        if sum(corpus.startswith("hf:") for corpus in corpora) > 1:
            problems += [
                f"{name} is {getattr(self, name)}, but corpus names several datasets on the Hub, which do not share one"
                for name in ("dataset_config", "dataset_revision")
                if getattr(self, name) is not None
            ]
        if weights is not None:
            if not weights or min(weights) <= 0:
                problems.append(f"corpus_weights is {weights}, but must be positive numbers")
            # A single corpus may be prepared data, which was made of several.
            elif len(corpora) > 1 and len(weights) != len(corpora):
                problems.append(f"corpus_weights has {len(weights)} numbers, but corpus names {len(corpora)}")
        return problems
