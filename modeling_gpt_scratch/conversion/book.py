"""
The model of Sebastian Raschka's "Build a Large Language Model (From Scratch)", which Giles Thomas's blog builds on.

It is described by its configuration's fields (`BOOK_CONFIG`), a table of names (`BOOK_NAMES`) and a forward pass over
its own tensors (`book_logits`). The blog publishes it inside a wrapper for Transformers: the same tensors behind the
prefix `model.`, the same fields in `config.json` under `cfg`.
"""

import re
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from ..configuration_gpt_scratch import GPTScratchConfig
from ..modeling_gpt_scratch import GPTScratchForCausalLM, GPTScratchForSequenceClassification
from .checks import ConversionError, check_fields
from .logits import Reading, causal_attention, layer_norm, linear, tensor_of
from .source import Checkpoint, read_json
from .weights import JOINED, build_config, build_model, same

# Field -> types that JSON may give it. All are required but for the blog's `tie_weights`.
BOOK_CONFIG = {
    "vocab_size": (int,),
    "context_length": (int,),
    "emb_dim": (int,),
    "n_heads": (int,),
    "n_layers": (int,),
    "drop_rate": (float, int),
    "qkv_bias": (bool,),
    "tie_weights": (bool,),
}

# Source's name -> ours; N is the number of the block. The biases of query, key and value exist with `qkv_bias` only.
BOOK_NAMES = {
    "tok_emb.weight": "model.embed_tokens.weight",
    "pos_emb.weight": "model.embed_positions.weight",
    "trf_blocks.N.norm1.scale": "model.layers.N.input_layernorm.weight",
    "trf_blocks.N.norm1.shift": "model.layers.N.input_layernorm.bias",
    "trf_blocks.N.att.W_query.weight": "model.layers.N.self_attn.q_proj.weight",
    "trf_blocks.N.att.W_query.bias": "model.layers.N.self_attn.q_proj.bias",
    "trf_blocks.N.att.W_key.weight": "model.layers.N.self_attn.k_proj.weight",
    "trf_blocks.N.att.W_key.bias": "model.layers.N.self_attn.k_proj.bias",
    "trf_blocks.N.att.W_value.weight": "model.layers.N.self_attn.v_proj.weight",
    "trf_blocks.N.att.W_value.bias": "model.layers.N.self_attn.v_proj.bias",
    "trf_blocks.N.att.out_proj.weight": "model.layers.N.self_attn.o_proj.weight",
    "trf_blocks.N.att.out_proj.bias": "model.layers.N.self_attn.o_proj.bias",
    "trf_blocks.N.norm2.scale": "model.layers.N.post_attention_layernorm.weight",
    "trf_blocks.N.norm2.shift": "model.layers.N.post_attention_layernorm.bias",
    "trf_blocks.N.ff.layers.0.weight": "model.layers.N.mlp.fc_in.weight",
    "trf_blocks.N.ff.layers.0.bias": "model.layers.N.mlp.fc_in.bias",
    "trf_blocks.N.ff.layers.2.weight": "model.layers.N.mlp.fc_out.weight",
    "trf_blocks.N.ff.layers.2.bias": "model.layers.N.mlp.fc_out.bias",
    "final_norm.scale": "model.norm.weight",
    "final_norm.shift": "model.norm.bias",
    "out_head.weight": "lm_head.weight",
}
# The bonus chapters' faster attention has one layer for all three, and torch's own LayerNorm.
_ATTENTION = "model.layers.N.self_attn"
BONUS_ATTENTION = {
    "trf_blocks.N.att.qkv.weight": JOINED.join(f"{_ATTENTION}.{name}_proj.weight" for name in "qkv"),
    "trf_blocks.N.att.qkv.bias": JOINED.join(f"{_ATTENTION}.{name}_proj.bias" for name in "qkv"),
    "trf_blocks.N.att.proj.weight": f"{_ATTENTION}.o_proj.weight",
    "trf_blocks.N.att.proj.bias": f"{_ATTENTION}.o_proj.bias",
}
BONUS_NORMS = {"scale": "weight", "shift": "bias"}


def read_book(checkpoint: Checkpoint, config: str | Path | None = None, labels: str | None = None) -> Reading:
    """The model of a checkpoint and its measure.

    Args:
        config: replaces the `model.json` beside the checkpoint.
        labels: the names of a classifier's classes in the order of their numbers, with commas between them.
    """
    path = checkpoint.path.parent / "model.json" if config is None else Path(config)
    fields = read_json(path, "name the checkpoint's configuration with --config")
    if is_classifier(checkpoint.tensors):
        return read_classifier(checkpoint.tensors, fields, labels)
    if labels is not None:
        raise ConversionError(f"{checkpoint.path} is a language model, which has no classes: leave out --labels")
    model = convert_book_checkpoint(checkpoint.tensors, fields)
    return Reading(model, partial(book_logits, checkpoint.tensors, fields))


def read_blog(checkpoint: Checkpoint) -> Reading:
    """The model inside the blog's wrapper and its measure."""
    state_dict, fields = unwrap_blog_checkpoint(checkpoint.tensors, checkpoint.read_config())
    return Reading(convert_book_checkpoint(state_dict, fields), partial(book_logits, state_dict, fields))


def is_classifier(state_dict: dict[str, torch.Tensor]) -> bool:
    """Whether chapter 6 has put another head in the place of the language model's: its rows are classes, not tokens."""
    head, tokens = state_dict.get("out_head.weight"), state_dict.get("tok_emb.weight")
    return head is not None and tokens is not None and head.shape[:1] != tokens.shape[:1]


def read_classifier(state_dict: dict[str, torch.Tensor], book_config: dict, labels: str | None) -> Reading:
    """The classifier of chapter 6 and its measure: the logits at the last position, as the book reads them."""
    num_labels = len(state_dict["out_head.weight"])
    names = [f"LABEL_{number}" for number in range(num_labels)] if labels is None else labels.split(",")
    if len(set(names)) != num_labels or "" in names:
        raise ConversionError(
            f"--labels is {labels!r}, but the classifier has {num_labels} classes: name each once, with commas between"
        )
    model = convert_book_classifier(state_dict, book_config, names)
    hint = "" if labels is not None else " (--labels A,B gives them names, in the order of their numbers)"
    remark = (
        f"It is a classifier of {', '.join(names)}{hint}. It reads the last token that the attention mask counts; the "
        "book reads the last position of a text that is padded with <|endoftext|>. For the book's answers, end each "
        "text in <|endoftext|> up to the length that it was trained with."
    )
    return Reading(model, lambda input_ids: book_logits(state_dict, book_config, input_ids)[:, -1], (remark,))


def convert_book_classifier(
    state_dict: dict[str, torch.Tensor], book_config: dict, labels: list[str]
) -> GPTScratchForSequenceClassification:
    """As [`convert_book_checkpoint`], for a model whose `out_head` gives the logits of classes; its bias is kept.

    Args:
        labels: the classes' names in the order of their numbers.
    """
    check_fields(book_config, BOOK_CONFIG, "the book's", optional=("tie_weights",))
    config = _build_config(
        state_dict,
        book_config,
        tie_word_embeddings=False,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        classifier_bias="out_head.bias" in state_dict,
    )
    names = book_names(state_dict) | {"out_head.weight": "score.weight", "out_head.bias": "score.bias"}
    return build_model(
        config, state_dict, names, ignored=_masks(config), model_class=GPTScratchForSequenceClassification
    )


def book_names(state_dict: dict[str, torch.Tensor]) -> dict[str, str]:
    """The table for these tensors: `BOOK_NAMES`, with the bonus chapters' names where they have those."""
    names = dict(BOOK_NAMES)
    if any(".att.qkv." in name for name in state_dict):
        names = {source: ours for source, ours in names.items() if ".att." not in source} | BONUS_ATTENTION
    if "final_norm.weight" in state_dict:
        for ours, bonus in BONUS_NORMS.items():
            names = {re.sub(rf"(norm\d?\.){ours}$", rf"\1{bonus}", source): names[source] for source in names}
    return names


def convert_book_checkpoint(state_dict: dict[str, torch.Tensor], book_config: dict) -> GPTScratchForCausalLM:
    """The model with the weights of a book or blog checkpoint, copied in their own dtype, in evaluation mode.

    Args:
        state_dict: the tensors by their names in the book, linear weights of shape `(out_features, in_features)`; the
            blocks' `att.mask` may be there and is not used. Without `out_head.weight`, or with one that equals
            `tok_emb.weight`, the model is tied.
        book_config: the fields of `BOOK_CONFIG`.

    Raises:
        `ConversionError`: unknown, missing or unfitting fields or tensors; names all kinds of problems at once.
    """
    check_fields(book_config, BOOK_CONFIG, "the book's", optional=("tie_weights",))
    tie_weights = book_config.get("tie_weights")
    if tie_weights is not False and "tok_emb.weight" in state_dict:
        state_dict = {"out_head.weight": state_dict["tok_emb.weight"], **state_dict}
    elif tie_weights and "out_head.weight" in state_dict:
        # `safetensors.torch.save_model` keeps the alphabetically first of the names that share a tensor.
        state_dict = {"tok_emb.weight": state_dict["out_head.weight"], **state_dict}
    tied = same(state_dict.get("tok_emb.weight"), state_dict.get("out_head.weight"))
    if tie_weights and not tied and "out_head.weight" in state_dict:
        raise ConversionError(
            "tie_weights is true, but out_head.weight differs from tok_emb.weight: set it to false if the checkpoint "
            "was trained untied"
        )
    config = _build_config(state_dict, book_config, tie_word_embeddings=tied)
    return build_model(config, state_dict, book_names(state_dict), ignored=_masks(config))


def _build_config(state_dict: dict[str, torch.Tensor], book_config: dict, **fields) -> GPTScratchConfig:
    return build_config(
        state_dict,
        vocab_size=book_config["vocab_size"],
        hidden_size=book_config["emb_dim"],
        num_hidden_layers=book_config["n_layers"],
        num_attention_heads=book_config["n_heads"],
        max_position_embeddings=book_config["context_length"],
        hidden_act="gelu_pytorch_tanh",
        qkv_bias=book_config["qkv_bias"],
        embedding_dropout=book_config["drop_rate"],
        attention_dropout=book_config["drop_rate"],
        residual_dropout=book_config["drop_rate"],
        layer_norm_eps=1e-5,
        **fields,
    )


def _masks(config: GPTScratchConfig) -> dict[str, tuple[int, ...]]:
    shape = (config.max_position_embeddings, config.max_position_embeddings)
    return {f"trf_blocks.{layer}.att.mask": shape for layer in range(config.num_hidden_layers)}


def unwrap_blog_checkpoint(
    state_dict: dict[str, torch.Tensor], blog_config: dict
) -> tuple[dict[str, torch.Tensor], dict]:
    """The book's tensors and configuration inside the blog's wrapper, as `convert_book_checkpoint` takes them.

    Args:
        state_dict: the tensors by their names in the book behind the prefix `model.`.
        blog_config: the wrapper's `config.json`, whose `cfg` holds the fields of `BOOK_CONFIG`.

    Raises:
        `ConversionError`: there is no `cfg`, or a tensor's name lacks the prefix.
    """
    book_config = blog_config.get("cfg")
    if not isinstance(book_config, dict):
        raise ConversionError(
            f"config.json has {'no cfg' if book_config is None else f'the cfg {book_config!r}'}, expected an object "
            "with the book's fields, as the blog's wrapper for Transformers writes it"
        )
    strangers = [name for name in state_dict if not name.startswith("model.")]
    if strangers:
        raise ConversionError(
            f"{len(strangers)} tensors lack the prefix model. of the blog's wrapper: {', '.join(strangers[:3])}"
        )
    return {name.removeprefix("model."): tensor for name, tensor in state_dict.items()}, book_config


def book_logits(
    state_dict: dict[str, torch.Tensor], book_config: dict, input_ids: torch.LongTensor
) -> torch.FloatTensor:
    """The book's model without dropout, in fp32 and from its own tensors: the measure of our conversion.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`).

    Returns:
        Logits of shape `(batch_size, sequence_length, vocab_size)`, or those of a classifier at all positions.
    """
    scale, shift = BONUS_NORMS.values() if "final_norm.weight" in state_dict else BONUS_NORMS.keys()

    def apply(name: str, features: torch.Tensor) -> torch.Tensor:
        return linear(state_dict, name, features)

    def norm(name: str, features: torch.Tensor) -> torch.Tensor:
        return layer_norm(state_dict, f"{name}.{scale}", f"{name}.{shift}", features)

    # Where one end of a tied model was not saved, the other stands for it.
    embedding, head = (
        tensor_of(state_dict, name if name in state_dict else other)
        for name, other in (("tok_emb.weight", "out_head.weight"), ("out_head.weight", "tok_emb.weight"))
    )
    positions = tensor_of(state_dict, "pos_emb.weight")[: input_ids.shape[1]]
    features = embedding[input_ids] + positions  # (batch, length, width)
    for layer in range(book_config["n_layers"]):
        block = f"trf_blocks.{layer}"
        normed = norm(f"{block}.norm1", features)
        joined = f"{block}.att.qkv.weight" in state_dict
        if joined:
            parts = apply(f"{block}.att.qkv", normed).chunk(3, dim=-1)
        else:
            parts = [apply(f"{block}.att.W_{kind}", normed) for kind in ("query", "key", "value")]
        attended = causal_attention(*parts, book_config["n_heads"])
        features = features + apply(f"{block}.att.{'proj' if joined else 'out_proj'}", attended)
        hidden = apply(f"{block}.ff.layers.0", norm(f"{block}.norm2", features))
        features = features + apply(f"{block}.ff.layers.2", F.gelu(hidden, approximate="tanh"))
    return F.linear(norm("final_norm", features), head, tensor_of(state_dict, "out_head.bias"))
