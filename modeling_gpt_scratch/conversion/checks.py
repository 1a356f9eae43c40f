"""What a source must pass: a configuration of its format's fields, and the tensors that it asks for."""

import torch

# Endings of the names of masks, which sources keep among their weights and which are not used.
MASKS = (".att.mask", ".attn.bias", ".attn.masked_bias")


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
        required: name -> shape of the tensors that must be there, all of floating-point dtypes.
        ignored: name -> shape of those that may be there.

    Raises:
        `ConversionError`: unknown, missing and misshapen tensors and those of integers, all at once.
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
    if not all(dtype.is_floating_point for dtype in dtypes):
        problems.append(f"dtypes {', '.join(sorted(map(str, dtypes)))}, expected floating-point dtypes alone")
    if problems:
        raise ConversionError(
            f"The checkpoint's tensors are not those that its configuration describes: {'; '.join(problems)}. Check "
            "that the two belong together and that the model is a whole language model of this format"
        )
