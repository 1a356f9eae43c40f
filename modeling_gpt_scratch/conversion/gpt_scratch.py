"""Our own model folders as sources."""

import torch

from ..configuration_gpt_scratch import GPTScratchConfig
from ..modeling_gpt_scratch import GPTScratchForCausalLM
from .gpt2 import GPT2_NAMES
from .weights import JOINED, build_config, build_model, with_head

# Every name of ours stands for itself.
NAMES = {name: name for joined in GPT2_NAMES.values() for name in joined.split(JOINED)}


def load_gpt_scratch_checkpoint(state_dict: dict[str, torch.Tensor], config: dict) -> GPTScratchForCausalLM:
    """The language model with the tensors of one of our own folders, copied in their own dtype, in evaluation mode.

    Unlike `from_pretrained`, it takes nothing but a whole language model, and never the folder's own code.

    Args:
        state_dict: the tensors by our names; a tied model may lack its head.
        config: the content of the folder's `config.json`.

    Raises:
        `ConversionError`: an invalid configuration, or unknown, missing or misshapen tensors.
    """
    # The model's own fields: the rest is about heads, saving and code, and the result's code files are this package's.
    fields = {name: config[name] for name in GPTScratchConfig.__annotations__ if name in config}
    ours = build_config(state_dict, **fields)
    state_dict = with_head(state_dict, "model.embed_tokens.weight", ours.tie_word_embeddings)
    return build_model(ours, state_dict, NAMES, ignored={})
