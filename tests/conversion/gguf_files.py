"""What tests of GGUF files share: a source with a tokenizer, and its file."""

import copy
from pathlib import Path

from modeling_gpt_scratch.conversion import convert


def changed(tokenizer, **parts):
    """The tokenizer with other parts of its core."""
    tokenizer = copy.deepcopy(tokenizer)
    for name, part in parts.items():
        setattr(tokenizer.backend_tokenizer, name, part)
    return tokenizer


def to_gguf(source: Path, output: Path, dtype: str | None = None) -> Path:
    convert(source, output, target_format="gguf", dtype=dtype)
    return next(output.glob("*.gguf"))
