"""
Checkpoints of other code as gpt-scratch models.

The source: the model of Sebastian Raschka's "Build a Large Language Model (From Scratch)", which Giles Thomas's blog
builds on. It is described by its configuration's fields (`BOOK_CONFIG`), a table of names (`BOOK_NAMES`) and a forward
pass over its own tensors (`book_logits`). Nothing is written before our model's logits equal those of that pass.
"""

import json
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .atomic_folder import atomic_folder
from .configuration_gpt_scratch import GPTScratchConfig
from .modeling_gpt_scratch import GPTScratchForCausalLM

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

# Relative to the largest logit, because rounding errors grow with the numbers. Two correct fp32 passes over 12 layers
# differ by 5e-7 to 4e-6 of it (random weights, from GPT-2's small ones to some with outliers in the thousands); the
# least visible mistake, the exact GELU instead of its tanh form, by 3e-4.
LOGITS_TOLERANCE = 3e-5


class ConversionError(ValueError):
    """What the user can put right: a file that is missing, damaged or of another model, or a place not to write to."""


def convert(
    source: str | Path, output: str | Path, *, config: str | Path | None = None, tokenizer: str | None = None
) -> float:
    """Turns a checkpoint of the book or the blog into a model folder that `from_pretrained` opens.

    Args:
        source: a `.pth`, `.pt` or `.safetensors` file, or a folder that holds exactly one.
        output: the folder to write; it must not exist or be empty.
        config: the checkpoint's configuration in the book's fields; `None` means `model.json` beside the checkpoint.
        tokenizer: a folder or Hub name whose tokenizer is saved beside the model.

    Returns:
        The largest absolute difference between the source's logits and the model's, both computed in fp32.

    Raises:
        `ConversionError`: anything cannot be read, fitted together or written. Nothing is left at `output` then.
    """
    source, output = Path(source), Path(output).resolve()
    try:
        if output.exists() and not (output.is_dir() and not any(output.iterdir())):
            raise ConversionError(f"{output} exists and is not an empty folder: choose another place to write to")
        checkpoint = _find_checkpoint(source)
        book_config = _read_config(Path(config) if config is not None else checkpoint.parent / "model.json")
        state_dict = _load_state_dict(checkpoint)
        model = convert_book_checkpoint(state_dict, book_config)
        difference = compare_logits(model, partial(book_logits, state_dict, book_config))
        _save(model, None if tokenizer is None else _load_tokenizer(tokenizer, model.config), output)
    except (OSError, SafetensorError) as error:  # the second one: a full disk, reported by safetensors
        raise ConversionError(f"{source} cannot be converted into {output}: {error}") from error
    return difference


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
    _check_book_config(book_config)
    tie_weights = book_config.get("tie_weights")
    if tie_weights is not False and "tok_emb.weight" in state_dict:
        state_dict = {"out_head.weight": state_dict["tok_emb.weight"], **state_dict}
    elif tie_weights and "out_head.weight" in state_dict:
        # `safetensors.torch.save_model` keeps the alphabetically first of the names that share a tensor.
        state_dict = {"tok_emb.weight": state_dict["out_head.weight"], **state_dict}
    tied = _equal(state_dict.get("tok_emb.weight"), state_dict.get("out_head.weight"))
    if tie_weights and not tied and "out_head.weight" in state_dict:
        raise ConversionError(
            "tie_weights is true, but out_head.weight differs from tok_emb.weight: set it to false if the checkpoint "
            "was trained untied"
        )
    try:
        config = GPTScratchConfig(
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
            tie_word_embeddings=tied,
        )
    except StrictDataclassError as error:
        raise ConversionError(f"The checkpoint's configuration describes no valid model: {error.__cause__}") from error
    masks = {
        f"trf_blocks.{layer}.att.mask": (config.max_position_embeddings, config.max_position_embeddings)
        for layer in range(config.num_hidden_layers)
    }
    return _build_model(config, state_dict, BOOK_NAMES, ignored=masks)


def book_logits(
    state_dict: dict[str, torch.Tensor], book_config: dict, input_ids: torch.LongTensor
) -> torch.FloatTensor:
    """The book's model without dropout, in fp32 and from its own tensors: the measure of our conversion.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`).

    Returns:
        Logits of shape `(batch_size, sequence_length, vocab_size)`.
    """
    num_heads, length = book_config["n_heads"], input_ids.shape[1]
    future = torch.ones(length, length, dtype=torch.bool).triu(diagonal=1)

    def tensor(name: str) -> torch.Tensor | None:
        return state_dict[name].float() if name in state_dict else None

    def linear(features: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(features, tensor(f"{name}.weight"), tensor(f"{name}.bias"))

    def norm(features: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(features, features.shape[-1:], tensor(f"{name}.scale"), tensor(f"{name}.shift"), eps=1e-5)

    def heads(features: torch.Tensor) -> torch.Tensor:
        return features.unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (batch, heads, length, head size)

    def attention(features: torch.Tensor, name: str) -> torch.Tensor:
        query, key, value = (heads(linear(features, f"{name}.W_{kind}")) for kind in ("query", "key", "value"))
        scores = query @ key.mT / key.shape[-1] ** 0.5  # (batch, heads, length, length)
        weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
        return linear((weights @ value).transpose(1, 2).flatten(2), f"{name}.out_proj")

    # Where one end of a tied model was not saved, the other stands for it.
    embedding, head = (
        tensor(name) if name in state_dict else tensor(other)
        for name, other in (("tok_emb.weight", "out_head.weight"), ("out_head.weight", "tok_emb.weight"))
    )
    features = embedding[input_ids] + tensor("pos_emb.weight")[:length]  # (batch, length, width)
    for layer in range(book_config["n_layers"]):
        block = f"trf_blocks.{layer}"
        features = features + attention(norm(features, f"{block}.norm1"), f"{block}.att")
        hidden = linear(norm(features, f"{block}.norm2"), f"{block}.ff.layers.0")
        features = features + linear(F.gelu(hidden, approximate="tanh"), f"{block}.ff.layers.2")
    return norm(features, "final_norm") @ head.mT


@torch.no_grad()
def compare_logits(model: GPTScratchForCausalLM, reference: Callable[[torch.LongTensor], torch.FloatTensor]) -> float:
    """The largest absolute difference between the model's logits, computed in fp32, and the reference's.

    Args:
        model: in evaluation mode.
        reference: from ids of shape `(batch_size, sequence_length)` to fp32 logits of shape
            `(batch_size, sequence_length, vocab_size)`.

    Raises:
        `ConversionError`: the reference's logits are not finite, or the difference exceeds `LOGITS_TOLERANCE` times
            the largest of them.
    """
    length = min(128, model.config.max_position_embeddings)
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(model.config.vocab_size, (2, length), generator=generator)
    expected = reference(input_ids)
    # Not `model.float()`, which would round the weights of a float64 checkpoint.
    parameters = {name: parameter.float() for name, parameter in model.named_parameters()}
    logits = torch.func.functional_call(model, parameters, (input_ids,)).logits
    scale = expected.abs().max().item()
    difference = (logits - expected).abs().max().item()
    if not torch.isfinite(expected).all():
        raise ConversionError("The checkpoint's logits are not finite: it holds NaN or too large numbers")
    if not difference <= LOGITS_TOLERANCE * scale:
        raise ConversionError(
            f"The model's logits differ from the checkpoint's by up to {difference:.2e}, with logits of up to "
            f"{scale:.2e}: rounding explains {LOGITS_TOLERANCE * scale:.2e}. Nothing was written; the checkpoint is of "
            "another architecture than the book's, or the conversion is wrong"
        )
    return difference


def _build_model(
    config: GPTScratchConfig,
    state_dict: dict[str, torch.Tensor],
    names: dict[str, str],
    ignored: dict[str, tuple[int, ...]],
) -> GPTScratchForCausalLM:
    """The model with the source's tensors, after their names and shapes are found to be what `config` asks for."""
    # Without data, so that a wrong configuration is found before memory for it is asked for.
    with torch.device("meta"):
        model = GPTScratchForCausalLM(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    ours = {
        source.replace(".N.", f".{layer}."): target.replace(".N.", f".{layer}.")
        for source, target in names.items()
        for layer in range(config.num_hidden_layers if ".N." in source else 1)
    }
    ours = {source: target for source, target in ours.items() if target in shapes}
    _check_tensors(state_dict, {source: shapes[target] for source, target in ours.items()}, ignored)

    # Copies: the loaded tensors may be views of the file, which may change or go away.
    weights = {
        target: state_dict[source].clone(memory_format=torch.contiguous_format) for source, target in ours.items()
    }
    model.load_state_dict(weights, assign=True)
    model.tie_weights()  # assigning has put two parameters where one was shared
    model.generation_config.max_length = config.max_position_embeddings
    return model.eval()


def _check_tensors(
    state_dict: dict[str, torch.Tensor],
    required: dict[str, tuple[int, ...]],
    ignored: dict[str, tuple[int, ...]],
) -> None:
    shapes = ignored | required
    unknown = [str(name) for name in state_dict if name not in shapes]
    missing = [name for name in required if name not in state_dict]
    misshapen = [
        f"{name} is {tuple(state_dict[name].shape)}, expected {shape}"
        for name, shape in shapes.items()
        if name in state_dict and tuple(state_dict[name].shape) != shape
    ]
    problems = [
        f"{len(found)} {kind}: {', '.join(found[:3])}{', ...' if len(found) > 3 else ''}"
        for kind, found in (("unknown", unknown), ("missing", missing), ("of a wrong shape", misshapen))
        if found
    ]
    dtypes = {state_dict[name].dtype for name in required if name in state_dict}
    if len(dtypes) > 1 or not all(dtype.is_floating_point for dtype in dtypes):
        problems.append(f"dtypes {', '.join(sorted(map(str, dtypes)))}, expected one floating-point dtype for all")
    if problems:
        raise ConversionError(
            f"The checkpoint's tensors are not those that its configuration describes: {'; '.join(problems)}. Check "
            "that the two belong together and that the model is the book's"
        )


def _check_book_config(book_config: dict) -> None:
    problems = [f"unknown field {name}" for name in book_config if name not in BOOK_CONFIG]
    problems += [f"missing field {name}" for name in BOOK_CONFIG if name not in {"tie_weights", *book_config}]
    problems += [
        f"{name} is {book_config[name]!r}, expected {' or '.join(kind.__name__ for kind in types)}"
        for name, types in BOOK_CONFIG.items()
        if name in book_config and type(book_config[name]) not in types  # a bool is an int, but not as a size
    ]
    if problems:
        raise ConversionError(
            f"The checkpoint's configuration is not the book's: {'; '.join(problems)}. Its fields are "
            f"{', '.join(BOOK_CONFIG)} (the last one optional)"
        )


def _equal(first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    if first is None or second is None:
        return False
    return first.dtype == second.dtype and torch.equal(first, second)


def _find_checkpoint(source: Path) -> Path:
    suffixes = (".pth", ".pt", ".safetensors")
    if source.is_dir():
        found = sorted(path for path in source.iterdir() if path.suffix in suffixes)
        if len(found) != 1:
            raise ConversionError(
                f"{source} holds {len(found)} checkpoints ({', '.join(path.name for path in found) or 'none'}), "
                f"expected one file that ends in {', '.join(suffixes)}: name the file itself"
            )
        return found[0]
    if not source.is_file():
        raise ConversionError(f"{source} does not exist: name a checkpoint or the folder that holds it")
    if source.suffix not in suffixes:
        raise ConversionError(f"{source} is no checkpoint: expected a file that ends in {', '.join(suffixes)}")
    return source


def _read_config(path: Path) -> dict:
    if not path.is_file():
        raise ConversionError(f"{path} does not exist: name the checkpoint's configuration with --config")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConversionError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise ConversionError(f"{path} holds a {type(config).__name__}, expected an object with the book's fields")
    return config


def _load_state_dict(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            checkpoint = load_file(path)
        else:
            # Mapped where possible, not read into memory: files of torch.save since 1.6, which are zip archives.
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except Exception as error:  # the documentation of pickle: a damaged file may raise other exceptions, of any kind
        # torch hides the cause behind advice to load the file without the protection; the first sentence says it.
        reason = str(error.__context__ or error).split(". ")[0].rstrip(".")
        raise ConversionError(
            f"{path} cannot be read ({type(error).__name__}: {reason}): it is damaged, or holds more than tensors, "
            "which could run code while loading. Save the model's state_dict() alone"
        ) from error
    if isinstance(checkpoint, dict):
        checkpoint = checkpoint.get("model_state_dict", checkpoint)
    if not isinstance(checkpoint, dict):
        raise ConversionError(f"{path} holds a {type(checkpoint).__name__}, expected the model's state_dict()")
    strangers = [str(name) for name, value in checkpoint.items() if not isinstance(value, torch.Tensor)]
    if strangers:
        raise ConversionError(
            f"{path} holds entries that are no tensors ({', '.join(strangers[:3])}; {len(strangers)} in all), expected "
            "the model's state_dict() or one under the key model_state_dict"
        )
    return checkpoint


def _load_tokenizer(name: str, config: GPTScratchConfig) -> PreTrainedTokenizerBase:
    try:
        # Our own folders need no remote code, because importing this package registers their classes; other people's
        # code does not run.
        tokenizer = AutoTokenizer.from_pretrained(
            name, trust_remote_code=False, model_max_length=config.max_position_embeddings
        )
    except Exception as error:  # the tokenizers library raises plain `Exception` for a damaged file
        raise ConversionError(f"The tokenizer {name} cannot be loaded: {error}") from error
    if len(tokenizer) > config.vocab_size:
        raise ConversionError(
            f"The tokenizer {name} has {len(tokenizer)} tokens, but the model's vocabulary only {config.vocab_size}: "
            "name the tokenizer that the model was trained with"
        )
    return tokenizer


def _save(model: GPTScratchForCausalLM, tokenizer: PreTrainedTokenizerBase | None, output: Path) -> None:
    """Writes a complete folder or none."""
    if tokenizer is not None:
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(model.config, name, getattr(tokenizer, name))
            setattr(model.generation_config, name, getattr(tokenizer, name))
    with atomic_folder(output) as folder:
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
