"""
A release is a folder that holds exactly what goes to the Hub. It is prepared from a model folder, and checked by
opening it where this project cannot be imported.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from safetensors.torch import save_file
from transformers import GPT2LMHeadModel, PreTrainedModel

import modeling_gpt_scratch
from modeling_gpt_scratch.conversion import LOGITS_TOLERANCE, to_gpt2
from modeling_gpt_scratch.conversion.tokenizer import TOKENIZER_FILES
from training.errors import InputError
from training.files import sha256_of

from . import stranger
from .card import CardFacts, problems_of_card, write_card
from .confidential import personal_data_in, secrets_in
from .contents import CODE_FILES, parts_in
from .environments import environment_with
from .record import RunRecord, read_record, results_of_lm_eval, results_of_run
from .source import NATIVE_CLASS, TASKS, problems_of_source, read_config

FIRST_TAG = "v1"
PROBE_LENGTH = 16
# Of a row's logits in fp32, alone and beside a longer one: the order of summation differs.
PADDING_TOLERANCE = 1e-4

# What the fresh process gets of the user's variables: no token, cache or mode of theirs. Libraries may come through
# PYTHONPATH; this project does not, however it is found (see stranger.py).
KEPT_VARIABLES = re.compile(
    r"PATH|PYTHONPATH|LD_LIBRARY_PATH|HOME|TMPDIR|LANG|LC_\w+|(OMP|MKL)_\w+|CUDA_\w+|(https?|all|no)_proxy|(HTTPS?|ALL|NO)_PROXY"
    r"|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|DO_NOT_TRACK"
    r"|HF_ENDPOINT|HF_HUB_DISABLE_\w+|HF_HUB_\w+_TIMEOUT|HF_XET_CLIENT_\w+"
)


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
        license: of the weights, as the Hub writes it; `None` means apache-2.0 for what this project has trained, and
            unknown for what comes from elsewhere.
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
    record = read_record(model)
    measured = [result for file in evaluations for result in results_of_lm_eval(file)]
    network, auto_class, pipeline_tag = _open(model)
    source, taken = network, [file for file in parts_in(model, "model") if not (native and file.name in CODE_FILES)]
    if native and not isinstance(network, GPT2LMHeadModel):
        try:
            network = to_gpt2(network)
            network.save_pretrained(folder)
        except ValueError as error:  # a ConversionError, or settings that the library does not save
            raise InputError(" ".join(str(error).split())) from None
        taken = [file for file in taken if file.name in TOKENIZER_FILES]
    for file in (*taken, *(record.files if record else ())):
        _place(file, folder)
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
        base_model=base_model,
        opened_with=(),
        license=license or ("apache-2.0" if record else "unknown"),
        languages=languages,
        record=record,
        results=(*(results_of_run(record) if record else ()), *measured),
    )
    own_card = model / "README.md"
    left = sorted(path.name for path in model.iterdir() if path != own_card and not (folder / path.name).exists())
    release = Release(folder, facts, own_card if own_card.is_file() else None, tuple(left), _probe(source))
    try:
        return describe(release)
    except KeyError as error:
        raise InputError(f"the run's record beside {model} lacks {error}: it cannot be told from it") from None


def describe(release: Release, **changes: Any) -> Release:
    """Writes the card, after changes to its facts."""
    release = replace(release, facts=replace(release.facts, **changes))
    (release.folder / "README.md").write_text(write_card(release.facts, release.own_card), encoding="utf-8")
    return release


def check_release(release: Release, token: str | None = None, versions: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Everything that can be known before a file is sent; offline, but for what pip downloads.

    Args:
        token: the one that will be used, which no file may hold.
        versions: of Transformers, to open the release with beside those that are installed here.

    Returns:
        What the fresh processes have found that opened the release, once for each set of versions: first the one with
        the libraries of this process.

    Raises:
        InputError: the release must not be published; lists every problem. Or a version cannot be installed.
    """
    problems = secrets_in(release.folder, token)
    if release.facts.record:
        problems += personal_data_in(release.facts.record, release.facts.repo_id.split("/")[0])
    problems += problems_of_card((release.folder / "README.md").read_text(encoding="utf-8"), release.facts)
    opened: list[dict[str, Any]] = []

    def open_with(python: str, prefix: str = "") -> None:
        try:
            found = open_as_stranger(release, str(release.folder), python=python, environment={"HF_HUB_OFFLINE": "1"})
        except InputError as error:
            problems.append(f"{prefix}{error}")
        else:
            problems.extend(f"{prefix}{problem}" for problem in problems_found(release, found))
            if found["versions"] not in (other["versions"] for other in opened):
                opened.append(found)

    open_with(sys.executable)
    for version in () if problems else versions:  # installing takes minutes
        if version not in (found["versions"]["transformers"] for found in opened):
            with environment_with(version) as python:
                open_with(python, f"with Transformers {version}: ")
    if problems:
        raise InputError("\n".join(problems))
    return opened


def open_as_stranger(
    release: Release,
    place: str,
    *,
    python: str = sys.executable,
    revision: str | None = None,
    sha256: dict[str, str] | None = None,
    environment: dict[str, str],
    fill_cache: Callable[[Path], object] | None = None,
) -> dict[str, Any]:
    """Opens a folder or repository in a fresh process that cannot import this project, and has no token.

    Args:
        place, revision, sha256: see stranger.py.
        python: the interpreter, with whose libraries it is opened.
        environment: variables to set there.
        fill_cache: puts what nobody could download without a token into the process' cache, which is empty otherwise.

    Raises:
        InputError: it does not open there.
    """
    with tempfile.TemporaryDirectory() as elsewhere:
        workplace = Path(elsewhere)
        save_file(release.probe, workplace / "probe.safetensors")
        request = {
            "place": place,
            "revision": revision,
            "trust_remote_code": not release.facts.native,
            "auto_class": release.facts.auto_class,
            "task": release.facts.pipeline_tag,
            "threads": torch.get_num_threads(),
            "probe": str(workplace / "probe.safetensors"),
            "sha256": sha256,
        }
        if fill_cache is not None:
            fill_cache(workplace / "home" / "hub")
        (workplace / "request.json").write_text(json.dumps(request), encoding="utf-8")
        kept = {name: value for name, value in os.environ.items() if KEPT_VARIABLES.fullmatch(name)}
        # Another environment's libraries are its own alone.
        isolation = "-P" if python == sys.executable else "-I"
        finished = subprocess.run(
            [python, isolation, stranger.__file__, str(workplace / "request.json")],
            cwd=workplace,
            env={**kept, "HF_HOME": str(workplace / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment},
            capture_output=True,
            text=True,
            check=False,
        )
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or ["no message"]
        raise InputError(f"the process that opens {place} ended with {finished.returncode}: {lines[-1]}")
    found = json.loads(finished.stdout.splitlines()[-1])
    if "error" in found:
        raise InputError(f"{place} does not open in a process without this project: {found['error']}")
    return found


def problems_found(release: Release, found: dict[str, Any]) -> list[str]:
    """What is wrong with what a fresh process found."""
    if found.get("altered"):
        return [f"these files are not what was sent: {', '.join(found['altered'])}"]
    problems = []
    expected = "transformers." if release.facts.native else "transformers_modules."
    if not found["code"].startswith(expected):
        problems.append(f"the model ran {found['code']}, not the code that comes with the release")
    problems += [
        f"{kind} weights: {', '.join(found[kind])}" for kind in ("missing", "unexpected", "mismatched") if found[kind]
    ]
    if not found["finite"]:
        problems.append("the logits are not finite")
    elif "logits_difference" not in found:
        problems.append("the logits have the shape {}, but the source's have {}".format(*found["logits_shape"]))
    # Not bit by bit: a kernel for other instructions or of another version adds up in another order, which changes the
    # logits by up to about 1e-6 of the largest.
    elif not found["logits_difference"] <= LOGITS_TOLERANCE * release.probe["logits"].abs().max().item():
        problems.append(f"the logits differ from the source folder's by {found['logits_difference']:.2e}")
    if not found["padding_difference"] <= PADDING_TOLERANCE:
        problems.append(f"a row that is padded on the left gives other logits ({found['padding_difference']:.2e})")
    if not _covers(found, release.facts.record):
        problems.append(
            f"the tokenizer has {found['tokens']:,} tokens, but vocab_size is {found['vocab_size']:,}: it belongs to "
            "another model"
        )
    problems += [
        f"{name} is {there}, but the tokenizer's is {tokenizer}: put the file right"
        for name, (tokenizer, there) in found["special_tokens"].items()
        if tokenizer != there
        and not (isinstance(there, list) and tokenizer in there)
        and not (tokenizer is None and there == _stand_in(name, found["special_tokens"]))
    ]
    tokenizer_length, positions = found["lengths"]
    if tokenizer_length > positions:
        shown = f"{tokenizer_length:,}" if tokenizer_length < 10**9 else "not set"
        problems.append(
            f"the tokenizer's model_max_length is {shown}, but the model has {positions:,} positions: set it, and save "
            "the tokenizer again"
        )
    return problems


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


def _stand_in(name: str, special_tokens: dict[str, list[Any]]) -> int | None:
    """What a file may say of a token that the tokenizer lacks: that texts are padded with its end-of-text token."""
    return special_tokens[name.replace("pad_", "eos_")][0] if name.startswith("pad_") else None


def _covers(found: dict[str, Any], record: RunRecord | None) -> bool:
    """
    Whether a vocabulary is a tokenizer's, perhaps rounded up: as its recipe says, or as GPUs like it. That of the run
    itself may have run out of text before it had as many tokens as it was to have.
    """
    tokens, vocab_size = found["tokens"], found["vocab_size"]
    if record and record.run["data"].get("tokenizer_sha256") == found["tokenizer_sha256"]:
        return tokens <= vocab_size
    multiples = {2**power for power in range(11)}
    if record and record.recipe.get("pad_vocab_to_multiple_of"):
        multiples.add(record.recipe["pad_vocab_to_multiple_of"])
    return any(vocab_size == -(-tokens // multiple) * multiple for multiple in multiples)


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
