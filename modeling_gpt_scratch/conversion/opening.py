"""A source as a model in memory, for programs that go on with it instead of writing it down."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from ..configuration_gpt_scratch import GPTScratchConfig
from ..modeling_gpt_scratch import GPTScratchForCausalLM
from .checks import ConversionError
from .formats import FORMATS, recognise, without_prefix
from .gpt2 import fields_of_gpt2
from .logits import compare_logits
from .source import find_checkpoint, find_source, is_local, load_checkpoint, parts_of, read_json


@dataclass(frozen=True)
class FoundSource:
    """Where a source lies.

    Attributes:
        place: the file or folder; of a repository, its copy on this machine.
        commit: the repository's; `None` for what is not from the Hub.
        weights: the files that hold the weights.
    """

    place: Path
    commit: str | None
    weights: tuple[Path, ...]


def locate(name: str, revision: str | None = None) -> FoundSource:
    """The source of that name; a repository of the Hub is downloaded, or taken from the cache.

    Raises:
        `ConversionError`: there is none, or it holds no weights or not all of them.
    """
    place = find_source(name, revision)
    path = find_checkpoint(place)
    files = parts_of(path) if path.suffix == ".json" else (path,)  # the index of several
    # The cache has a folder for each commit, which it is called by.
    return FoundSource(place, None if place == Path(name) else place.name, files)


def read_sizes(name: str, revision: str | None = None) -> GPTScratchConfig:
    """The configuration of the model that [`open_model`] gives; of most sources without their weights.

    Raises:
        `ConversionError`: there is no such source, or its configuration is of no model that we have.
    """
    file = _config_file(name, revision)
    settings = read_json(file, "") if file.is_file() else {}
    if settings.get("model_type") == "gpt2":
        fields = fields_of_gpt2(settings)
    elif settings.get("model_type") == GPTScratchConfig.model_type:
        fields = {field: settings[field] for field in GPTScratchConfig.__annotations__ if field in settings}
    else:
        return open_model(locate(name, revision).place).config
    try:
        return GPTScratchConfig(**fields)
    except StrictDataclassError as error:
        raise ConversionError(f"{file} describes no valid model: {error.__cause__ or error}") from error


def open_model(place: Path) -> GPTScratchForCausalLM:
    """The model of a source in its own dtype, in evaluation mode, after its logits are found to be the source's.

    Raises:
        `ConversionError`: it is of no format that can be read without being told more, is damaged or a classifier, or
            its logits are not finite.
    """
    try:
        checkpoint = without_prefix(load_checkpoint(find_checkpoint(place)))
        reading = FORMATS[recognise(place, checkpoint, None)].read(checkpoint)
    except (OSError, SafetensorError) as error:  # the latter: a damaged file
        raise ConversionError(f"{place} cannot be read: {error}") from error
    if not isinstance(reading.model, GPTScratchForCausalLM):
        raise ConversionError(f"{place} is a classifier, and no language model")
    compare_logits(reading.model, reading.reference)
    return reading.model


def _config_file(name: str, revision: str | None) -> Path:
    if not is_local(name, revision):
        try:
            return Path(hf_hub_download(name, "config.json", revision=revision))
        except Exception:  # whatever it is, the whole source is missing too, or needs none; which one, it says itself
            pass
    return find_source(name, revision) / "config.json"
