"""The part of a recipe that says which text a model is trained on, and how it becomes windows of tokens."""

import math
from dataclasses import dataclass
from typing import Literal

from .fields import setting


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What prepared data depends on, and the order in which a run visits it."""

    corpus: str = setting(
        "`stdlib` (the running Python's standard library), a file, a folder or a pattern such as 'texts/**/*.txt' "
        "(.txt, .md, .py, .jsonl, .json, .csv, .tsv, each also with .gz or .zst, and .parquet), `hf:owner/name` (a "
        "dataset on the Hub, streamed), a folder of token files (train.safetensors and validation.safetensors), or a "
        "folder of prepared data (data_dir/<corpus>-<hash>)",
        is_path=True,
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
        "`train` (byte-level BPE of vocab_size tokens, on the training part), or a folder or Hub name",
        "train",
        is_path=True,
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

    def __post_init__(self):
        problems = [
            f"{name} is empty"
            for name in ("corpus", "text_field", "dataset_split", "tokenizer", "data_dir")
            if not getattr(self, name).strip()
        ]
        fractions = self.split_fractions
        if fractions is not None and (
            len(fractions) != 3 or min(fractions) <= 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6)
        ):
            problems.append(f"split_fractions is {fractions}, but must be three positive numbers that add up to 1")
        if problems:
            raise ValueError("\n".join(problems))
