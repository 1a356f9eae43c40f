"""
Checkpoints of other code as gpt-scratch models, and gpt-scratch models as GPT-2.

Every source is described by its configuration's fields, a table of names (`weights.py` applies it) and a measure: a
forward pass over its own tensors, or the library's own class. Nothing is written before the logits of what will be
written equal those of the source.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError

from ..model_folder import ModelFolderError, write_model_folder
from ..modeling_gpt_scratch import GPTScratchForCausalLM
from .book import book_logits, convert_book_checkpoint, unwrap_blog_checkpoint
from .checks import LOGITS_TOLERANCE, ConversionError, compare_logits, model_logits
from .files import find_checkpoint, load_checkpoint, read_json, state_dict_of
from .generation import drop_ignored_flags, read_generation_config
from .gpt2 import convert_gpt2_checkpoint, fits_gpt2, gpt2_reference, to_gpt2
from .gpt_scratch import load_gpt_scratch_checkpoint
from .hub import find_source
from .nanogpt import ACTIVATIONS, convert_nanogpt_checkpoint, nanogpt_logits
from .recognition import FORMATS, MODEL_TYPES, is_nanogpt, recognise
from .tokenizer import adopt_special_tokens, holds_tokenizer, load_tokenizer

TARGETS = ("gpt-scratch", "gpt2")
Reference = Callable[[torch.LongTensor], torch.FloatTensor]


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
    report: Callable[[str], object] | None = None,
) -> float:
    """Turns a checkpoint into a model folder that `from_pretrained` opens.

    Args:
        source: a `.pth`, `.pt` or `.safetensors` file, a folder that holds one checkpoint, or a repository of the Hub.
        output: the folder to write; it must not exist or be empty.
        source_format: one of `FORMATS`; `None` means to recognise it.
        target_format: `gpt-scratch`, or `gpt2` for the library's own `GPT2LMHeadModel`, which needs no remote code.
        config: for the book's format, the checkpoint's configuration in the book's fields; `None` means `model.json`
            beside the checkpoint. The other formats bring theirs.
        tokenizer: a folder or Hub name whose tokenizer is saved beside the model; `None` means the source folder's
            own, where it has one.
        revision: a branch, tag or commit of the repository `source`.
        activation: for nanoGPT's format, one of `ACTIVATIONS`; `None` means the first.
        report: takes the lines that tell a person what was written.

    Returns:
        The largest absolute difference between the source's logits and the result's, both computed in fp32.

    Raises:
        `ConversionError`: anything cannot be found, read, fitted together or written. Nothing is left at `output` then.
    """
    place = Path(output).resolve()
    try:
        if target_format not in TARGETS:
            raise ConversionError(f"The target {target_format!r} does not exist: name {' or '.join(TARGETS)}")
        if place.exists() and not (place.is_dir() and not any(place.iterdir())):
            raise ConversionError(f"{place} exists and is not an empty folder: choose another place to write to")
        source = find_source(source, revision)
        checkpoint = find_checkpoint(source)
        content = load_checkpoint(checkpoint)
        source_format = recognise(source, checkpoint, content, source_format)
        _check_options(source_format, config=config, activation=activation)
        model, reference = _read(source_format, checkpoint, content, config, activation or ACTIVATIONS[0])
        if source_format in MODEL_TYPES.values():  # those that keep their settings in files of the library's names
            settings = read_generation_config(checkpoint.parent, model.config)
            model.generation_config = settings or model.generation_config
        dropped = drop_ignored_flags(model.generation_config)

        saved_tokenizer = None
        if tokenizer is not None or (source.is_dir() and holds_tokenizer(source)):
            saved_tokenizer = load_tokenizer(source if tokenizer is None else tokenizer, model.config)
            adopt_special_tokens(model, saved_tokenizer, replace=tokenizer is not None)
        result = to_gpt2(model) if target_format == "gpt2" else model
        difference = compare_logits(result, reference)
        write_model_folder(place, result, saved_tokenizer)
    except (OSError, SafetensorError, ModelFolderError) as error:  # the second one: a damaged file
        raise ConversionError(f"{source} cannot be converted into {place}: {error}") from error

    if report is not None:
        report(f"Wrote {output}. Its logits differ from the checkpoint's by at most {difference:.2e}.")
        if dropped:
            names = ", ".join(dropped)
            report(f"Left out of generation_config.json, as it does nothing without sampling or beams: {names}.")
        if source_format == "nanogpt":
            report(f"Its activation is {model.config.hidden_act}, which the checkpoint does not say: see --activation.")
        if saved_tokenizer is None:
            report(
                "It has no tokenizer: convert again with --tokenizer FOLDER_OR_NAME to add one (the book uses gpt2)."
            )
    return difference


def _check_options(source_format: str, **values: object) -> None:
    """Refuses options that a format does not read."""
    readers = {"config": "book", "activation": "nanogpt"}
    for option, value in values.items():
        if value is not None and source_format != readers[option]:
            raise ConversionError(
                f"The source is in the format {source_format}, but --{option} is for {readers[option]} alone: leave it "
                "out"
            )


def _read(
    source_format: str, checkpoint: Path, content: object, book_config: str | Path | None, activation: str
) -> tuple[GPTScratchForCausalLM, Reference]:
    """The source as our model, and what its logits are measured against."""
    if source_format == "nanogpt":
        if not is_nanogpt(content):
            raise ConversionError(
                f"{checkpoint} has no model_args, which say how many heads there are: convert the whole ckpt.pt that "
                "nanoGPT writes"
            )
        state_dict, sizes = state_dict_of(content["model"], checkpoint), content["model_args"]
        model = convert_nanogpt_checkpoint(state_dict, sizes, activation)
        return model, partial(nanogpt_logits, state_dict, sizes, activation)

    state_dict = state_dict_of(content, checkpoint)
    if source_format == "book":
        path = checkpoint.parent / "model.json" if book_config is None else Path(book_config)
        fields = read_json(path, "name the checkpoint's configuration with --config")
        return convert_book_checkpoint(state_dict, fields), partial(book_logits, state_dict, fields)

    fields = read_json(checkpoint.parent / "config.json", "put the model's configuration beside its weights")
    if source_format == "blog":
        state_dict, fields = unwrap_blog_checkpoint(state_dict, fields)
        return convert_book_checkpoint(state_dict, fields), partial(book_logits, state_dict, fields)
    if source_format == "gpt2":
        model = convert_gpt2_checkpoint(state_dict, fields)
        return model, partial(model_logits, gpt2_reference(state_dict, fields))
    model = load_gpt_scratch_checkpoint(state_dict, fields)
    return model, partial(model_logits, model)


__all__ = [
    "ACTIVATIONS",
    "FORMATS",
    "LOGITS_TOLERANCE",
    "TARGETS",
    "ConversionError",
    "book_logits",
    "compare_logits",
    "convert",
    "convert_book_checkpoint",
    "convert_gpt2_checkpoint",
    "convert_nanogpt_checkpoint",
    "fits_gpt2",
    "load_gpt_scratch_checkpoint",
    "nanogpt_logits",
    "to_gpt2",
    "unwrap_blog_checkpoint",
]
