"""What completes prepared data, whatever it was made of: the overlap of its parts is measured, its manifest written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from modeling_gpt_scratch.conversion.tokenizer import vocabulary_size
from modeling_gpt_scratch.durable import write_durably

from .overlap import describe_overlap, measure_overlap
from .shards import FORMAT, MANIFEST, tokens_of
from .split import SPLITS
from .tokenizer import ids_dtype, tokenizer_sha256


def write_manifest(
    data: Path,
    tokenizer: PreTrainedTokenizerFast,
    corpus: dict[str, Any],
    split: dict[str, Any],
    parts: dict[str, Any],
    say: Callable[[str], None],
) -> None:
    """Writes the manifest of the shards in `data`.

    Args:
        tokenizer: the one that made the ids.
        corpus, split, parts: what the manifest says of them.
        say: told of the overlap, in a line.
    """
    vectors = {part: tokens_of(data, parts[part]) for part in SPLITS}
    overlap = measure_overlap(vectors["train"], {part: vectors[part] for part in SPLITS[1:]})
    say(describe_overlap(overlap))
    manifest = {
        "format": FORMAT,
        "corpus": corpus,
        "split": split,
        "tokenizer": {"sha256": tokenizer_sha256(tokenizer), "tokens": vocabulary_size(tokenizer)},
        "dtype": ids_dtype(tokenizer),
        "parts": parts,
        "overlap": overlap,
    }
    write_durably(data / MANIFEST, json.dumps(manifest, indent=2) + "\n")
