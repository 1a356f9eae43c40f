"""
gpt-scratch: a GPT-2-style model as a full member of the Transformers family.

Importing this package registers its classes with the library's Auto classes, so `AutoModelForCausalLM` and the others
open a gpt-scratch folder without remote code.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .configuration_gpt_scratch import GPTScratchConfig
from .modeling_gpt_scratch import GPTScratchForCausalLM, GPTScratchModel, GPTScratchPreTrainedModel

AutoConfig.register(GPTScratchConfig.model_type, GPTScratchConfig)
AutoModel.register(GPTScratchConfig, GPTScratchModel)
AutoModelForCausalLM.register(GPTScratchConfig, GPTScratchForCausalLM)

# `save_pretrained` copies the code files beside the weights of classes that are registered in this second way.
GPTScratchConfig.register_for_auto_class()
GPTScratchModel.register_for_auto_class("AutoModel")
GPTScratchForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__version__ = "0.1.0"
__all__ = [
    "GPTScratchConfig",
    "GPTScratchForCausalLM",
    "GPTScratchModel",
    "GPTScratchPreTrainedModel",
    "__version__",
]
