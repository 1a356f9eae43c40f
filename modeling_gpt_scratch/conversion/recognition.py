"""Which format a source is in."""

from pathlib import Path

import torch

from .checks import ConversionError
from .files import read_json, state_dict_of

# Format -> what it is, in the order in which messages list them.
FORMATS = {
    "book": "the book's or the blog's weights beside a model.json",
    "blog": "a repository with the blog's wrapper for Transformers",
    "nanogpt": "nanoGPT's ckpt.pt",
    "gpt2": "GPT-2 as the Transformers library stores it",
    "gpt-scratch": "a model folder of this package",
}
# As `config.json` says it; the other formats have none.
MODEL_TYPES = {"gpjtgpt2": "blog", "gpt2": "gpt2", "gpt_scratch": "gpt-scratch"}


def recognise(source: Path, checkpoint: Path, content: object, named: str | None) -> str:
    """The format of a source: of a folder by its `config.json` where that has a `model_type`, else by its tensors.

    Args:
        source: the file or folder that was named.
        checkpoint: the file of the weights.
        content: what it holds.
        named: the format that the user says it is; decides where the source itself does not.

    Raises:
        `ConversionError`: no format fits or several do, or the one named does not; says what was found.
    """
    if named is not None and named not in FORMATS:
        raise ConversionError(f"The format {named!r} does not exist: name {_listed(FORMATS)}")
    model_type = None
    if (source / "config.json").is_file():
        model_type = read_json(source / "config.json", "").get("model_type")
    tensors = state_dict_of(content["model"] if is_nanogpt(content) else content, checkpoint)
    fitting = [found for kind, found in MODEL_TYPES.items() if kind == model_type]
    # A model_type of somebody's own may hide GPT-2 itself, but only the user can know.
    if not fitting and (model_type is None or named is not None):
        fitting = _formats_by_names(tensors)
    if named in fitting or (named is not None and model_type is None and not fitting):
        return named
    if named is None and len(fitting) == 1:
        return fitting[0]
    files = sorted(path.name for path in source.iterdir()) if source.is_dir() else [source.name]
    seen = [] if model_type is None else [f"a config.json of model_type {model_type!r}"]
    seen += [f"{len(tensors)} tensors ({_listed(list(tensors)[:3])})", f"the files {_listed(files[:8])}"]
    if named is None:
        verdict = f"fits {'no format' if not fitting else f'several formats ({_listed(fitting)})'}"
        remedy = "name one of the formats by --from"
    else:
        verdict = f"is not {named}" + (f", but looks like {_listed(fitting)}" if fitting else "")
        remedy = "leave out --from or name another format"
    formats = "; ".join(f"{name}: {description}" for name, description in FORMATS.items())
    raise ConversionError(f"{source} {verdict}: found {', '.join(seen)}. If this is wrong, {remedy} ({formats})")


def _formats_by_names(tensors: dict[str, torch.Tensor]) -> list[str]:
    shapes = {
        name.removeprefix("_orig_mod.").removeprefix("transformer."): tensor.shape for name, tensor in tensors.items()
    }
    joined = shapes.get("h.0.attn.c_attn.weight", torch.Size())
    marks = {
        "book": any(name.startswith(("tok_emb.", "out_head.", "trf_blocks.")) for name in shapes),
        "blog": any(name.startswith(("model.tok_emb.", "model.out_head.", "model.trf_blocks.")) for name in shapes),
        # Query, key and value are joined in both, but only GPT-2 stores matrices as (in_features, out_features).
        "nanogpt": len(joined) == 2 and joined[0] == 3 * joined[1],
        "gpt2": len(joined) == 2 and joined[1] == 3 * joined[0],
        "gpt-scratch": "model.embed_positions.weight" in shapes,
    }
    return [name for name, found in marks.items() if found]


def is_nanogpt(content: object) -> bool:
    """Whether a checkpoint has nanoGPT's outer form: tensors and sizes as two of several entries."""
    return isinstance(content, dict) and all(isinstance(content.get(name), dict) for name in ("model", "model_args"))


def _listed(names) -> str:
    return ", ".join(names) or "none"
