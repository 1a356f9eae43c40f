"""What a source says of how it is to write (`generation_config.json`), carried over to its conversion."""

from pathlib import Path

from transformers import GenerationConfig

from ..configuration_gpt_scratch import GPTScratchConfig
from .checks import ConversionError

SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
# Flags that are read only while sampling, or only in a search of several beams -> the value that changes nothing. The
# library reads others where they have no effect, and refuses to write them (`GenerationConfig.validate`).
SAMPLING_FLAGS = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": None, "top_h": None, "typical_p": 1.0}
SAMPLING_FLAGS |= {"epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
BEAM_FLAGS = {"early_stopping": False, "length_penalty": 1.0}


def read_generation_config(folder: Path, config: GPTScratchConfig) -> GenerationConfig | None:
    """The settings in a folder, made to fit the model; `None` where it has none.

    Special tokens stay where the vocabulary has them, and are the model's where they do not say any. Lengths end where
    the model's positions do.

    Raises:
        `ConversionError`: they cannot be read.
    """
    if not (folder / "generation_config.json").is_file():
        return None
    try:
        settings = GenerationConfig.from_pretrained(folder)
    except Exception as error:  # whatever odd values make the library raise
        raise ConversionError(f"{folder / 'generation_config.json'} cannot be read: {error}") from error
    for name in SPECIAL_TOKENS:
        token_ids = tokens_within(config.vocab_size, getattr(settings, name))
        setattr(settings, name, getattr(config, name) if token_ids is None else token_ids)
    limit_length(settings, config.max_position_embeddings)
    return settings


def drop_ignored_flags(settings: GenerationConfig) -> list[str]:
    """Takes out the flags that have no effect beside the others, and returns their names."""
    ignored = {} if settings.do_sample else dict(SAMPLING_FLAGS)
    if settings.num_beams in (None, 1):
        ignored |= BEAM_FLAGS
    dropped = [name for name, neutral in ignored.items() if getattr(settings, name, None) not in (None, neutral)]
    for name in dropped:
        setattr(settings, name, None)
    return dropped


def limit_length(settings: GenerationConfig, positions: int) -> None:
    """Ends what is written where the model's positions end, unless the settings end it before."""
    if settings.max_length is not None:
        settings.max_length = min(settings.max_length, positions)
    elif settings.max_new_tokens is None:
        settings.max_length = positions


def tokens_within(vocab_size: int, token_ids: int | list[int] | None) -> int | list[int] | None:
    """The special tokens that exist: GPT-2's class says 50256 for every model, however small its vocabulary."""
    if isinstance(token_ids, list):
        return [token_id for token_id in token_ids if token_id < vocab_size] or None
    return token_ids if token_ids is not None and token_ids < vocab_size else None
