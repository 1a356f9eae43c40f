"""
gpt-scratch: a GPT-2-style model as a full member of the Transformers family.

Importing this package registers its classes with the library's Auto classes, so `AutoModelForCausalLM` and the others
open a gpt-scratch folder without remote code.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from .configuration_gpt_scratch import GPTScratchConfig
from .modeling_gpt_scratch import (
    GPTScratchForCausalLM,
    GPTScratchForSequenceClassification,
    GPTScratchForTokenClassification,
    GPTScratchModel,
    GPTScratchPreTrainedModel,
)

AutoConfig.register(GPTScratchConfig.model_type, GPTScratchConfig)
# `save_pretrained` copies the code files beside the weights of classes that are registered in the second way.
GPTScratchConfig.register_for_auto_class()
for auto_class, model_class in (
    (AutoModel, GPTScratchModel),
    (AutoModelForCausalLM, GPTScratchForCausalLM),
    (AutoModelForSequenceClassification, GPTScratchForSequenceClassification),
    (AutoModelForTokenClassification, GPTScratchForTokenClassification),
):
    auto_class.register(GPTScratchConfig, model_class)
    model_class.register_for_auto_class(auto_class.__name__)

__version__ = "0.1.0"
__all__ = [
    "GPTScratchConfig",
    "GPTScratchForCausalLM",
    "GPTScratchForSequenceClassification",
    "GPTScratchForTokenClassification",
    "GPTScratchModel",
    "GPTScratchPreTrainedModel",
    "__version__",
]
