"""What is known of how a model came to be: the record of the run whose folder it lies in, and its evaluations."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult

from training.errors import InputError
from training.files import weights_sha256

from .contents import parts_in

TASK = re.compile(r"\w[\w.-]*")  # lm-eval's names of tasks, which become names of files


@dataclass(frozen=True)
class RunRecord:
    """The record of a finished pretraining run.

    Args:
        recipe: recipe.yaml, every setting resolved.
        run: run.json: versions, hardware, data and the result.
        files: those that a release takes.
    """

    recipe: dict[str, Any]
    run: dict[str, Any]
    files: tuple[Path, ...]

    @property
    def corpus(self) -> dict[str, Any]:
        """What the text was, as its preparation has recorded it: the recipe may name no more than the prepared data."""
        return self.run["data"]["corpus"]

    @property
    def dataset(self) -> str | None:
        """The corpus' name on the Hub, or `None` for one that is not there."""
        return self.corpus["corpus"] if "revision" in self.corpus else None

    @property
    def is_stdlib(self) -> bool:
        """Whether the corpus is Python's standard library, and not a folder of that name."""
        return "python" in self.corpus


def read_record(model: Path) -> RunRecord | None:
    """The record of the run that wrote a model folder, or `None` for a model that comes from elsewhere.

    Raises:
        InputError: the record is damaged or not of these weights, or the run is not finished.
    """
    folder = model.resolve().parent
    if model.resolve().name != "model" or not all((folder / name).is_file() for name in ("recipe.yaml", "run.json")):
        return None
    try:
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"the run's record beside {model} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(recipe, dict) or not isinstance(run, dict) or "corpus" not in run.get("data", {}):
        raise InputError(f"the run's record beside {model} is damaged: recipe.yaml or run.json lacks settings or data")
    if "result" not in run:
        raise InputError(f"the run of {model} is not finished: run.json beside it has no result")
    if run["result"].get("model_sha256") != weights_sha256(model):
        raise InputError(
            f"the weights in {model} are not those that the run beside it wrote, so its record says nothing of them: "
            "move the model folder out of the run folder to publish it without a record"
        )
    return RunRecord(recipe, run, tuple(parts_in(folder, "run")))


def results_of_run(record: RunRecord) -> list[EvalResult]:
    """The run's own measurements on text that it has not trained on."""
    name = f"{describe_corpus(record)}, held-out {{}} part"
    return [
        EvalResult(
            task_type="text-generation",
            task_name="Language modelling",
            dataset_type=record.corpus["corpus"],
            dataset_name=name.format(part),
            dataset_split=part,
            metric_type=metric,
            metric_name=metric_name,
            metric_value=round(value, 4),
        )
        for part, prefix in (("validation", "eval"), ("test", "test"))
        for metric, metric_name, value in (
            ("loss", "Loss (nats per token)", record.run["result"][f"{prefix}_loss"]),
            ("perplexity", "Perplexity", math.exp(record.run["result"][f"{prefix}_loss"])),
            ("bits_per_byte", "Bits per byte", record.run["result"][f"{prefix}_bits_per_byte"]),
        )
    ]


def describe_corpus(record: RunRecord) -> str:
    """The training text, in words."""
    if record.dataset:
        return f"the dataset {record.dataset}"
    if record.is_stdlib:
        return f"the source of Python {record.corpus['python']}'s standard library"
    return f"text that is not published here (`{record.corpus['corpus']}`)"


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
