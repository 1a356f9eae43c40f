"""GPT-2 as OpenAI published it, a folder of TensorFlow's files: what it is, and where the same weights can be read."""

import json
from pathlib import Path

from .checks import ConversionError

# The width of the model, as hparams.json says it -> the Hub's repository of the same weights.
REPOSITORIES = {
    768: "openai-community/gpt2",
    1024: "openai-community/gpt2-medium",
    1280: "openai-community/gpt2-large",
    1600: "openai-community/gpt2-xl",
}


def refuse_openai_folder(folder: Path) -> None:
    """Says what a folder with `model.ckpt.index` is.

    Raises:
        `ConversionError`: it is one; names the repository with its weights, or all where the size is not said.
    """
    if not (folder / "model.ckpt.index").is_file():
        return
    try:
        width = json.loads((folder / "hparams.json").read_text(encoding="utf-8"))["n_embd"]
        names = [REPOSITORIES[width]]
    except (OSError, ValueError, KeyError, TypeError):  # no size, or none of OpenAI's
        names = list(REPOSITORIES.values())
    line = f"python -m modeling_gpt_scratch convert {names[0]} OUTPUT"
    raise ConversionError(
        f"{folder} is GPT-2 as OpenAI published it, in TensorFlow's format, which needs TensorFlow to be read. "
        f"{' or '.join(names)} on the Hub has the same weights{'' if len(names) == 1 else ', by size'}: {line}"
    )
