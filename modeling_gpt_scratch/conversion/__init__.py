"""
Checkpoints of other code as gpt-scratch models, and gpt-scratch models as GPT-2 and as GGUF.

Every format of sources (`formats.py`) is described by its configuration's fields, a table of names (`weights.py`
applies it) and a measure: a forward pass over its own tensors, or the library's own class. Nothing is written before
the logits of what will be written equal those of the source.
"""

from .book import book_logits, convert_book_checkpoint, unwrap_blog_checkpoint
from .checks import ConversionError
from .convert import TARGETS, convert
from .formats import FORMATS
from .gguf import GGUF_DTYPES
from .gpt2 import convert_gpt2_checkpoint, fits_gpt2, to_gpt2
from .logits import LOGITS_TOLERANCE, compare_logits
from .nanogpt import ACTIVATIONS, convert_nanogpt_checkpoint, nanogpt_logits
from .weights import load_gpt_scratch_checkpoint

__all__ = [
    "ACTIVATIONS",
    "FORMATS",
    "GGUF_DTYPES",
    "LOGITS_TOLERANCE",
    "TARGETS",
    "ConversionError",
    "book_logits",
    "compare_logits",
    "convert",
    "convert_book_checkpoint",
    "convert_gpt2_checkpoint",
    "convert_nanogpt_checkpoint",
    "fits_gpt2",
    "load_gpt_scratch_checkpoint",
    "nanogpt_logits",
    "to_gpt2",
    "unwrap_blog_checkpoint",
]
