"""What a conversion must pass before anything is written: fields, tensors, and the logits."""

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

# Relative to the largest logit, because rounding errors grow with the numbers. Two correct fp32 passes over 12 layers
# differ by 5e-7 to 4e-6 of it (random weights, from GPT-2's small ones to some with outliers in the thousands); the
# least visible mistake, the exact GELU instead of its tanh form, by 3e-4.
LOGITS_TOLERANCE = 3e-5


class ConversionError(ValueError):
    """What the user can put right: a file that is missing, damaged or of another model, or a place not to write to."""


def check_fields(fields: dict, types: dict[str, tuple[type, ...]], whose: str, optional: tuple[str, ...] = ()) -> None:
    """Compares a source's configuration with the fields that it must have.

    Args:
        types: field -> the types that its value may have.
        whose: the format's name in the possessive, for the message.
        optional: the fields that may be missing.

    Raises:
        `ConversionError`: unknown and missing fields and values of wrong types, all at once.
    """
    problems = [f"unknown field {name}" for name in fields if name not in types]
    problems += [f"missing field {name}" for name in types if name not in {*optional, *fields}]
    problems += [
        f"{name} is {fields[name]!r}, expected {' or '.join(kind.__name__ for kind in kinds)}"
        for name, kinds in types.items()
        if name in fields and type(fields[name]) not in kinds  # a bool is an int, but not as a size
    ]
    if problems:
        described = ", ".join(f"{name} (optional)" if name in optional else name for name in types)
        raise ConversionError(
            f"The checkpoint's configuration is not {whose}: {'; '.join(problems)}. Its fields are {described}"
        )


def check_tensors(
    state_dict: dict[str, torch.Tensor],
    required: dict[str, tuple[int, ...]],
    ignored: dict[str, tuple[int, ...]],
) -> None:
    """Compares a source's tensors with the names and shapes that its configuration asks for.

    Args:
        required: name -> shape of the tensors that must be there, all of one floating-point dtype.
        ignored: name -> shape of those that may be there.

    Raises:
        `ConversionError`: unknown, missing and misshapen tensors and mixed dtypes, all at once.
    """
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
            "that the two belong together and that the model is a whole language model of this format"
        )


@torch.no_grad()
def model_logits(model: PreTrainedModel, input_ids: torch.LongTensor) -> torch.FloatTensor:
    """The logits of a model in evaluation mode, computed in fp32 whatever dtype its weights have.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`).

    Returns:
        Logits of shape `(batch_size, sequence_length, vocab_size)`.
    """
    # Not `model.float()`, which would round the weights of a float64 checkpoint.
    parameters = {name: parameter.float() for name, parameter in model.named_parameters()}
    return torch.func.functional_call(model, parameters, (input_ids,)).logits


@torch.no_grad()
def compare_logits(model: PreTrainedModel, reference: Callable[[torch.LongTensor], torch.FloatTensor]) -> float:
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
    scale = expected.abs().max().item()
    difference = (model_logits(model, input_ids) - expected).abs().max().item()
    if not torch.isfinite(expected).all():
        raise ConversionError("The checkpoint's logits are not finite: it holds NaN or too large numbers")
    if not difference <= LOGITS_TOLERANCE * scale:
        raise ConversionError(
            f"The model's logits differ from the checkpoint's by up to {difference:.2e}, with logits of up to "
            f"{scale:.2e}: rounding explains {LOGITS_TOLERANCE * scale:.2e}. Nothing was written; the checkpoint is of "
            "another architecture than its format's, or the conversion is wrong"
        )
    return difference
