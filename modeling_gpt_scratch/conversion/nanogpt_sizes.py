"""
How large a nanoGPT's model is: what its checkpoint says, what the user does, and what the shapes of its tensors show.

nanoGPT saves its sizes as `model_args`. Relatives with the same names of tensors do not: build-nanogpt keeps them as
`config`, minGPT in no file of the weights. All but the number of heads is in the shapes.
"""

from pathlib import Path

import torch

from .checks import ConversionError
from .source import Checkpoint, read_json

# Field -> types of its value.
NANOGPT_CONFIG = {
    "n_layer": (int,),
    "n_head": (int,),
    "n_embd": (int,),
    "block_size": (int,),
    "bias": (bool,),
    "vocab_size": (int,),
    "dropout": (float, int),
}
# By our names: what nanoGPT has had since June 2023; and what it had before, and build-nanogpt and minGPT have. Neither
# names nor shapes tell which one a checkpoint was trained with.
ACTIVATIONS = ("gelu", "gelu_pytorch_tanh")
EMBEDDING = "transformer.wte.weight"


def said_sizes(checkpoint: Checkpoint, config: str | Path | None, n_head: int | None) -> dict:
    """The fields that were said of a model, by its checkpoint or by the user.

    Raises:
        `ConversionError`: nobody says how many heads it has, or two do.
    """
    path = checkpoint.path
    given = {"model_args": checkpoint.model_args, "--config": config, "--n_head": n_head}
    said = [name for name, value in given.items() if value is not None]
    if len(said) > 1:
        where = f"{path} itself and by {said[1]}" if said[0] == "model_args" else " and by ".join(said)
        raise ConversionError(f"The sizes are said twice, by {where}: leave out {said[1]}")
    if not said:
        raise ConversionError(
            f"{path} does not say how many heads its model has, and no shape shows it: add --n_head N, with the n_head "
            'of the program that trained it (12 in GPT-2\'s smallest size), or --config sizes.json with {"n_head": N}'
        )
    if config is not None:
        return read_json(Path(config), 'write the sizes there, such as {"n_head": 12}')
    return {"n_head": n_head} if checkpoint.model_args is None else checkpoint.model_args


def complete_sizes(state_dict: dict[str, torch.Tensor], said: dict) -> dict:
    """All fields of `NANOGPT_CONFIG`: those that were said, and the others as the tensors show them.

    A field of which there is no trace, neither said nor seen, is missing; so are those that are none of nanoGPT's.
    """
    tokens, positions = state_dict.get(EMBEDDING), state_dict.get("transformer.wpe.weight")
    blocks = {name.split(".")[2] for name in state_dict if name.startswith("transformer.h.")}
    seen = {"n_layer": len(blocks), "bias": has_biases(state_dict), "dropout": 0.0}
    if tokens is not None and tokens.ndim == 2:
        seen["vocab_size"], seen["n_embd"] = tokens.shape
    if positions is not None and positions.ndim == 2:
        seen["block_size"] = positions.shape[0]
    return seen | {name: value for name, value in said.items() if name in NANOGPT_CONFIG}


def likely_activation(state_dict: dict[str, torch.Tensor], said: dict) -> str:
    """One of `ACTIVATIONS`: the first since nanoGPT had a field `bias` or a model without any, else the second."""
    return ACTIVATIONS[0 if "bias" in said or not has_biases(state_dict) else 1]


def has_biases(state_dict: dict[str, torch.Tensor]) -> bool:
    return any(name.endswith(".attn.c_attn.bias") for name in state_dict)


def remarks_on(said: dict, activation: str, asked: bool) -> tuple[str, ...]:
    """What was left aside and assumed, as a person should know it."""
    strange = [f"{name}={value!r}" for name, value in said.items() if name not in NANOGPT_CONFIG]
    remarks = []
    if strange:
        remarks.append(
            f"Left aside, as nanoGPT has no such fields: {', '.join(strange)}. If one of them changes what the model "
            "computes, this is another model."
        )
    if asked:
        remarks.append(f"Its activation is {activation}, as --activation says.")
    else:
        other = next(name for name in ACTIVATIONS if name != activation)
        remarks.append(
            f"Its activation is {activation}, which the checkpoint does not say. nanoGPT has {ACTIVATIONS[0]} since "
            f"June 2023; it had {ACTIVATIONS[1]} before, and build-nanogpt and minGPT have it. If yours was trained "
            f"with the other, convert again with --activation {other}."
        )
    return tuple(remarks)
