"""The way of a conversion: find, load, recognise, read, measure, write."""

from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from ..model_folder import ModelFolderError, write_model_folder
from ..modeling_gpt_scratch import GPTScratchForCausalLM
from .checks import ConversionError
from .formats import FORMATS, recognise
from .generation import drop_ignored_flags, read_generation_config
from .gpt2 import to_gpt2
from .logits import Reference, compare_logits
from .source import Checkpoint, find_checkpoint, find_source, load_checkpoint
from .tokenizer import adopt_special_tokens, holds_tokenizer, load_tokenizer

TARGETS = ("gpt-scratch", "gpt2")


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
        tokenizer: a folder or Hub name whose tokenizer is saved beside the model, or nanoGPT's `meta.pkl`; `None`
            means the source folder's own, where it has one.
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
        _check_target(place, target_format)
        source = find_source(source, revision)
        checkpoint = load_checkpoint(find_checkpoint(source))
        source_format = recognise(source, checkpoint, source_format)
        model, reference = _read(source_format, checkpoint, config=config, activation=activation)
        dropped = drop_ignored_flags(model.generation_config)
        saved_tokenizer = _adopt_tokenizer(model, source, tokenizer)
        result = to_gpt2(model) if target_format == "gpt2" else model
        difference = compare_logits(result, reference)
        write_model_folder(place, result, saved_tokenizer)
    except (OSError, SafetensorError, ModelFolderError) as error:  # the second one: a damaged file
        raise ConversionError(f"{source} cannot be converted into {place}: {error}") from error
    if report is not None:
        report(f"Wrote {output}. Its logits differ from the checkpoint's by at most {difference:.2e}.")
        for line in _remarks(source_format, model, dropped, saved_tokenizer):
            report(line)
    return difference


def _check_target(place: Path, target_format: str) -> None:
    if target_format not in TARGETS:
        raise ConversionError(f"The target {target_format!r} does not exist: name {' or '.join(TARGETS)}")
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise ConversionError(f"{place} exists and is not an empty folder: choose another place to write to")


def _read(
    source_format: str, checkpoint: Checkpoint, **options: str | Path | None
) -> tuple[GPTScratchForCausalLM, Reference]:
    """The source as our model with its own way to write, and what its logits are measured against."""
    kind = FORMATS[source_format]
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in kind.options:
            readers = " and ".join(reader for reader in FORMATS if name in FORMATS[reader].options)
            raise ConversionError(
                f"The source is in the format {source_format}, but --{name} is for {readers} alone: leave it out"
            )
    model, reference = kind.read(checkpoint, **given)
    if kind.model_type is not None:
        settings = read_generation_config(checkpoint.path.parent, model.config)
        model.generation_config = settings or model.generation_config
    return model, reference


def _adopt_tokenizer(model: GPTScratchForCausalLM, source: Path, name: str | None) -> PreTrainedTokenizerBase | None:
    """The tokenizer of that name or the source folder's own, if any, with its special tokens made the model's."""
    if name is None and not (source.is_dir() and holds_tokenizer(source)):
        return None
    tokenizer = load_tokenizer(source if name is None else name, model.config)
    adopt_special_tokens(model, tokenizer, replace=name is not None)
    return tokenizer


def _remarks(
    source_format: str, model: GPTScratchForCausalLM, dropped: list[str], tokenizer: PreTrainedTokenizerBase | None
) -> Iterator[str]:
    """What a person should know of the result beyond its place."""
    if dropped:
        yield f"Left out of generation_config.json, as it does nothing without sampling or beams: {', '.join(dropped)}."
    if "activation" in FORMATS[source_format].options:
        yield f"Its activation is {model.config.hidden_act}, which the checkpoint does not say: see --activation."
    if tokenizer is None:
        yield (
            "It has no tokenizer: convert again with --tokenizer FOLDER_OR_NAME to add one (the book uses gpt2; "
            "nanoGPT's characters are in the meta.pkl beside its data)."
        )
    elif tokenizer.eos_token_id is None:
        yield "Its tokenizer has no end of text, so it always writes as many tokens as are asked for."
