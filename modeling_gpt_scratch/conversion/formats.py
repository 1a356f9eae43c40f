"""The formats of sources, all that tells them apart, and which of them a source is in."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .book import read_blog, read_book
from .checks import ConversionError
from .gpt2 import read_gpt2
from .logits import Reading
from .nanogpt import read_nanogpt
from .source import Checkpoint, read_json
from .weights import read_gpt_scratch

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class SourceFormat:
    """A format of sources.

    Attributes:
        description: what it is, as messages say it.
        recognises: whether tensors are this format's, by their names and shapes.
        read: from a checkpoint and the format's options to our model.
        options: those of `convert` that it reads.
        model_type: as `config.json` says it. A format that has one keeps its settings in files of the library's names,
            so that its `generation_config.json` is taken over as well.
    """

    description: str
    recognises: Callable[[Tensors], bool]
    read: Callable[..., Reading]
    options: tuple[str, ...] = ()
    model_type: str | None = None


def _some_begin(*beginnings: str) -> Callable[[Tensors], bool]:
    return lambda tensors: any(name.startswith(beginnings) for name in tensors)


def _query_key_and_value_joined(*, transposed: bool) -> Callable[[Tensors], bool]:
    """For GPT-2's names, which nanoGPT has too, but only GPT-2 stores matrices as `(in_features, out_features)`."""

    def recognises(tensors: Tensors) -> bool:
        name = "h.0.attn.c_attn.weight"
        joined = tensors.get(f"transformer.{name}", tensors.get(name))
        if joined is None or joined.ndim != 2:
            return False
        rows, columns = joined.mT.shape if transposed else joined.shape
        return rows == 3 * columns

    return recognises


# In the order in which messages list them.
FORMATS = {
    "book": SourceFormat(
        "the book's or the blog's weights beside a model.json",
        recognises=_some_begin("tok_emb.", "out_head.", "trf_blocks."),
        read=read_book,
        options=("config", "labels"),
    ),
    "blog": SourceFormat(
        "a repository with the blog's wrapper for Transformers",
        recognises=_some_begin("model.tok_emb.", "model.out_head.", "model.trf_blocks."),
        read=read_blog,
        model_type="gpjtgpt2",
    ),
    "nanogpt": SourceFormat(
        "nanoGPT's ckpt.pt, or the weights of it, build-nanogpt or minGPT with --n_head or --config",
        recognises=_query_key_and_value_joined(transposed=False),
        read=read_nanogpt,
        options=("activation", "config", "n_head"),
    ),
    "gpt2": SourceFormat(
        "GPT-2 as the Transformers library stores it",
        recognises=_query_key_and_value_joined(transposed=True),
        read=read_gpt2,
        model_type="gpt2",
    ),
    "gpt-scratch": SourceFormat(
        "a model folder of this package",
        recognises=_some_begin("model.embed_positions.weight"),
        read=read_gpt_scratch,
        model_type="gpt_scratch",
    ),
}


def without_prefix(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without the name that a wrapping module of somebody's own (Lightning's) has given to all tensors.

    It is taken off where the tensors are of no format with it and of exactly one without. The blog's wrapper is of that
    kind too, but it comes with a `config.json`.
    """
    beginnings = {name.partition(".")[0] for name in checkpoint.tensors}
    if len(beginnings) != 1 or (checkpoint.path.parent / "config.json").is_file():
        return checkpoint
    bare = {name.partition(".")[2]: tensor for name, tensor in checkpoint.tensors.items()}
    as_it_is = [name for name, kind in FORMATS.items() if name != "blog" and kind.recognises(checkpoint.tensors)]
    if as_it_is or sum(kind.recognises(bare) for kind in FORMATS.values()) != 1:
        return checkpoint
    return replace(checkpoint, tensors=bare)


def recognise(source: Path, checkpoint: Checkpoint, named: str | None) -> str:
    """The format of a source: of a folder by its `config.json` where that has a `model_type`, else by its tensors.

    Args:
        source: the file or folder that was named.
        checkpoint: its weights.
        named: the format that the user says it is; decides where the source itself does not.

    Raises:
        `ConversionError`: no format fits or several do, or the one named does not; says what was found.
    """
    if named is not None and named not in FORMATS:
        raise ConversionError(f"The format {named!r} does not exist: name {_listed(FORMATS)}")
    model_type = None
    if (source / "config.json").is_file():
        model_type = read_json(source / "config.json", "").get("model_type")
    fitting = [name for name, kind in FORMATS.items() if model_type is not None and kind.model_type == model_type]
    # A model_type of somebody's own may hide GPT-2 itself, but only the user can know.
    if not fitting and (model_type is None or named is not None):
        fitting = [name for name, kind in FORMATS.items() if kind.recognises(checkpoint.tensors)]
    if named in fitting or (named is not None and model_type is None and not fitting):
        return named
    if named is None and len(fitting) == 1:
        return fitting[0]
    raise ConversionError(f"{source} {_verdict(source, checkpoint, model_type, named, fitting)}")


def _verdict(source: Path, checkpoint: Checkpoint, model_type: object, named: str | None, fitting: list[str]) -> str:
    """Why a source is of no format that can be read, what was seen of it, and what to do."""
    files = sorted(path.name for path in source.iterdir()) if source.is_dir() else [source.name]
    seen = [] if model_type is None else [f"a config.json of model_type {model_type!r}"]
    seen += [f"{len(checkpoint.tensors)} tensors ({_listed(list(checkpoint.tensors)[:3])})"]
    seen += [f"the files {_listed(files[:8])}"]
    if named is None:
        verdict = f"fits {'no format' if not fitting else f'several formats ({_listed(fitting)})'}"
        remedy = "name one of the formats by --from"
    else:
        verdict = f"is not {named}" + (f", but looks like {_listed(fitting)}" if fitting else "")
        remedy = "leave out --from or name another format"
    formats = "; ".join(f"{name}: {kind.description}" for name, kind in FORMATS.items())
    return f"{verdict}: found {', '.join(seen)}. If this is wrong, {remedy} ({formats})"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
