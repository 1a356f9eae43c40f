"""What is known of how a model came to be: the record of the run whose folder it lies in, and its evaluations."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from training.errors import InputError
from training.files import weights_sha256
from training.record import MODEL, RECIPE, RECORD, program_of, read_recipe, read_record

from .contents import parts_in

TASK = re.compile(r"\w[\w.-]*")  # lm-eval's names of tasks, which become names of files
# Of a language model, in words.
MEASURES = {"loss": "Loss (nats per token)", "perplexity": "Perplexity", "bits_per_byte": "Bits per byte"}


@dataclass(frozen=True)
class RunRecord:
    """The record of a finished run.

    Args:
        recipe: recipe.yaml, every setting resolved.
        run: run.json: versions, hardware, data and the result.
        files: those that a release takes.
    """

    recipe: dict[str, Any]
    run: dict[str, Any]
    files: tuple[Path, ...]

    @property
    def program(self) -> str:
        """The program whose run it was, such as `pretrain`."""
        return program_of(self.run)

    @property
    def parent(self) -> dict[str, Any]:
        """What training/parent.py has recorded of the weights that the run began with; empty for random ones."""
        return self.run.get("parent") or {}

    @property
    def base_model(self) -> str | None:
        """The name on the Hub of the model that the run began with, or `None` for one that is not from there."""
        return self.parent["name"] if self.parent.get("revision") else None

    @property
    def tokens_before(self) -> tuple[int, bool]:
        """Tokens that the weights were trained on before the run, as far as records say; and whether these say all."""
        tokens, parent = 0, self.parent
        while parent:
            if "tokens" not in parent:
                return tokens, False
            tokens, parent = tokens + parent["tokens"], parent["parent"]
        return tokens, True

    @property
    def is_from_scratch(self) -> bool:
        return self.program == "pretrain" and not self.parent

    @property
    def corpus(self) -> dict[str, Any]:
        """What the text was, as its preparation has recorded it: the recipe may name no more than the prepared data.

        Empty where a program has trained on something else.
        """
        return self.run["data"].get("corpus", {})

    @property
    def corpora(self) -> list[dict[str, Any]]:
        """The corpus, or each of several that it consists of."""
        return self.corpus.get("corpora", [self.corpus]) if self.corpus else []

    @property
    def datasets(self) -> list[str]:
        """The names on the Hub of those that are there."""
        return [corpus["corpus"] for corpus in self.corpora if "revision" in corpus]

    @property
    def is_stdlib(self) -> bool:
        """Whether the corpus is Python's standard library, and not a folder of that name."""
        return "python" in self.corpus


def record_of(model: Path) -> RunRecord | None:
    """The record of the run that wrote a model folder, or `None` for a model that comes from elsewhere.

    Raises:
        InputError: the record is damaged or not of these weights, or the run is not finished.
    """
    folder = model.resolve().parent
    described = all((folder / name).is_file() for name in (RECIPE, RECORD))
    if model.resolve().name != MODEL or not described:
        return None
    try:
        record = RunRecord(read_recipe(folder), read_record(folder), tuple(parts_in(folder, "run")))
    except InputError as error:
        raise InputError(f"the run's record beside {model} cannot be read: {error}") from None
    if not isinstance(record.run["data"], dict) or (record.is_from_scratch and not record.corpus):
        raise InputError(f"the run's record beside {model} is damaged: {RECORD} does not say what its text was")
    if "result" not in record.run:
        raise InputError(f"the run of {model} is not finished: {RECORD} beside it has no result")
    if record.run["result"].get("model_sha256") != weights_sha256(model):
        raise InputError(
            f"the weights in {model} are not those that the run beside it wrote, so its record says nothing of them: "
            "move the model folder out of the run folder to publish it without a record"
        )
    return record


def results_of_run(record: RunRecord, task: str) -> list[EvalResult]:
    """The run's own measurements on examples that it has not trained on.

    Args:
        task: of the model on the Hub, such as `text-generation`.
    """
    text = describe_corpus(record) or f"data of `{record.program}`"
    is_language_model = task == "text-generation"
    measures_of = _language_measures if is_language_model else _measures
    return [
        EvalResult(
            task_type=task,
            task_name="Language modelling" if is_language_model else task.replace("-", " ").capitalize(),
            dataset_type=record.corpus.get("corpus", "unknown"),
            dataset_name=f"{text}, held-out {part} part",
            dataset_split=part,
            metric_type=metric,
            metric_name=MEASURES.get(metric, metric) if is_language_model else metric,
            metric_value=round(value, 4),
        )
        for part, prefix in (("validation", "eval"), ("test", "test"))
        for metric, value in measures_of(record.run["result"], prefix)
    ]


def _language_measures(result: dict[str, Any], prefix: str) -> list[tuple[str, float]]:
    """What is measured of a language model, as far as a result has it."""
    loss = result.get(f"{prefix}_loss")
    perplexity = None if loss is None else math.exp(loss)
    found = (("loss", loss), ("perplexity", perplexity), ("bits_per_byte", result.get(f"{prefix}_bits_per_byte")))
    return [(metric, value) for metric, value in found if value is not None]


def _measures(result: dict[str, Any], prefix: str) -> list[tuple[str, float]]:
    """Whatever a result says of the quality on a part of the data; not how much that was, and how long it took."""
    found = {name.removeprefix(f"{prefix}_"): value for name, value in result.items() if name.startswith(f"{prefix}_")}
    return [
        (metric, value)
        for metric, value in found.items()
        if isinstance(value, float) and metric != "runtime" and not metric.endswith("_per_second")
    ]


def describe_corpus(record: RunRecord) -> str | None:
    """The training text, in words; `None` where it was something else."""
    if not record.corpus:
        return None
    described = [_describe(corpus) for corpus in record.corpora]
    weights = record.recipe.get("corpus_weights")
    if weights and len(weights) == len(described):
        described = [f"{text} ({weight / sum(weights):.0%})" for text, weight in zip(described, weights, strict=True)]
    return " and ".join([", ".join(described[:-1]), described[-1]] if len(described) > 1 else described)


def _describe(corpus: dict[str, Any]) -> str:
    if "revision" in corpus:
        return f"the dataset {corpus['corpus']}"
    if "python" in corpus:
        return f"the source of Python {corpus['python']}'s standard library"
    return f"text that is not published here (`{corpus['corpus']}`)"


def results_of_lm_eval(file: Path) -> list[EvalResult]:
    """The results in a file that lm-eval has written (`lm_eval run ... --output_path`).

    Raises:
        InputError: it is no such file.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        tasks = content["results"].items()
        return [
            EvalResult(
                task_type="text-generation",
                task_name=task,
                dataset_type=content["configs"][task].get("dataset_path") or task,
                dataset_name=task,
                dataset_config=content["configs"][task].get("dataset_name"),
                dataset_split=content["configs"][task].get("test_split")
                or content["configs"][task].get("validation_split"),
                metric_type=key.split(",")[0],
                metric_name=f"{key.split(',')[0]}, {content['n-shot'][task]}-shot",
                metric_value=round(value, 4),
                source_name=f"lm-eval {content['lm_eval_version']}",
                source_url="https://github.com/EleutherAI/lm-evaluation-harness",
            )
            for task, values in tasks
            if task in content["configs"] and TASK.fullmatch(task)  # groups have no configuration
            for key, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value) and "_stderr" not in key and "," in key
        ]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{file} holds no results of lm-eval ({type(error).__name__}: {error})") from None
