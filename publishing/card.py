"""The model card: filled from the run's record and measurements, and saying of itself what is not known."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedConfig

from modeling_gpt_scratch.conversion import fits_gpt2
from training.errors import InputError

from .contents import LOSS_CHART
from .record import RunRecord, describe_corpus

TEMPLATE = Path(__file__).with_name("model_card.md")
REQUIRED = ("license", "library_name", "pipeline_tag", "language")
LANGUAGE = re.compile(r"[a-z]{2,3}|code|multilingual")
# What became of the positions of the model that a run began with, by what its record says of new ones.
NEW_POSITIONS = {
    None: "the first {now:,} of {trained:,} trained ones",
    "interpolate": "{now:,}, interpolated from {trained:,} trained ones",
    "begin": "{now:,}; those beyond the {trained:,} of before began anew",
}
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
    return str(
        ModelCard.from_template(
            metadata,
            template_path=str(TEMPLATE),
            facts=facts,
            name=facts.repo_id.split("/")[1],
            origin=_origin(facts),
            sizes=_sizes(facts),
            training=_training(facts.record) if facts.record else {},
            charted=bool(facts.record) and any(file.name == LOSS_CHART for file in facts.record.files),
            convertible=facts.pipeline_tag == "text-generation" and not facts.native and fits_gpt2(facts.config),
        )
    )


def problems_of_card(text: str, facts: CardFacts) -> list[str]:
    """Why a card cannot be published."""
    data = ModelCard(text).data.to_dict()
    required = list(REQUIRED)
    if facts.record and facts.record.datasets:
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
        datasets=(facts.record.datasets or None) if facts.record else None,
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


def _origin(facts: CardFacts) -> str:
    """How the model came to be, in words that follow its name and a comma."""
    record = facts.record
    base = f"[{facts.base_model}](https://huggingface.co/{facts.base_model})" if facts.base_model else None
    if record is None or record.is_from_scratch:
        if base:
            return f"tuned from {base}"
        return f"trained from scratch on {describe_corpus(record)}" if record else "whose training is not recorded here"
    text = f" on {describe_corpus(record)}" if record.corpus else ""
    if not base and not record.parent:
        return f"trained by gpt-scratch's `{record.program}`{text}"
    began_with = base or f"`{record.parent['name']}`"
    if record.program == "pretrain":
        return f"continued from {began_with}{text} (see [Training](#training))"
    return f"trained by gpt-scratch's `{record.program}`{text}, beginning with {began_with} (see [Training](#training))"


def _training(record: RunRecord) -> dict[str, str]:
    """Title -> what the record and the recipe say; programs differ in what they have to say."""
    recipe, run, result = record.recipe, record.run, record.run["result"]
    starts = run.get("starts") or [run]  # a run may go on elsewhere, or with other versions
    shares = result | {"share": result["tokens"] / result["parameters"]} if "tokens" in result else result
    clipping = (
        "no clipping" if recipe.get("max_grad_norm", "") in (0, None) else "gradients clipped at {max_grad_norm:g}"
    )
    optimizer = "{optim}, learning rate {learning_rate:g}; weight decay {weight_decay:g}, " + clipping
    if recipe.get("muon_learning_rate"):
        optimizer = "Muon at {muon_learning_rate:g} for the blocks' matrices; the rest by " + optimizer
    warmup = "of the run" if 0 < (recipe.get("warmup_steps") or 0) < 1 else "steps"
    initial = {f"initial_{name}": value for name, value in result.get("initial", {}).items()}
    rows = {
        **({} if record.is_from_scratch else _descent(record)),
        **_data(record),
        "Tokens seen": _told("{tokens:,} ({share:.1f} for each parameter)", shares) + _before(record),
        "Steps": _told("{steps:,} of {tokens_per_step:,} tokens", recipe | result) or _told("{steps:,}", result),
        "Optimizer": _told(optimizer, recipe),
        "Schedule": _told("{schedule}, warm-up {warmup_steps:g} " + warmup, recipe),
        "Precision": _told("{precision}", recipe),
        "Hardware": _distinct("{device}, {count} {unit} ({system})".format_map(start["hardware"]) for start in starts),
        "Time": ", ".join(
            filter(None, (_duration(result["seconds"]), _told("{tokens_per_second:,.0f} tokens a second", result)))
        ),
        "Versions": _distinct(
            ", ".join(f"{name} {version}" for name, version in start["versions"].items()) for start in starts
        ),
        "Trained by commit": _distinct(
            f"`{start['git_commit']}` of gpt-scratch" if start.get("git_commit") else "not recorded" for start in starts
        ),
        "Validation loss": _told("{initial_eval_loss:.4f} at first, {eval_loss:.4f} at the end", result | initial),
    }
    return {title: value for title, value in rows.items() if value}


def _told(sentence: str, known: dict[str, Any]) -> str:
    """The sentence with its values; nothing where one of them is not known."""
    try:
        return sentence.format_map({name: value for name, value in known.items() if value is not None})
    except KeyError:
        return ""


def _before(record: RunRecord) -> str:
    """What the weights were trained on before the tokens of a run, to follow those."""
    if not record.parent or "tokens" not in record.run["result"]:
        return ""
    tokens, is_all = record.tokens_before
    if not tokens:
        return " in this run; what its first weights were trained on is not recorded here"
    return f" in this run; its first weights on {'' if is_all else 'at least '}{tokens:,} before"


def _descent(record: RunRecord) -> dict[str, str]:
    parent = record.parent
    if not parent:
        return {"Program": f"`{record.program}`"}
    weights = ", ".join(f"`{file}` with the sha256 `{sha256}`" for file, sha256 in parent["weights"].items())
    commit = f" at the commit `{parent['revision']}`" if parent["revision"] else ""
    rows = {"Program": f"`{record.program}`", "Began with": f"`{parent['name']}`{commit}: {weights}"}
    if "positions" in parent:
        rows["Positions"] = _told(NEW_POSITIONS[parent["positions"]["new"]], parent["positions"])
    return rows


def _data(record: RunRecord) -> dict[str, str]:
    """The corpus; or what a program has recorded instead, where one value says it."""
    if not record.corpus:
        known = {name: value for name, value in record.run["data"].items() if isinstance(value, str | int | float)}
        return {"Data": ", ".join(f"{name} {value}" for name, value in known.items())}
    size = [f"{record.corpus[unit]:,} {unit}" for unit in ("documents", "characters") if record.corpus.get(unit)]
    return {"Text": ", ".join([describe_corpus(record), *size]), "Text's sha256": f"`{record.corpus['sha256']}`"}


def _distinct(descriptions: Iterable[str]) -> str:
    """What is said of the starts of a run, each once."""
    return "; then ".join(dict.fromkeys(descriptions))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
