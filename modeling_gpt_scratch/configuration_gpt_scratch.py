"""What a gpt-scratch model *is*: sizes, dropout, special tokens. Nothing about data, devices or training."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN


@strict
class GPTScratchConfig(PreTrainedConfig):
    r"""
    Configuration of a GPT-2-style decoder. The defaults give GPT-2 small (124,439,808 parameters; Radford et al.,
    "Language Models are Unsupervised Multitask Learners", 2019, table 2).

    Args:
        vocab_size (`int`): number of token ids, rows of the token embedding.
        hidden_size (`int`): width of the residual stream; a multiple of `num_attention_heads`.
        num_hidden_layers (`int`): number of transformer blocks.
        num_attention_heads (`int`): attention heads of each block.
        intermediate_size (`int`, *optional*): width of the MLP's hidden layer; `None` means 4 x `hidden_size`.
        max_position_embeddings (`int`): longest sequence in tokens; positions are learned, so none exist beyond it.
        hidden_act (`str`): the MLP's activation, a key of `transformers.activations.ACT2FN`.
        qkv_bias (`bool`): whether the query, key and value projections have biases (GPT-2: yes; the book: no).
        embedding_dropout (`float`): dropout probability after token and position embeddings are added.
        attention_dropout (`float`): dropout probability of the attention weights.
        residual_dropout (`float`): dropout probability of what each attention and MLP adds to the residual stream.
        classifier_dropout (`float`): dropout probability of the hidden states that a classification head reads.
        classifier_bias (`bool`): whether the head that classifies whole texts has a bias (GPT-2: no; the book: yes).
        layer_norm_eps (`float`): added to the variance inside each LayerNorm.
        initializer_range (`float`): standard deviation of the initial weights.
        tie_word_embeddings (`bool`): whether the output head shares the token embedding's weights.
        use_cache (`bool`): whether `forward` returns keys and values for the next step by default.
        bos_token_id, eos_token_id, pad_token_id (`int`, *optional*): special tokens of the tokenizer.

    Raises:
        `huggingface_hub.errors.StrictDataclassError`: wrong types, or sizes that do not fit together.

    Example:

    ```python
    >>> from modeling_gpt_scratch import GPTScratchConfig, GPTScratchForCausalLM

    >>> config = GPTScratchConfig(vocab_size=512, hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
    >>> GPTScratchForCausalLM(config).num_parameters()
    198400

    ```"""

    model_type = "gpt_scratch"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]  # older and newer releases' names of the same thing
    base_model_tp_plan = {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.fc_in": "colwise",
        "layers.*.mlp.fc_out": "rowwise",
    }
    # The parts in their order, each with the names of what it gets and gives.
    base_model_pp_plan = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "embed_positions": (["position_ids"], ["position_embeds"]),
        "embedding_dropout": (["inputs_embeds"], ["hidden_states"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    vocab_size: int = 50257
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int | None = None
    max_position_embeddings: int = 1024
    hidden_act: str = "gelu_pytorch_tanh"
    qkv_bias: bool = True
    embedding_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    residual_dropout: float | int = 0.0
    classifier_dropout: float | int = 0.0
    classifier_bias: bool = False
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs):
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        # Declared here and not by registration: `save_pretrained` writes only the entry of the class that saves,
        # while engines such as vLLM look for AutoModel in a folder that AutoModelForCausalLM has saved.
        kwargs.setdefault(
            "auto_map",
            {
                "AutoConfig": "configuration_gpt_scratch.GPTScratchConfig",
                "AutoModel": "modeling_gpt_scratch.GPTScratchModel",
                "AutoModelForCausalLM": "modeling_gpt_scratch.GPTScratchForCausalLM",
                "AutoModelForSequenceClassification": "modeling_gpt_scratch.GPTScratchForSequenceClassification",
                "AutoModelForTokenClassification": "modeling_gpt_scratch.GPTScratchForTokenClassification",
            },
        )
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of `@strict`: called after building and before saving. Lists every problem at once."""
        problems = [
            f"{name} is {getattr(self, name)}, but must be at least 1"
            for name in (
                "vocab_size",
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "intermediate_size",
                "max_position_embeddings",
            )
            if getattr(self, name) < 1
        ]
        if self.num_attention_heads > 0 and self.hidden_size % self.num_attention_heads != 0:
            problems.append(
                f"hidden_size is {self.hidden_size}, not a multiple of num_attention_heads, which is "
                f"{self.num_attention_heads}: each head gets an equal share of the width"
            )
        problems += [
            f"{name} is {getattr(self, name)}, but a dropout probability lies in [0, 1)"
            for name in ("embedding_dropout", "attention_dropout", "residual_dropout", "classifier_dropout")
            if not 0 <= getattr(self, name) < 1
        ]
        problems += [
            f"{name} is {getattr(self, name)}, but must be positive and finite"
            for name in ("layer_norm_eps", "initializer_range")
            if not 0 < getattr(self, name) < float("inf")
        ]
        if self.hidden_act not in ACT2FN:
            problems.append(f"hidden_act is {self.hidden_act!r}, which is not one of {', '.join(ACT2FN)}")
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            token_ids = getattr(self, name)
            for token_id in token_ids if isinstance(token_ids, list) else [token_ids]:
                if token_id is not None and not 0 <= token_id < self.vocab_size:
                    problems.append(f"{name} is {token_id}, outside of the vocabulary of {self.vocab_size} tokens")
        if problems:
            raise ValueError("; ".join(problems))


__all__ = ["GPTScratchConfig"]
