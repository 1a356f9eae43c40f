"""
The gpt-scratch model: GPT-2's architecture (Radford et al., 2019) in the library's form.

Read from top to bottom: attention -> MLP -> block -> model -> language model, classifiers. Shapes stand in the margin:

    B  batch_size         H  num_attention_heads       V  vocab_size
    T  new tokens         D  head size, C / H          S  past + new tokens
    C  hidden_size

The names are the library's. In the book "Build a Large Language Model (From Scratch)" they are:

    tok_emb, pos_emb, drop_emb      embed_tokens, embed_positions, embedding_dropout
    trf_blocks                      layers
    norm1, norm2, final_norm        input_layernorm, post_attention_layernorm, norm
    att.W_query, W_key, W_value     self_attn.q_proj, k_proj, v_proj
    att.out_proj                    self_attn.o_proj
    ff.layers                       mlp.fc_in, act_fn, fc_out
    drop_shortcut                   residual_dropout
    out_head                        lm_head
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GenericForTokenClassification, GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_gpt_scratch import GPTScratchConfig
from .loss_gpt_scratch import can_be_taken_apart, chunked_causal_lm_loss

# Older releases of the library call keys and values of past tokens `past_key_values`, newer ones `cache`. Callers may
# use either name; the library's functions get them under the one that they take, which is found by its type.
CACHE_NAME = next(
    name
    for name, parameter in inspect.signature(create_causal_mask).parameters.items()
    if "Cache" in str(parameter.annotation)
)


def take_cache(past_key_values: Cache | None, kwargs: dict[str, Any]) -> Cache | None:
    """The cache that a caller has passed under whichever name; it is taken out of `kwargs`.

    Raises:
        `ValueError`: two of them, or what older releases had in place of a cache.
    """
    for name in (CACHE_NAME, "cache"):
        # Continuous batching passes a thing of its own as `cache`, which is for the attention alone.
        if name in kwargs and isinstance(kwargs[name], Cache | tuple | list | None):
            cache = kwargs.pop(name)
            if cache is not None and past_key_values is not None:
                raise ValueError(f"past_key_values and {name} are two names of the same thing: pass one of them")
            past_key_values = past_key_values if cache is None else cache
    if past_key_values is not None and not isinstance(past_key_values, Cache):
        raise ValueError(
            f"past_key_values is a {type(past_key_values).__name__}, but must be a transformers Cache: "
            "pass transformers.DynamicCache() or leave it out"
        )
    return past_key_values


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out (Vaswani et al., 2017, equation 1). The other implementations compute the same, faster.

    Args:
        query, key, value (`torch.Tensor` of shape `(batch_size, num_heads, length, head_dim)`).
        attention_mask (`torch.Tensor`, *optional*): added to the scores, where a very negative number hides a position;
            or booleans, where False does.

    Returns:
        The mixed values, of shape `(batch_size, query_length, num_heads, head_dim)`, and the attention weights.
    """
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling  # (B, H, T, S)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    mixed = torch.matmul(weights, value)  # (B, H, T, D)
    return mixed.transpose(1, 2).contiguous(), weights  # (B, T, H, D)


class GPTScratchAttention(nn.Module):
    """Causal self-attention: every position gathers information from itself and the positions before it."""

    def __init__(self, config: GPTScratchConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True

        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj.writes_to_residual_stream = True  # read by `_init_weights`

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        cache: Cache | None = kwargs.pop(CACHE_NAME, None)
        input_shape = hidden_states.shape[:-1]  # (B, T)
        # -1 and not the number of heads: under tensor parallelism each device holds a part of them.
        head_shape = (*input_shape, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(head_shape).transpose(1, 2)  # (B, H, T, D)
        key = self.k_proj(hidden_states).view(head_shape).transpose(1, 2)  # (B, H, T, D)
        value = self.v_proj(hidden_states).view(head_shape).transpose(1, 2)  # (B, H, T, D)

        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx, kwargs=kwargs)  # (B, H, S, D)

        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.attention_dropout if self.training else 0.0
        mixed, weights = attention(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )  # (B, T, H, D)
        return self.o_proj(mixed.reshape(*input_shape, -1)), weights  # (B, T, C)


class GPTScratchMLP(nn.Module):
    """Two layers that work on each position by itself."""

    def __init__(self, config: GPTScratchConfig):
        super().__init__()
        self.fc_in = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act_fn = ACT2FN[config.hidden_act]
        self.fc_out = nn.Linear(config.intermediate_size, config.hidden_size)
        self.fc_out.writes_to_residual_stream = True  # read by `_init_weights`

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc_out(self.act_fn(self.fc_in(hidden_states)))  # (B, T, C)


class GPTScratchDecoderLayer(GradientCheckpointingLayer):
    """One block: attention, then the MLP, each on a normalised copy of the residual stream and added back to it."""

    def __init__(self, config: GPTScratchConfig, layer_idx: int):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = GPTScratchAttention(config, layer_idx)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = GPTScratchMLP(config)
        self.residual_dropout = nn.Dropout(config.residual_dropout)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + self.residual_dropout(attended)
        transformed = self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states + self.residual_dropout(transformed)  # (B, T, C)


class GPTScratchPreTrainedModel(PreTrainedModel):
    """What all classes below share with the library: loading, saving, initialisation, attention implementations."""

    config_class = GPTScratchConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GPTScratchDecoderLayer"]
    _skip_keys_device_placement = [CACHE_NAME, "past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": GPTScratchDecoderLayer, "attentions": GPTScratchAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        # Every block adds two outputs to the residual stream, so its variance would grow with depth. GPT-2 (2019,
        # section 2.3) shrinks the layers that write to it by 1 / sqrt(number of additions).
        if getattr(module, "writes_to_residual_stream", False):
            additions = 2 * self.config.num_hidden_layers
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range / math.sqrt(additions))


class GPTScratchModel(GPTScratchPreTrainedModel):
    """The decoder without a head: token ids in, hidden states out."""

    def __init__(self, config: GPTScratchConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList([GPTScratchDecoderLayer(config, idx) for idx in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): the new tokens. Exactly one of
                `input_ids` and `inputs_embeds` (`(batch_size, sequence_length, hidden_size)`) is given.
            attention_mask (`torch.Tensor` of shape `(batch_size, past_length + sequence_length)`): 1 for tokens, 0 for
                padding; or a ready-made 4-D mask.
            position_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): counted from the mask where one
                is given, else from the cache's length. Positions that restart within a row mark packed documents,
                which do not see each other (without a mask and a cache).
            past_key_values (`Cache`): keys and values of the past tokens; the new ones are added to it. It may be
                passed as `cache` too, as newer releases of the library call it.

        Returns:
            `BaseModelOutputWithPast` with `last_hidden_state` of shape `(batch_size, sequence_length, hidden_size)`.

        Raises:
            `ValueError`: more positions than the model has, or neither or both of the two kinds of input.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Exactly one of input_ids and inputs_embeds is needed")
        cache = take_cache(past_key_values, kwargs)
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)  # (B, T, C)

        kwargs.setdefault(CACHE_NAME, cache)
        causal_mask, position_ids = self._mask_and_positions(
            inputs_embeds, attention_mask, position_ids, kwargs[CACHE_NAME]
        )
        # After the mask: packed documents are recognised only where there is no cache, and an empty one would change
        # nothing else.
        if use_cache and cache is None:
            kwargs[CACHE_NAME] = cache = DynamicCache(config=self.config)

        hidden_states = inputs_embeds + self.embed_positions(position_ids)  # (B, T, C)
        hidden_states = self.embedding_dropout(hidden_states)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states, attention_mask=causal_mask, position_ids=position_ids, use_cache=use_cache, **kwargs
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden_states), **{CACHE_NAME: cache if use_cache else None}
        )

    def _mask_and_positions(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.LongTensor | None,
        cache: Any,
    ) -> tuple[torch.Tensor | None, torch.LongTensor]:
        """The mask of the new tokens and their positions."""
        query_length = inputs_embeds.shape[1]
        # Not a cache in continuous batching, which passes a thing of its own.
        past_length = cache.get_seq_length() if isinstance(cache, Cache) else 0
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            if isinstance(past_length, int) and attention_mask.shape[1] < past_length + query_length:
                raise ValueError(
                    f"attention_mask has {attention_mask.shape[1]} columns, but there are {past_length} past and "
                    f"{query_length} new tokens: it must cover both"
                )
            # The new tokens need not be the last columns: a mask may be as long as a static cache.
            columns = torch.arange(query_length, device=attention_mask.device) + past_length  # (T,)
            # Padding takes no positions, so a padded row gives the logits of the row alone.
            position_ids = (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)[:, columns]  # (B, T)
        self._check_lengths(query_length, past_length, position_ids, cache)
        causal_mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **{CACHE_NAME: cache},
        )  # (B, 1, T, S), or None where the attention function needs none
        # After the mask: positions that nobody gave need not be searched for restarts.
        if position_ids is None:
            position_ids = (torch.arange(query_length, device=inputs_embeds.device) + past_length)[None]  # (1, T)
        return causal_mask, position_ids

    def _check_lengths(
        self,
        query_length: int,
        past_length: int | torch.Tensor,
        position_ids: torch.LongTensor | None,
        cache: Any,
    ) -> None:
        """Says what is too long before the position embedding fails with an IndexError or a CUDA assert."""
        limit = self.config.max_position_embeddings
        # Of its first layer: a cache may not have made any yet, and -1 stands for no maximum.
        if isinstance(cache, Cache) and cache.get_max_length(0) > limit:
            raise ValueError(
                f"The cache holds up to {cache.get_max_length(0)} tokens, but max_position_embeddings is "
                f"{limit}: make the cache shorter"
            )
        if isinstance(past_length, torch.Tensor):
            return  # a static cache counts on the device; reading it would stall a GPU and break a compiled graph
        length = past_length + query_length
        if position_ids is not None:
            # Neither packed documents nor padding use as many positions as there are columns, so the ids count. Reading
            # them costs a device synchronisation, hence only on CPU or where the shapes alone already raise a doubt.
            if torch.compiler.is_compiling() or (length <= limit and position_ids.device.type != "cpu"):
                return
            length = int(position_ids.max()) + 1
        if length > limit:
            raise ValueError(
                f"{length} positions, but max_position_embeddings is {limit}: shorten the input or generate fewer "
                "tokens, or train a model with more positions"
            )


class GPTScratchForCausalLM(GPTScratchPreTrainedModel, GenerationMixin):
    """The language model: the decoder and a linear head that scores the next token.

    Example:

    ```python
    >>> import torch
    >>> from modeling_gpt_scratch import GPTScratchConfig, GPTScratchForCausalLM

    >>> config = GPTScratchConfig(vocab_size=512, hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
    >>> model = GPTScratchForCausalLM(config).eval()
    >>> input_ids = torch.tensor([[11, 22, 33]])
    >>> model(input_ids, labels=input_ids).logits.shape
    torch.Size([1, 3, 512])

    ```
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}

    def __init__(self, config: GPTScratchConfig):
        super().__init__(config)
        self.model = GPTScratchModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        skip_logits: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        r"""
        Args (the others are those of [`GPTScratchModel.forward`]):
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`): the tokens to predict, *unshifted*
                (usually `input_ids` themselves); -100 is not counted. The loss is the mean in nats per counted token,
                or the sum divided by the keyword `num_items_in_batch`.
            logits_to_keep (`int` or `torch.Tensor`): compute only the last so many logits (0: all), or those at the
                given positions.
            skip_logits (`bool`): compute the loss without holding all logits; `logits` is `None` then.
            shift_labels (keyword, `torch.LongTensor` of shape `(batch_size, sequence_length)`): targets that are
                shifted already, so that the last position has one too. Used instead of `labels` where both are given.

        Returns:
            `CausalLMOutputWithPast` with `logits` of shape `(batch_size, sequence_length, vocab_size)`.
        """
        targets = {"labels": labels} | {name: kwargs.pop(name, None) for name in ("shift_labels", "num_items_in_batch")}
        if targets["shift_labels"] is not None:
            targets["shift_labels"] = targets["shift_labels"].contiguous()  # the library's loss takes a view
        outputs: BaseModelOutputWithPast = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state  # (B, T, C)
        wants_loss = labels is not None or targets["shift_labels"] is not None
        if skip_logits and not wants_loss:
            raise ValueError("skip_logits=True leaves only the loss, which needs labels or shift_labels")
        logits, loss = None, None
        if skip_logits and "ignore_index" not in kwargs and can_be_taken_apart(self.lm_head):
            loss = chunked_causal_lm_loss(hidden_states, self.lm_head.weight, **targets)
        else:
            if isinstance(logits_to_keep, int):
                logits_to_keep = slice(-logits_to_keep, None) if logits_to_keep else slice(None)
            logits = self.lm_head(hidden_states[:, logits_to_keep])  # (B, T, V)
            if wants_loss:
                loss = self.loss_function(logits=logits, vocab_size=self.config.vocab_size, **targets, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=None if skip_logits else logits,
            **{CACHE_NAME: getattr(outputs, CACHE_NAME)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def generate(self, *args, **kwargs) -> ModelOutput | torch.LongTensor:
        """As the library's, where a number of new tokens that is asked for replaces the default length of the model.

        Its generation config says `max_length`, since there are no positions beyond; the library would warn of both.
        """
        if kwargs.get("max_new_tokens") is not None:
            kwargs.setdefault("max_length", None)
        return super().generate(*args, **kwargs)


class GPTScratchForSequenceClassification(GPTScratchPreTrainedModel):
    """The decoder and a linear head on the last token of each row, the only one that has seen the whole row."""

    accepts_loss_kwargs = False  # the loss is a mean over rows, which the Trainer divides by its accumulation steps

    def __init__(self, config: GPTScratchConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = GPTScratchModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=config.classifier_bias)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutputWithPast:
        r"""
        Args (the others are those of [`GPTScratchModel.forward`]):
            labels (`torch.Tensor`): class ids of shape `(batch_size,)`; or, for several labels a row, floats of shape
                `(batch_size, num_labels)`; or, for regression, floats of shape `(batch_size,)` or the latter.
                `config.problem_type` says which; where it does not, `num_labels` and the labels' type do.

        Returns:
            `SequenceClassifierOutputWithPast` with `logits` of shape `(batch_size, num_labels)`.

        Raises:
            `ValueError`: several rows without a way to tell tokens from padding; on CPU, a row without a token too.
        """
        outputs: BaseModelOutputWithPast = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state  # (B, T, C)
        rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)
        last_token = self._last_token(hidden_states, input_ids, attention_mask)
        logits = self.score(self.dropout(hidden_states[rows, last_token]))  # (B, num_labels)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            **{CACHE_NAME: getattr(outputs, CACHE_NAME)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _last_token(
        self, hidden_states: torch.Tensor, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None
    ) -> torch.LongTensor:
        """The column of each row's last token, of shape (B,)."""
        batch_size, query_length = hidden_states.shape[:2]
        if attention_mask is not None and attention_mask.ndim == 2:
            is_token = attention_mask[:, -query_length:] != 0  # (B, T)
        elif input_ids is not None and self.config.pad_token_id is not None:
            is_token = input_ids != self.config.pad_token_id  # (B, T)
        elif batch_size == 1:
            is_token = hidden_states.new_ones(1, query_length, dtype=torch.bool)
        else:
            raise ValueError(
                f"The last token of each of {batch_size} rows is looked for, but nothing tells tokens from padding: "
                "pass a 2-D attention_mask, or set config.pad_token_id and pass input_ids"
            )
        if is_token.device.type == "cpu" and not torch.compiler.is_compiling() and not is_token.any(dim=1).all():
            raise ValueError("A row is all padding: take it out, or check attention_mask and config.pad_token_id")
        positions = torch.arange(query_length, device=hidden_states.device)
        return (positions * is_token.to(positions.device)).argmax(dim=1)


class GPTScratchForTokenClassification(GenericForTokenClassification, GPTScratchPreTrainedModel):
    """The decoder and a linear head that labels each token; `labels` of -100 are not counted."""

    accepts_loss_kwargs = False  # the generic forward leaves `num_items_in_batch` out of its loss

    def __init__(self, config: GPTScratchConfig):
        # Not the generic `__init__`, whose AutoModel does not know this class where it is remote code.
        GPTScratchPreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.model = GPTScratchModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.score = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @functools.wraps(GenericForTokenClassification.forward)
    def forward(self, *args, **kwargs) -> TokenClassifierOutput:
        cache = take_cache(kwargs.pop("past_key_values", None), kwargs)
        return super().forward(*args, **kwargs, **({} if cache is None else {CACHE_NAME: cache}))


__all__ = [
    "GPTScratchForCausalLM",
    "GPTScratchForSequenceClassification",
    "GPTScratchForTokenClassification",
    "GPTScratchModel",
    "GPTScratchPreTrainedModel",
]
