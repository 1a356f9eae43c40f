"""The tokenizer that goes along with a converted model."""

from pathlib import Path

from transformers import AutoTokenizer, GPT2Config, PreTrainedTokenizerBase

from ..configuration_gpt_scratch import GPTScratchConfig
from ..modeling_gpt_scratch import GPTScratchForCausalLM
from .characters import character_tokenizer, read_characters
from .checks import ConversionError
from .generation import SPECIAL_TOKENS

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


def holds_tokenizer(folder: Path) -> bool:
    """Whether the folder has files that a tokenizer can be loaded from."""
    if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return True
    return all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Ids that a model must have for a tokenizer: up to the highest, though some below it may stand for nothing."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def load_tokenizer(name: str | Path, config: GPTScratchConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or repository, or of the characters in nanoGPT's `meta.pkl`, with the model's length.

    Raises:
        `ConversionError`: it cannot be loaded, or has more tokens than the model.
    """
    if Path(name).is_file():
        tokenizer = character_tokenizer(read_characters(Path(name)), special_tokens=False)
        tokenizer.model_max_length = config.max_position_embeddings
    else:
        tokenizer = _load_library_tokenizer(name, config)
    if vocabulary_size(tokenizer) > config.vocab_size:
        raise ConversionError(
            f"The tokenizer {name} has {vocabulary_size(tokenizer)} tokens, but the model's vocabulary only "
            f"{config.vocab_size}: name the tokenizer that the model was trained with"
        )
    return tokenizer


def _load_library_tokenizer(name: str | Path, config: GPTScratchConfig) -> PreTrainedTokenizerBase:
    # Two files without a configuration that names their class are GPT-2's form.
    hint = {"config": GPT2Config()} if (Path(name) / "merges.txt").is_file() else {}
    try:
        # Our own folders need no remote code, because importing this package registers their classes; other people's
        # code does not run.
        return AutoTokenizer.from_pretrained(
            name, trust_remote_code=False, model_max_length=config.max_position_embeddings, **hint
        )
    except Exception as error:  # the tokenizers library raises plain `Exception` for a damaged file
        raise ConversionError(f"The tokenizer {name} cannot be loaded: {error}") from error


def adopt_special_tokens(model: GPTScratchForCausalLM, tokenizer: PreTrainedTokenizerBase, *, replace: bool) -> None:
    """Gives the model's configurations the tokenizer's ids; without `replace`, only those that they lack."""
    configs = [model.config, model.generation_config] if model.can_generate() else [model.config]
    for name in SPECIAL_TOKENS:
        for config in configs:
            if replace or getattr(config, name) is None:
                setattr(config, name, getattr(tokenizer, name))
