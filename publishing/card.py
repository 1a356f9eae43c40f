"""The model card: filled from the run's record and measurements, and saying of itself what is not known."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedConfig

from modeling_gpt_scratch.conversion import fits_gpt2
from training.errors import InputError

from .record import RunRecord, describe_corpus

TEMPLATE = Path(__file__).with_name("model_card.md")
REQUIRED = ("license", "library_name", "pipeline_tag", "language")
LANGUAGE = re.compile(r"[a-z]{2,3}|code|multilingual")
UNFINISHED = re.compile(r"\bTODO\b|(?i:more information needed)")


@dataclass(frozen=True)
class CardFacts:
    """What a card tells of a model.

    Args:
        repo_id: where it will be, `owner/name`.
        auto_class: the class that opens it.
        pipeline_tag: its task on the Hub.
        config: the model's configuration.
        parameters: how many.
        dtype: of the weights.
        native: whether it is the library's own GPT-2, without code of its own.
        code: name -> sha256 of the code files.
        revision: the tag that the snippets pin; `None` where nobody knows a name for the commit beforehand.
        base_model: the repository of the model that it was tuned from, where that is known.
        opened_with: the versions of `transformers`, `torch` and `python` with each of which the release was opened.
        license, languages: of the card's metadata; no languages mean those of the corpus.
        record: of the run that made it, where that is known.
        results: measurements.
    """

    repo_id: str
    auto_class: str
    pipeline_tag: str
    config: PreTrainedConfig
    parameters: int
    dtype: str
    native: bool
    code: dict[str, str]
    revision: str | None
    base_model: str | None
    opened_with: tuple[dict[str, str], ...]
    license: str
    languages: tuple[str, ...]
    record: RunRecord | None
    results: tuple[EvalResult, ...]


def write_card(facts: CardFacts, own_card: Path | None) -> str:
    """The text of README.md.

    Args:
        own_card: the author's, which is kept as it is; only what its metadata lack is added.

    Raises:
        InputError: the author's card has metadata that are no YAML.
    """
    metadata = _metadata(facts)
    if own_card is not None:
        try:
            card = ModelCard(own_card.read_text(encoding="utf-8"))
        except (ValueError, TypeError, yaml.YAMLError) as error:
            raise InputError(f"README.md's metadata cannot be read: {' '.join(str(error).split())}") from None
        missing = {name: value for name, value in metadata.to_dict().items() if card.data.get(name) is None}
        for name, value in missing.items():
            card.data[name] = value
        return str(card)
    sizes = _sizes(facts)
    training = _training(facts.record) if facts.record else []
    return str(
        ModelCard.from_template(
            metadata,
            template_path=str(TEMPLATE),
            facts=facts,
            name=facts.repo_id.split("/")[1],
            sizes=sizes,
            training=training,
            corpus=describe_corpus(facts.record) if facts.record else None,
            charted=bool(facts.record) and any(file.name == "loss.png" for file in facts.record.files),
            convertible=facts.pipeline_tag == "text-generation" and not facts.native and fits_gpt2(facts.config),
        )
    )


def problems_of_card(text: str, facts: CardFacts) -> list[str]:
    """Why a card cannot be published."""
    data = ModelCard(text).data.to_dict()
    required = list(REQUIRED)
    if facts.record and facts.record.dataset:
        required.append("datasets")
    if facts.results:
        required += ["metrics", "model-index"]
    problems = [f"README.md's metadata have no {name}" for name in required if not data.get(name)]
    languages = data.get("language") or []
    problems += [
        f"README.md's metadata name the language {language!r}, which is no ISO 639 code, `code` or `multilingual`"
        for language in ([languages] if isinstance(languages, str) else languages)
        if not LANGUAGE.fullmatch(str(language))
    ]
    unfinished = UNFINISHED.search(text)
    if unfinished:
        problems.append(
            f"README.md still says {unfinished.group()!r}: complete it, or delete it, and one is written from what is "
            "known of the model"
        )
    return problems


def _metadata(facts: CardFacts) -> ModelCardData:
    languages = facts.languages
    if not languages:
        # "und" is ISO 639's word for a language that nobody has named.
        languages = ("code",) if facts.record and facts.record.is_stdlib else ("und",)
    return ModelCardData(
        language=list(languages),
        license=facts.license,
        library_name="transformers",
        pipeline_tag=facts.pipeline_tag,
        base_model=facts.base_model,
        tags=["gpt-scratch", *(["gpt2"] if facts.native else [])],
        datasets=[facts.record.dataset] if facts.record and facts.record.dataset else None,
        metrics=list(dict.fromkeys(result.metric_type for result in facts.results)) or None,
        model_name=facts.repo_id.split("/")[1],
        eval_results=list(facts.results) or None,
    )


def _sizes(facts: CardFacts) -> dict[str, str]:
    config = facts.config
    names = {
        "Layers": "num_hidden_layers",
        "Width": "hidden_size",
        "Attention heads": "num_attention_heads",
        "Vocabulary": "vocab_size",
        "Positions": "max_position_embeddings",
    }
    sizes = {title: f"{getattr(config, name):,}" for title, name in names.items()}
    tied = "tied to" if config.tie_word_embeddings else "separate from"
    return {
        "Parameters": f"{facts.parameters:,}",
        **sizes,
        "Output head": f"{tied} the token embedding" if facts.pipeline_tag == "text-generation" else "classification",
        "Weights": facts.dtype,
    }


def _training(record: RunRecord) -> dict[str, str]:
    recipe, run, result = record.recipe, record.run, record.run["result"]
    size = [f"{record.corpus[unit]:,} {unit}" for unit in ("documents", "characters") if record.corpus.get(unit)]
    shares = f"{result['tokens'] / result['parameters']:.1f} for each parameter"
    optimizer = f"{recipe['optim']}, learning rate {recipe['learning_rate']:g}"
    if recipe["muon_learning_rate"]:
        optimizer = f"Muon at {recipe['muon_learning_rate']:g} for the blocks' matrices; the rest by {optimizer}"
    starts = run.get("starts") or [run]  # a run may go on elsewhere, or with other versions
    rows = {
        "Text": ", ".join([describe_corpus(record), *size]),
        "Text's sha256": f"`{record.corpus['sha256']}`",
        "Tokens seen": f"{result['tokens']:,} ({shares})",
        "Steps": f"{result['steps']:,} of {recipe['tokens_per_step']:,} tokens",
        "Optimizer": f"{optimizer}; weight decay {recipe['weight_decay']:g}, "
        + (f"gradients clipped at {recipe['max_grad_norm']:g}" if recipe["max_grad_norm"] else "no clipping"),
        "Schedule": f"{recipe['schedule']}, warm-up {recipe['warmup_steps']:g} "
        + ("of the run" if 0 < recipe["warmup_steps"] < 1 else "steps"),
        "Precision": recipe["precision"],
        "Hardware": _distinct("{device}, {count} {unit} ({system})".format_map(start["hardware"]) for start in starts),
        "Time": f"{_duration(result['seconds'])}, {result['tokens_per_second']:,.0f} tokens a second",
        "Versions": _distinct(
            ", ".join(f"{name} {version}" for name, version in start["versions"].items()) for start in starts
        ),
        "Trained by commit": _distinct(
            f"`{start['git_commit']}` of gpt-scratch" if start.get("git_commit") else "not recorded" for start in starts
        ),
    }
    if "initial" in result and "eval_loss" in result["initial"]:
        rows["Validation loss"] = f"{result['initial']['eval_loss']:.4f} at first, {result['eval_loss']:.4f} at the end"
    return rows


def _distinct(descriptions: Iterable[str]) -> str:
    """What is said of the starts of a run, each once."""
    return "; then ".join(dict.fromkeys(descriptions))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
