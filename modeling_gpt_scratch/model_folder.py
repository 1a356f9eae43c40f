"""
How a model is written: clean names, our class, everything on the disk, and opened again before it has its name.

`torch.compile`, data parallelism and FSDP leave their names in a model's weights and class. `from_pretrained` takes
weights that it does not find by name as random ones, with no more than a warning, so whoever writes a model looks.
"""

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .durable import atomic_folder

# What wrappers put into the names of a model's weights.
WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Relative to the largest logit. The same weights go through the same code twice; memory that is aligned otherwise may
# be multiplied by another kernel, which changes the last digits (1e-7).
REOPENED_TOLERANCE = 1e-5


class ModelFolderError(Exception):
    """The weights are not those of the model, or what was written is not what is read back."""


def clean_state_dict(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights under the model's own names, on the CPU, whatever the model was wrapped in."""
    return {
        ".".join(part for part in name.split(".") if part not in WRAPPERS): tensor.detach().cpu()
        for name, tensor in state_dict.items()
    }


def fresh_model(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    state_dict: Mapping[str, torch.Tensor],
    generation_config: GenerationConfig | None = None,
) -> PreTrainedModel:
    """A model of this very class with these weights, on the CPU and in evaluation mode.

    Args:
        model_class: not a wrapper's subclass of it, which `save_pretrained` would name in config.json.
        config: is copied.
        state_dict: weights under any wrapper's names, all of one floating-point dtype; a tied weight may be missing.
        generation_config: is copied; `None` means that of the configuration.

    Raises:
        ModelFolderError: weights are missing, left over, of another shape or of several dtypes.
    """
    weights = clean_state_dict(state_dict)
    dtypes = {str(tensor.dtype) for tensor in weights.values() if tensor.is_floating_point()}
    if len(dtypes) != 1:
        raise ModelFolderError(f"the weights are of {' and '.join(sorted(dtypes)) or 'no type'}, not of one type")
    model, found = model_class.from_pretrained(
        None,
        config=copy.deepcopy(config),
        state_dict=weights,
        dtype=next(iter(weights.values())).dtype,
        output_loading_info=True,
    )
    _refuse_what_does_not_fit(found, "the weights")
    if generation_config is not None:
        model.generation_config = copy.deepcopy(generation_config)
    return model.eval()


def write_model_folder(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    replace: bool = False,
    inputs: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Writes a model folder that has been opened again: complete under its name, or absent.

    Args:
        folder: must not exist or be empty, unless it is to be replaced.
        model: [`fresh_model`] makes it from weights.
        tokenizer: saved beside it.
        replace: keep what is there until the new folder is complete.
        inputs: what both are compared on; `None`: a few random token ids.

    Raises:
        ModelFolderError: the settings cannot be saved, or what was written lacks weights or gives other logits.
        OSError: it cannot be written; the error names the folder.
    """
    with atomic_folder(folder, replace) as new:
        try:
            model.save_pretrained(new)
            if tokenizer is not None:
                tokenizer.save_pretrained(new)
        except SafetensorError as error:  # how a full disk is reported
            raise OSError(f"{folder} cannot be written: {error}") from error
        except ValueError as error:  # the library reads more of generation_config.json than it writes
            raise ModelFolderError(f"{folder} cannot be saved: {error}") from error
        _open_again(new, model.eval(), _random_ids(model) if inputs is None else inputs, folder)


def _open_again(new: Path, model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Compares a written model with the one in memory, and lets go of its files, which Windows would not rename else.

    Raises:
        ModelFolderError: weights are missing or the logits differ; it speaks of `folder`, the final name.
    """
    reopened, found = type(model).from_pretrained(new, output_loading_info=True)
    _refuse_what_does_not_fit(found, f"{folder}, as written,")
    expected, logits = logits_in_fp32(model, inputs), logits_in_fp32(reopened, inputs)
    scale, difference = expected.abs().max().item(), (logits - expected).abs().max().item()
    if not difference <= REOPENED_TOLERANCE * scale:  # nor where either is no number
        raise ModelFolderError(
            f"{folder}, opened again, gives logits that differ by up to {difference:.2e}, with logits of up to "
            f"{scale:.2e}: it was not written as it was in memory"
        )


def _random_ids(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    shape = (1, min(64, model.config.max_position_embeddings))
    return {"input_ids": torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))}


@torch.no_grad()
def logits_in_fp32(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> torch.FloatTensor:
    """What a model in evaluation mode says first, computed in fp32 whatever dtype its weights have.

    Args:
        inputs: of its `forward`, by name, such as `input_ids` of shape `(batch_size, sequence_length)`.

    Returns:
        Logits, for a language model of shape `(batch_size, sequence_length, vocab_size)`; hidden states without a head.
    """
    # Not `model.float()`, which would round the weights of a float64 checkpoint.
    parameters = {name: parameter.float() for name, parameter in model.named_parameters()}
    return torch.func.functional_call(model, parameters, (), dict(inputs))[0]


def _refuse_what_does_not_fit(found: dict, what: str) -> None:
    problems = [
        f"{len(found[kind])} {label}: {', '.join(sorted(str(name) for name in found[kind])[:3])}"
        for kind, label in (
            ("missing_keys", "missing"),
            ("unexpected_keys", "unknown"),
            ("mismatched_keys", "of a wrong shape"),
        )
        if found[kind]
    ]
    if problems:
        raise ModelFolderError(f"{what} are not those of the model: {'; '.join(problems)}")
