"""The way of a conversion: find, load, recognise, read, measure, write."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from ..model_folder import ModelFolderError, write_model_folder
from ..modeling_gpt_scratch import GPTScratchForCausalLM, GPTScratchPreTrainedModel
from .checks import MASKS, ConversionError
from .formats import FORMATS, recognise, without_prefix
from .generation import drop_ignored_flags, read_generation_config
from .gguf import GGUF_DTYPES, check_gguf_installed, write_gguf_folder
from .gpt2 import to_gpt2
from .gpt2_tokenizer import as_gpt2_tokenizer
from .logits import Reading, compare_logits
from .source import Checkpoint, find_checkpoint, find_source, load_checkpoint
from .tokenizer import adopt_special_tokens, holds_tokenizer, load_tokenizer

TARGETS = ("gpt-scratch", "gpt2", "gguf")


def convert(
    source: str | Path,
    output: str | Path,
    *,
    source_format: str | None = None,
    target_format: str = TARGETS[0],
    config: str | Path | None = None,
    tokenizer: str | None = None,
    revision: str | None = None,
    activation: str | None = None,
    n_head: int | None = None,
    labels: str | None = None,
    dtype: str | None = None,
    report: Callable[[str], object] | None = None,
) -> float:
    """Turns a checkpoint into a model folder that `from_pretrained` opens, or into a file for llama.cpp.

    Args:
        source: a `.pth`, `.pt`, `.bin`, `.ckpt` or `.safetensors` file, a folder that holds one checkpoint, or a
            repository of the Hub.
        output: the folder to write; it must not exist or be empty.
        source_format: one of `FORMATS`; `None` means to recognise it.
        target_format: `gpt-scratch`, or `gpt2` for the library's own `GPT2LMHeadModel`, which needs no remote code,
            or `gguf` for llama.cpp and Ollama.
        config: for the book's format, the checkpoint's configuration in the book's fields; `None` means `model.json`
            beside the checkpoint. For nanoGPT's, the sizes of one that does not say them. The others bring theirs.
        tokenizer: a folder or Hub name whose tokenizer is saved beside the model, or nanoGPT's `meta.pkl`; `None`
            means the source folder's own, where it has one.
        revision: a branch, tag or commit of the repository `source`.
        activation: for nanoGPT's format, one of `ACTIVATIONS`; `None` means the likely one.
        n_head: for nanoGPT's format, the number of heads where neither the checkpoint nor `config` says it.
        labels: for a classifier of the book, its classes' names with commas between them.
        dtype: for the target `gguf`, one of `GGUF_DTYPES`; `None` means the first, which rounds nothing.
        report: takes the lines that tell a person what was written.

    Returns:
        The largest absolute difference between the source's logits and the result's, both computed in fp32.

    Raises:
        `ConversionError`: anything cannot be found, read, fitted together or written. Nothing is left at `output` then.
    """
    place = Path(output).resolve()
    options = {"config": config, "activation": activation, "n_head": n_head, "labels": labels}
    try:
        _check_target(place, target_format, dtype)
        source = find_source(source, revision)
        checkpoint = without_prefix(load_checkpoint(find_checkpoint(source)))
        reading = _read(recognise(source, checkpoint, source_format), checkpoint, options)
        saved_tokenizer = _adopt_tokenizer(reading.model, source, tokenizer)
        difference, remarks = _write(place, target_format, reading, saved_tokenizer, dtype)
    except (OSError, SafetensorError, ModelFolderError) as error:  # the second one: a damaged file
        raise ConversionError(f"{source} cannot be converted into {place}: {error}") from error
    if report is not None:
        report(f"Wrote {output}. Its logits differ from the checkpoint's by at most {difference:.2e}.")
        for line in [*reading.remarks, *remarks]:
            report(line)
    return difference


def _check_target(place: Path, target_format: str, dtype: str | None) -> None:
    if target_format not in TARGETS:
        raise ConversionError(f"The target {target_format!r} does not exist: name {' or '.join(TARGETS)}")
    if target_format == "gguf":
        check_gguf_installed()
    elif dtype is not None:
        raise ConversionError(f"--dtype is for --to gguf alone: leave it out, {target_format} keeps the source's own")
    if dtype is not None and dtype not in GGUF_DTYPES:
        raise ConversionError(f"The dtype {dtype!r} does not exist: name {' or '.join(GGUF_DTYPES)}")
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise ConversionError(f"{place} exists and is not an empty folder: choose another place to write to")


def _read(source_format: str, checkpoint: Checkpoint, options: dict[str, str | int | Path | None]) -> Reading:
    """The source as our model with its own way to write, and what its logits are measured against."""
    kind = FORMATS[source_format]
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in kind.options:
            readers = " and ".join(reader for reader in FORMATS if name in FORMATS[reader].options)
            raise ConversionError(
                f"The source is in the format {source_format}, but --{name} is for {readers} alone: leave it out"
            )
    reading = kind.read(checkpoint, **given)
    if kind.model_type is not None:
        settings = read_generation_config(checkpoint.path.parent, reading.model.config)
        reading.model.generation_config = settings or reading.model.generation_config
    return replace(reading, remarks=(*_remarks(checkpoint, reading.model), *reading.remarks))


def _remarks(checkpoint: Checkpoint, model: GPTScratchPreTrainedModel) -> Iterator[str]:
    """What a person should know of a source in any format, after flags that do nothing are left out."""
    dropped = drop_ignored_flags(model.generation_config) if model.can_generate() else []
    if dropped:
        yield f"Left out of generation_config.json, as it does nothing without sampling or beams: {', '.join(dropped)}."
    dtypes = sorted({str(tensor.dtype) for name, tensor in checkpoint.tensors.items() if not name.endswith(MASKS)})
    if len(dtypes) > 1:
        yield f"The checkpoint's tensors are of {' and '.join(dtypes)}: all were raised to {model.dtype}."


def _adopt_tokenizer(
    model: GPTScratchPreTrainedModel, source: Path, name: str | None
) -> PreTrainedTokenizerBase | None:
    """The tokenizer of that name or the source folder's own, if any, with its special tokens made the model's."""
    if name is None and not (source.is_dir() and holds_tokenizer(source)):
        return None
    tokenizer = load_tokenizer(source if name is None else name, model.config)
    adopt_special_tokens(model, tokenizer, replace=name is not None)
    return tokenizer


def _write(
    place: Path, target_format: str, reading: Reading, tokenizer: PreTrainedTokenizerBase | None, dtype: str | None
) -> tuple[float, list[str]]:
    """Writes the target. Returns how far its logits are from the source's, and what a person should know of it."""
    model, remarks = reading.model, []
    if target_format != TARGETS[0] and not isinstance(model, GPTScratchForCausalLM):
        raise ConversionError(
            f"The source is a classifier, but {target_format} is written of language models alone (GPT-2's own "
            "classifier has no bias, and finds the last token by its id): leave out --to"
        )
    if target_format == "gguf":
        return write_gguf_folder(place, model, reading.reference, tokenizer, dtype or next(iter(GGUF_DTYPES))), remarks
    if tokenizer is None:
        remarks.append(
            "It has no tokenizer: convert again with --tokenizer FOLDER_OR_NAME to add one (the book uses gpt2; "
            "nanoGPT's characters are in the meta.pkl beside its data)."
        )
    elif tokenizer.eos_token_id is None:
        remarks.append("Its tokenizer has no end of text, so it always writes as many tokens as are asked for.")
    if target_format == "gpt2":
        model = to_gpt2(model)
        renamed = None if tokenizer is None else as_gpt2_tokenizer(tokenizer)
        if tokenizer is not None and renamed is None:
            remarks.append(
                f"Its tokenizer is not GPT-2's kind (plain byte-level BPE), so tokenizer_config.json says "
                f"{type(tokenizer).__name__}, which transformers before 5 and CTranslate2 may not know."
            )
        tokenizer = renamed or tokenizer
    difference = compare_logits(model, reading.reference)
    write_model_folder(place, model, tokenizer)
    return difference, remarks
