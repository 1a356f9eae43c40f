"""Models and their tokenizers, by folder or Hub name, ready to be used."""

from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .decoding import pack_for_decoding
from .errors import InputError, UnavailableError


def load_for_generation(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a folder or Hub name, on the best device, to write with: not to train, nor to save.

    Raises:
        InputError: it is no model folder.
    """
    if Path(name).is_dir() and not (Path(name) / "config.json").exists():
        raise InputError(f"{name} is no model folder: it has no config.json")
    check_name(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model, loading = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=False, output_loading_info=True)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise InputError(f"{name} cannot be opened: {str(error).strip().splitlines()[0]}") from None
    if loading["missing_keys"]:
        raise InputError(f"{name} lacks weights that its config.json asks for: {min(loading['missing_keys'])}, ...")
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    model.to(device).eval()
    pack_for_decoding(model)
    return model, tokenizer


def first_token(tokenizer: PreTrainedTokenizerBase, prompt: str) -> int:
    """What a prompt without tokens starts with, as a document does: what begins a text, or what ended the one before.

    Raises:
        InputError: the tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    raise InputError(
        f"the prompt {prompt!r} has no tokens, and the model's tokenizer none that begins or ends a text: start with a "
        "few words, or a line break"
    )


def check_name(name: str) -> None:
    """Tells a path that does not exist from a Hub name, before the library looks for it on the Hub.

    Raises:
        UnavailableError: `name` can only be a path, and nothing is there.
    """
    path = Path(name)
    looks_like_path = path.is_absolute() or len(path.parts) > 2 or (len(path.parts) == 2 and path.parent.exists())
    if not path.exists() and looks_like_path:
        raise UnavailableError(f"{name} does not exist")
