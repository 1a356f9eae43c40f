"""
A model as one GGUF file: the format of llama.cpp, and of Ollama and LM Studio, which are built on it.

llama.cpp computes the file's architecture `gpt2` by a graph of its own, which has fewer settings than our model, and
cuts text by rules of its own (`gguf_tokenizer.py`). What it would compute otherwise is refused. Logits are measured on
what the library reads back out of the file, which is no code of this package.
"""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerBase

from ..durable import atomic_folder
from ..modeling_gpt_scratch import GPTScratchForCausalLM
from .checks import ConversionError
from .gguf_tokenizer import check_tokens, tokenizer_problems, write_tokenizer
from .logits import LOGITS_TOLERANCE, Reference, compare_logits, logits_difference
from .ollama import modelfile
from .weights import JOINED, joined_weights

_ATTENTION = "model.layers.N.self_attn"
# GGUF's name -> ours.
GGUF_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "position_embd.weight": "model.embed_positions.weight",
    "blk.N.attn_norm.weight": "model.layers.N.input_layernorm.weight",
    "blk.N.attn_norm.bias": "model.layers.N.input_layernorm.bias",
    "blk.N.attn_qkv.weight": JOINED.join(f"{_ATTENTION}.{name}_proj.weight" for name in "qkv"),
    "blk.N.attn_qkv.bias": JOINED.join(f"{_ATTENTION}.{name}_proj.bias" for name in "qkv"),
    "blk.N.attn_output.weight": f"{_ATTENTION}.o_proj.weight",
    "blk.N.attn_output.bias": f"{_ATTENTION}.o_proj.bias",
    "blk.N.ffn_norm.weight": "model.layers.N.post_attention_layernorm.weight",
    "blk.N.ffn_norm.bias": "model.layers.N.post_attention_layernorm.bias",
    "blk.N.ffn_up.weight": "model.layers.N.mlp.fc_in.weight",
    "blk.N.ffn_up.bias": "model.layers.N.mlp.fc_in.bias",
    "blk.N.ffn_down.weight": "model.layers.N.mlp.fc_out.weight",
    "blk.N.ffn_down.bias": "model.layers.N.mlp.fc_out.bias",
    "output_norm.weight": "model.norm.weight",
    "output_norm.bias": "model.norm.bias",
    "output.weight": "lm_head.weight",
}
# Type of the matrices -> how far logits may be off, relative to the largest of them. Rounding to f16 moves those of
# trained and of random models by 3e-4 to 1e-3, to q8_0 by 1e-2 to 3e-2.
GGUF_DTYPES = {"f32": LOGITS_TOLERANCE, "f16": 1e-2, "q8_0": 1e-1}
# Numbers of a row that share a scale in q8_0.
Q8_0_BLOCK = 32
# The one function that llama.cpp's graph has, by its names in the library.
TANH_GELU = ("gelu_pytorch_tanh", "gelu_new")
# llama.cpp's names of tokens that end a text, a turn and a message; it stops at each.
ENDS = ("eos", "eot", "eom")


def check_gguf_installed() -> None:
    """Raises `ConversionError` where the package that writes GGUF files is missing."""
    if importlib.util.find_spec("gguf") is None:
        raise ConversionError("--to gguf needs the gguf package: pip install '.[gguf]'")


def write_gguf_folder(
    folder: Path,
    model: GPTScratchForCausalLM,
    reference: Reference,
    tokenizer: PreTrainedTokenizerBase | None,
    dtype: str = "f32",
) -> float:
    """Writes a folder with the model's GGUF file, and a Modelfile that makes it a model of Ollama's.

    Args:
        folder: must not exist or be empty; its name begins the file's.
        model: in evaluation mode.
        reference: gives the source's logits.
        tokenizer: goes into the file.
        dtype: one of `GGUF_DTYPES`; vectors and positions stay in f32.

    Returns:
        The largest absolute difference between the source's logits and the file's.

    Raises:
        `ConversionError`: llama.cpp would compute something else, or the file does not give back the logits or tokens.
    """
    problems = [*_model_problems(model, dtype), *tokenizer_problems(tokenizer, model.config.vocab_size)]
    if problems:
        raise ConversionError(f"llama.cpp cannot run this model as it is: {'; '.join(problems)}")
    compare_logits(model, reference)
    stem = re.sub(r"[^\w.-]+", "-", folder.name)  # Ollama's line FROM ends at a space
    name = f"{stem}-{dtype}.gguf"
    with atomic_folder(folder) as new:
        _write_file(new / name, model, tokenizer, dtype)
        difference = _check_logits(new, name, model, reference, dtype)
        check_tokens(new / name, tokenizer)
        ends = [tokenizer.decode([token_id]) for token_id in _ends(model, tokenizer)]
        text = modelfile(name, model.config.max_position_embeddings, ends, tokenizer)
        (new / "Modelfile").write_text(text, encoding="utf-8")
    return difference


def _model_problems(model: GPTScratchForCausalLM, dtype: str) -> Iterator[str]:
    """What of the model llama.cpp lacks, and what to do."""
    config = model.config
    if config.hidden_act not in TANH_GELU:
        yield (
            f"its activation is {config.hidden_act}, but llama.cpp computes GPT-2's tanh-GELU alone "
            f"({' or '.join(TANH_GELU)}), which gives other text: train or continue training with that one, or use an "
            "engine that runs the library's models (vLLM, `python -m training serve`)"
        )
    if dtype == "q8_0" and (config.hidden_size % Q8_0_BLOCK or config.intermediate_size % Q8_0_BLOCK):
        yield (
            f"hidden_size is {config.hidden_size} and intermediate_size {config.intermediate_size}, but q8_0 is for "
            f"multiples of {Q8_0_BLOCK}: name --dtype f16"
        )


def _write_file(file: Path, model: GPTScratchForCausalLM, tokenizer: PreTrainedTokenizerBase, dtype: str) -> None:
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(file, "gpt2")
    writer.add_name(file.stem)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType[f"{'ALL' if dtype == 'f32' else 'MOSTLY'}_{dtype.upper()}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_tokenizer(writer, tokenizer, config.vocab_size)
    for kind, token_id in zip(ENDS, _ends(model, tokenizer), strict=False):
        getattr(writer, f"add_{kind}_token_id")(token_id)

    for name, tensor in joined_weights(model, GGUF_NAMES):
        if name == "output.weight" and config.tie_word_embeddings:
            continue
        numbers = np.ascontiguousarray(tensor.float().numpy())
        # What is added stays exact, as llama.cpp's own tools keep it: it costs little.
        kept = dtype == "f32" or numbers.ndim == 1 or name == "position_embd.weight"
        kind = gguf.GGMLQuantizationType["F32" if kept else dtype.upper()]
        writer.add_tensor(name, numbers if kept else _rounded(name, numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _rounded(name: str, numbers: np.ndarray, kind: "gguf.GGMLQuantizationType") -> np.ndarray:  # noqa: F821
    from gguf import quants

    with np.errstate(over="ignore"):
        rounded = quants.quantize(numbers, kind)
    if not np.isfinite(quants.dequantize(rounded, kind)).all():
        raise ConversionError(f"{name} has numbers that are too large for {kind.name.lower()}: name --dtype f32")
    return rounded


def _ends(model: GPTScratchForCausalLM, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens at which the model's texts end, the tokenizer's first.

    Raises:
        `ConversionError`: a file has no place for so many.
    """
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [tokenizer.eos_token_id if ends is None else ends]
    if len(ends) > len(ENDS):
        raise ConversionError(
            f"eos_token_id in generation_config.json names {len(ends)} tokens, but a GGUF file only {len(ENDS)}: leave "
            "those that the model does not write out of it"
        )
    return sorted(ends, key=lambda token_id: token_id != tokenizer.eos_token_id)


def _check_logits(folder: Path, name: str, model: GPTScratchForCausalLM, reference: Reference, dtype: str) -> float:
    """The largest difference between the source's logits and those of the file as the library reads it."""
    reopened, found = GPT2LMHeadModel.from_pretrained(
        folder,
        gguf_file=name,
        n_positions=model.config.max_position_embeddings,  # these two it does not look for in the file
        n_inner=model.config.intermediate_size,
        dtype=torch.float32,
        output_loading_info=True,
    )
    lost = [str(entry) for kind in found.values() for entry in kind]
    if lost:
        raise ConversionError(f"{name}, as written, lacks or has too many tensors: {', '.join(sorted(lost)[:3])}")
    difference, scale = logits_difference(reopened.eval(), reference)
    allowed = GGUF_DTYPES[dtype] * scale
    if not difference <= allowed:  # nor where either is no number
        raise ConversionError(
            f"{name}, read back, gives logits that differ by up to {difference:.2e}, with logits of up to {scale:.2e}: "
            f"rounding to {dtype} explains {allowed:.2e}. Nothing was written"
            + ("" if dtype == "f32" else "; name a --dtype with more digits")
        )
    return difference
