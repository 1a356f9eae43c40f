"""A release is a folder that holds exactly what goes to the Hub, prepared from a model folder."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from transformers import AutoTokenizer, GPT2LMHeadModel, PreTrainedModel

import modeling_gpt_scratch
from modeling_gpt_scratch.conversion import to_gpt2
from modeling_gpt_scratch.conversion.gpt2_tokenizer import as_gpt2_tokenizer
from modeling_gpt_scratch.conversion.tokenizer import TOKENIZER_FILES
from training.errors import InputError
from training.files import sha256_of

from .card import CardFacts, write_card
from .contents import CODE_FILES, parts_in
from .record import RunRecord, record_of, results_of_lm_eval, results_of_run
from .source import NATIVE_CLASS, TASKS, problems_of_source, read_config

FIRST_TAG = "v1"
PROBE_LENGTH = 16


@dataclass(frozen=True)
class Release:
    """A prepared release.

    Args:
        folder: holds exactly the files to publish.
        facts: what the card says.
        own_card: the author's README.md, where there is one.
        left_at_home: names in the model folder that are not published.
        probe: token ids of shape `(1, T)` and the source model's logits for them, by name.
    """

    folder: Path
    facts: CardFacts
    own_card: Path | None
    left_at_home: tuple[str, ...]
    probe: dict[str, torch.Tensor]

    @property
    def files(self) -> dict[str, Path]:
        """Path in the repository -> file."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in paths}


@contextmanager
def staging_folder(model: Path) -> Iterator[Path]:
    """Gives an empty hidden folder on the model's disk, where weights need no second copy; removes it at the end.

    Where that cannot be written, the folder is among the system's temporary ones.
    """
    parent = next(parent for parent in model.resolve().parents if parent.exists())
    try:
        staging = tempfile.TemporaryDirectory(dir=parent, prefix=".release-")
    except OSError:
        staging = tempfile.TemporaryDirectory(prefix=".release-")
    with staging as folder:
        yield Path(folder)


def prepare_release(
    model: Path,
    folder: Path,
    repo_id: str,
    *,
    native: bool = False,
    revision: str | None = FIRST_TAG,
    base_model: str | None = None,
    license: str | None = None,
    languages: tuple[str, ...] = (),
    evaluations: tuple[Path, ...] = (),
) -> Release:
    """Fills a folder with what goes to the Hub.

    Args:
        model: a model folder, such as a finished run's.
        folder: an empty folder to fill.
        repo_id: where the release will go, `owner/name`, for the card.
        native: publish as the library's own `GPT2LMHeadModel`, without code.
        revision: the tag that the card's snippets pin, if any.
        base_model: the repository of the model that this one was tuned from, for the card.
        license: of the weights, as the Hub writes it; `None` means apache-2.0 for what this project has trained from
            scratch, and unknown for what came from elsewhere, or began with what did.
        languages: of the text, as ISO 639 codes, `code` or `multilingual`.
        evaluations: files that lm-eval has written.

    Raises:
        InputError: no release can be made of it; lists every problem.
    """
    problems = problems_of_source(model, native)
    if problems:
        raise InputError("\n".join(problems))
    if any(folder.iterdir()):
        raise InputError(f"{folder} is not empty, and all that it holds would be published: choose an empty folder")
    record = record_of(model)
    measured = [result for file in evaluations for result in results_of_lm_eval(file)]
    source, auto_class, pipeline_tag = _open(model)
    network = _fill(folder, model, source, record, native)
    _write_benchmark_results(folder, measured)
    facts = CardFacts(
        repo_id=repo_id,
        auto_class=auto_class,
        pipeline_tag=pipeline_tag,
        config=network.config,
        parameters=network.num_parameters(),
        dtype=str(network.dtype).removeprefix("torch."),
        native=native,
        code={file.name: sha256_of(file) for file in sorted(folder.glob("*.py"))},
        revision=revision,
        base_model=base_model or (record.base_model if record else None),
        opened_with=(),
        license=license or ("apache-2.0" if record and record.is_from_scratch else "unknown"),
        languages=languages,
        record=record,
        results=(*(results_of_run(record, pipeline_tag) if record else ()), *measured),
    )
    return describe(Release(folder, facts, *_left_out(model, folder), _probe(source)))


def describe(release: Release, **changes: Any) -> Release:
    """Writes the card, after changes to its facts.

    Raises:
        InputError: the author's card cannot be read, or the run's record does not say what every run's does.
    """
    release = replace(release, facts=replace(release.facts, **changes))
    try:
        card = write_card(release.facts, release.own_card)
    except KeyError as error:
        raise InputError(f"the run's record lacks {error}, so no card can be written from it") from None
    (release.folder / "README.md").write_text(card, encoding="utf-8")
    return release


def _open(model: Path) -> tuple[PreTrainedModel, str, str]:
    """The source's model in evaluation mode, by this project's own code, with its Auto class and task."""
    architecture = read_config(model)["architectures"][0]
    if architecture == NATIVE_CLASS:
        network_class, auto_class, pipeline_tag = GPT2LMHeadModel, *TASKS["GPTScratchForCausalLM"]
    else:
        network_class, (auto_class, pipeline_tag) = getattr(modeling_gpt_scratch, architecture), TASKS[architecture]
    try:
        return network_class.from_pretrained(model).eval(), auto_class, pipeline_tag
    except Exception as error:  # whatever a damaged folder makes the library raise
        raise InputError(f"{model} does not open: {' '.join(str(error).split())}") from None


def _fill(
    folder: Path, model: Path, source: PreTrainedModel, record: RunRecord | None, native: bool
) -> PreTrainedModel:
    """Puts model and record into an empty folder; returns the model as it is published."""
    network, taken = source, [file for file in parts_in(model, "model") if not (native and file.name in CODE_FILES)]
    if native and not isinstance(source, GPT2LMHeadModel):
        try:
            network = to_gpt2(source)
            network.save_pretrained(folder)
        except ValueError as error:  # a ConversionError, or settings that the library does not save
            raise InputError(" ".join(str(error).split())) from None
        taken = [file for file in taken if file.name in TOKENIZER_FILES]
        tokenizer = as_gpt2_tokenizer(AutoTokenizer.from_pretrained(model, trust_remote_code=False)) if taken else None
        if tokenizer is not None:  # under a name that other engines and older releases know
            tokenizer.save_pretrained(folder)
            taken = []
    for file in (*taken, *(record.files if record else ())):
        _place(file, folder)
    return network


def _left_out(model: Path, folder: Path) -> tuple[Path | None, tuple[str, ...]]:
    """The author's own card, which is no file of the release as it is, and names of what is not published."""
    own_card = model / "README.md"
    left = sorted(path.name for path in model.iterdir() if path != own_card and not (folder / path.name).exists())
    return own_card if own_card.is_file() else None, tuple(left)


def _place(file: Path, folder: Path) -> None:
    """The same file under another name where the disk allows it: weights are large, and nothing writes to them."""
    if file.suffix == ".safetensors":
        with suppress(OSError):
            os.link(file.resolve(), folder / file.name)
            return
    shutil.copyfile(file, folder / file.name)


@torch.no_grad()
def _probe(network: PreTrainedModel) -> dict[str, torch.Tensor]:
    length = min(PROBE_LENGTH, network.config.max_position_embeddings)
    torch.set_float32_matmul_precision("highest")
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(network.config.vocab_size, (1, length), generator=generator)
    return {"input_ids": input_ids, "logits": network.float()(input_ids).logits.contiguous()}


def _write_benchmark_results(folder: Path, results: list[Any]) -> None:
    """The first measure of each benchmark that is on the Hub, in the form that leaderboards there read."""
    first = {result.task_name: result for result in reversed(results) if "/" in result.dataset_type}
    for task, result in first.items():
        entry = EvalResultEntry(
            dataset_id=result.dataset_type,
            task_id=task,
            value=result.metric_value,
            source_name=result.source_name,
            source_url=result.source_url,
            notes=result.metric_name,
        )
        (folder / ".eval_results").mkdir(exist_ok=True)
        text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)
        (folder / ".eval_results" / f"{task}.yaml").write_text(text, encoding="utf-8")
